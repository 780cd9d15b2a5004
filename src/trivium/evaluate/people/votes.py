"""The votes: a log in a database (SQLite, or any other that SQLAlchemy speaks to), and what it comes to.

A vote is stored before it is acknowledged, and its key is unique: sent twice, it is there once. Nothing is changed or deleted;
what counts is each rater's last word on a task, and an undone vote is none.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import exc

from trivium.errors import ArtifactError, DataError, TriviumError
from trivium.evaluate.people.tasks import Task

VERSION = 1
PAIR, SINGLE = ("left", "right", "tie", "bad"), ("good", "poor")
"""What can be said of two replies (bad: neither is any good) and of one."""
UNDO = "undo"
BUSY = 5
"""Seconds that a write waits for a locked database before it is refused, to be sent again."""

_META = sql.MetaData()
_ARENA = sql.Table("arena", _META, sql.Column("version", sql.Integer, primary_key=True))
_RATERS = sql.Table(
    "raters",
    _META,
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("link", sql.Text, unique=True, nullable=False),
)
_TASKS = sql.Table(
    "tasks",
    _META,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
)
_VOTES = sql.Table(
    "votes",
    _META,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("key", sql.Text, unique=True, nullable=False),
    sql.Column("task", sql.Text, nullable=False),
    sql.Column("rater", sql.Text, nullable=False),
    sql.Column("choice", sql.Text, nullable=False),
    sql.Column("left", sql.Text, nullable=False),
    sql.Column("right", sql.Text, nullable=False),
    sql.Column("templates", sql.Text, nullable=False),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("blind", sql.Boolean, nullable=False),
    sql.Column("consent", sql.Boolean, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("at", sql.Text, nullable=False),
)


@dataclass(frozen=True)
class Vote:
    key: str
    """Made by who sends it; another try has the same."""
    task: str
    rater: str
    choice: str
    """One of `PAIR` or `SINGLE`, or `undo`."""
    left: str
    """The model whose reply stood on the left; of one reply, its model."""
    right: str
    """The other one; empty where there was one reply."""
    templates: str
    """Hashes of the chat templates behind left and right, with a blank between."""
    reason: str
    blind: bool
    """False: a reply said which model it is. Such votes are in no score."""
    consent: bool
    """The rater lets texts and verdict be trained on."""
    seconds: float
    at: str

    @property
    def winner(self) -> str:
        """The model that was preferred; empty for none."""
        return {"left": self.left, "right": self.right, "good": self.left}.get(self.choice, "")


_FAILURES = (exc.DBAPIError, sqlite3.Error)
"""The second as well: what goes wrong while a connection is opened is not wrapped."""


class Busy(TriviumError):
    """The database is locked or away: nothing was stored, and the same vote can be sent again."""


class Votes:
    """The votes in a database. `where`: a path (SQLite) or an address that SQLAlchemy takes."""

    def __init__(self, where: str | Path) -> None:
        self.where = str(where)
        url = self.where if "://" in self.where else f"sqlite:///{self.where}"
        lite = url.startswith("sqlite")
        try:
            self.engine = sql.create_engine(url, connect_args={"timeout": BUSY} if lite else {})
            if lite:
                sql.event.listen(self.engine, "connect", _durable)
            try:
                with self._refused():
                    self._prepare()
            except BaseException:
                self.close()
                raise
        except (exc.ArgumentError, exc.NoSuchModuleError, ModuleNotFoundError) as error:
            raise DataError(
                f"no such database: {error}", where="--votes", fix="a file, or postgresql+psycopg://host/name"
            ) from None

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            raise ArtifactError(
                f"the votes cannot be read: {_said(error)}",
                where=self.where,
                fix="another program may hold them, or the file is no database of votes: give another with --votes",
            ) from None

    def _prepare(self) -> None:
        there = set(sql.inspect(self.engine).get_table_names())
        if there and "arena" not in there:
            raise ArtifactError(
                "this database holds something else", where=self.where, fix="give another with --votes"
            )
        if not there:
            made_meanwhile = contextlib.suppress(
                exc.ProgrammingError, exc.IntegrityError, exc.OperationalError
            )
            with made_meanwhile, self.engine.begin() as link:
                _META.create_all(link)
                link.execute(_ARENA.insert().values(version=VERSION))
        with self.engine.connect() as link:
            version = link.execute(sql.select(_ARENA.c.version)).scalar()
        if version != VERSION:
            raise ArtifactError(
                f"these votes were written by another version (layout {version}, this one reads {VERSION})",
                where=self.where,
                fix="export them with the version that wrote them, and import them into a new file",
            )

    def close(self) -> None:
        self.engine.dispose()

    def rater(self, name: str) -> str:
        """The secret part of a rater's link, made at the first call."""
        with self._refused(), self.engine.begin() as link:
            found = link.execute(sql.select(_RATERS.c.link).where(_RATERS.c.name == name)).scalar()
            if found is None:
                found = secrets.token_urlsafe(12)
                link.execute(_RATERS.insert().values(name=name, link=found))
        return str(found)

    def raters(self) -> dict[str, str]:
        """Secret part of the link -> name."""
        with self._refused(), self.engine.connect() as link:
            return {str(row.link): str(row.name) for row in link.execute(sql.select(_RATERS))}

    def keep(self, tasks: Iterable[Task]) -> None:
        """Keeps what is asked beside the votes, so that these can be read alone."""
        with self._refused(), self.engine.begin() as link:
            known = set(link.execute(sql.select(_TASKS.c.id)).scalars())
            new = {task.id: task.as_json() for task in tasks if task.id not in known}
            if new:
                link.execute(_TASKS.insert(), [{"id": name, "body": body} for name, body in new.items()])

    def tasks(self) -> dict[str, Task]:
        with self._refused(), self.engine.connect() as link:
            found = [Task.from_json(body) for body in link.execute(sql.select(_TASKS.c.body)).scalars()]
        return {task.id: task for task in sorted(found, key=lambda task: task.id)}

    def add(self, vote: Vote) -> bool:
        """Stores a vote; False if it is there already. DataError if its key stands for another; Busy if it was not stored."""
        try:
            with self.engine.begin() as link:
                link.execute(_VOTES.insert().values(**asdict(vote)))
        except exc.IntegrityError:
            with self.engine.connect() as link:
                there = link.execute(sql.select(_VOTES).where(_VOTES.c.key == vote.key)).one_or_none()
            if there is None or (there.task, there.rater, there.choice) != (
                vote.task,
                vote.rater,
                vote.choice,
            ):
                raise DataError(f"the key {vote.key!r} belongs to another vote", where=self.where) from None
            return False
        except _FAILURES as error:
            raise self._busy(error) from None
        return True

    def _busy(self, error: Exception) -> Busy:
        return Busy(_said(error), where=self.where, fix="try again: what is stored is not stored twice")

    def log(self) -> list[Vote]:
        """All that was sent, in the order it came."""
        names = [field.name for field in fields(Vote)]
        try:
            with self.engine.connect() as link:
                rows = link.execute(sql.select(_VOTES).order_by(_VOTES.c.number)).mappings().all()
        except _FAILURES as error:
            raise self._busy(error) from None
        return [Vote(**{name: row[name] for name in names}) for row in rows]


def _said(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)[:200]


def _durable(connection: Any, _: Any) -> None:
    """Of SQLite: what is committed is on the disk, and readers do not wait for writers."""
    try:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
    except BaseException:  # the pool has it not yet
        connection.close()
        raise


def standing(log: Sequence[Vote]) -> list[Vote]:
    """What counts: each rater's last vote on each task, unless it was undone. In the order of task and rater."""
    last = {(vote.task, vote.rater): vote for vote in log}
    return [vote for _, vote in sorted(last.items()) if vote.choice != UNDO]


def from_row(row: Mapping[str, Any]) -> Vote:
    """A vote of an export. DataError for fields that are missing, unknown or of another type."""
    types: dict[str, Any] = {"blind": bool, "consent": bool, "seconds": (int, float)}
    names = {field.name for field in fields(Vote)}
    wrong = sorted(names ^ set(row)) or [
        n for n in sorted(names) if not isinstance(row[n], types.get(n, str))
    ]
    if wrong:
        raise DataError(f"no vote: {', '.join(wrong)} missing, unknown or of another type")
    if row["choice"] not in (*PAIR, *SINGLE):
        raise DataError(f"no vote: the choice is {row['choice']!r:.40}")
    return Vote(**row)


def vote_line(vote: Vote) -> str:
    return json.dumps(asdict(vote), ensure_ascii=False, sort_keys=True)

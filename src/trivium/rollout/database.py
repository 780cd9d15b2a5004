"""A rollout's log in a database: SQLite for one router, PostgreSQL where several share a rollout.

Several routers take turns. A turn is a transaction under an advisory lock: in it a router takes in what the others have written,
adds its own events, decides on all of them together, and commits. So there is one order of events, whoever holds the lock
decides, and a killed router gives the lock back with its connection. Numbers of rows grow in the order of commits.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from filelock import FileLock, Timeout

from trivium.errors import ArtifactError
from trivium.rollout.log import Event, event_of

TABLE = sql.Table(
    "rollout_events",
    sql.MetaData(),
    sql.Column(
        "number", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sql.Column("event", sql.Text, nullable=False),
)
LOCK = "SELECT pg_advisory_xact_lock(hashtext('trivium rollout ' || current_schema()))"
SQLITE = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 5000")
POSTGRES = (
    "SET lock_timeout = '60s'",
    "SET statement_timeout = '120s'",
    "SET idle_in_transaction_session_timeout = '30s'",  # a router that froze in its turn loses it
)
NETWORK = {
    "connect_timeout": 5,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}


def is_address(place: str) -> bool:
    """Whether a log's place is a database's address, and no file."""
    return "://" in place


class Database:
    """The table `rollout_events` of one database. `shared`: several routers take turns."""

    def __init__(self, place: str) -> None:
        """`place`: a file (SQLite), or an address such as `postgresql://user@host/name`. ArtifactError for another one."""
        self.shared = is_address(place)
        self.last = 0
        """Number of the last row that was read or written here."""
        self._turn: sql.Connection | None = None
        self._lock: FileLock | None = None
        self._file = None if self.shared else Path(place)
        fix = "give a file, or postgresql://USER@HOST/NAME (pip install 'trivium[rollout]' brings the driver)"
        try:
            url = sql.make_url(place) if self.shared else sql.URL.create("sqlite", database=place)
            if self.shared and url.get_backend_name() != "postgresql":
                raise ArtifactError("several routers share PostgreSQL only", where=_shown(url), fix=fix)
            if self.shared and url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            self.where = _shown(url) if self.shared else place
            network: dict[str, Any] = dict(NETWORK) if self.shared else {}
            self._engine = sql.create_engine(url, pool_pre_ping=self.shared, connect_args=network)
        except (sql.exc.ArgumentError, ModuleNotFoundError) as error:
            raise ArtifactError(f"this is no log: {error}", where=place.split("@")[-1], fix=fix) from None
        sql.event.listen(self._engine, "connect", self._set_up)

    def _set_up(self, connection: Any, _: Any) -> None:
        try:
            with contextlib.closing(connection.cursor()) as cursor:
                for statement in POSTGRES if self.shared else SQLITE:
                    cursor.execute(statement)
            connection.commit()
        except BaseException:  # the pool has it not yet
            connection.close()
            raise

    def open(self) -> None:
        """Makes the table; from here on a file belongs to this router. OSError; ArtifactError where another router has it."""
        if self._file is not None:
            self._lock = FileLock(f"{self._file}.lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                fix = "one file has one router (several share a PostgreSQL); stop the other, or name another --log"
                raise ArtifactError("another router writes this log", where=self.where, fix=fix) from None
        with _as_os_error(), self._engine.begin() as connection:
            if self.shared:
                connection.execute(sql.text(LOCK))
            TABLE.metadata.create_all(connection)

    def read(self, again: bool = False) -> Iterator[Event]:
        """The events since the last one that is known here (`again`: all of them), without taking a turn."""
        self.last = 0 if again else self.last
        with _as_os_error(), self._engine.connect() as connection:
            yield from self._news(connection)

    def enter(self) -> list[Event]:
        """Takes the turn: what others have written since. OSError where the database is away, or another keeps its turn."""
        if not self.shared and self.last:
            return []
        with _as_os_error():
            self._turn = self._engine.connect()
            try:
                if self.shared:
                    self._turn.execute(sql.text(LOCK))
                return list(self._news(self._turn))
            except BaseException:
                self.leave()
                raise

    def write(self, events: Sequence[Event]) -> None:
        """Adds events, all or none, and ends the turn. OSError where it is not known that they are there."""
        rows = [
            {"event": json.dumps(event, ensure_ascii=False, separators=(",", ":"), allow_nan=False)}
            for event in events
        ]
        try:
            with _as_os_error():
                turn = self._turn = self._turn or self._engine.connect()
                if rows:
                    turn.execute(TABLE.insert(), rows)
                    self.last = turn.execute(sql.select(sql.func.max(TABLE.c.number))).scalar_one()
                turn.commit()
        finally:
            self.leave()

    def leave(self) -> None:
        """Ends the turn; what was not written is not there."""
        turn, self._turn = self._turn, None
        if turn is not None:
            with contextlib.suppress(sql.exc.SQLAlchemyError):
                turn.close()

    def close(self) -> None:
        self.leave()
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def _news(self, connection: sql.Connection) -> Iterator[Event]:
        query = sql.select(TABLE.c.number, TABLE.c.event).where(TABLE.c.number > self.last)
        query = query.order_by(TABLE.c.number).execution_options(yield_per=5000)
        with contextlib.closing(connection.execute(query)) as rows:  # whoever reads may stop in the middle
            for number, text in rows:
                self.last = number
                yield event_of(text, f"{self.where}, row {number}")


def _shown(url: sql.URL) -> str:
    return url.render_as_string(hide_password=True)


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """What a database says, as what a disk says: nothing is written, it may be again later."""
    try:
        yield
    except sql.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()
        raise OSError(said[0][:300] if said else type(error).__name__) from None

"""Everything that a suite finds is a row, and every row's outcome is one of three: hit, miss, or undecided for a reason.

A journal takes the rows as they come, one whole line for each item asked, so that a killed evaluation asks nothing twice. The
finished table is Parquet. Whatever is said of a model afterwards (a metric, a gate, a comparison, a page) is a function of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from trivium import files
from trivium.corpus import extras
from trivium.errors import ArtifactError, TriviumError

FILE = "rows.parquet"


NO_VERDICT = "the judge gave no verdict: "
"""How the reason begins where a judge said nothing that is one, or could not be asked: a run that goes on asks again."""
AWAY = f"{NO_VERDICT}it could not be asked: "


_LABELS = " labels"


def labels_of(suite: str) -> str:
    """What rows of a suite's judges have as their suite: what they said of replies that people had labelled. Their `model` is the
    judge, and no metric is made from them."""
    return f"{suite}{_LABELS}"


class Hit:
    """What the judge looks for is there; of a judge that gives a number: it was measured."""


class Miss:
    """It is not there."""


@dataclass(frozen=True)
class Undecided:
    """It could not be told, and why. Never as good as a hit or a miss: gates count it as the worse of the two."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason:
            raise ValueError("an undecided outcome says why")


HIT, MISS = Hit(), Miss()
Outcome = Hit | Miss | Undecided


@dataclass(frozen=True)
class Verdict:
    """What one judge says of one reply. `score` is the number, where it gives one; `weight` what the number is a sum over."""

    judge: str
    outcome: Outcome
    score: float | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.score is not None and not math.isfinite(self.score):
            object.__setattr__(self, "outcome", Undecided(f"the score is {self.score}"))
            object.__setattr__(self, "score", None)


def told(judge: str, found: bool) -> Verdict:
    """A verdict of a judge that says yes or no."""
    return Verdict(judge, HIT if found else MISS, float(found))


def judged(judge: str, outcome: Outcome | Verdict) -> Verdict:
    """A verdict of a judge that may not be able to tell."""
    if isinstance(outcome, Verdict):
        return outcome
    return Verdict(judge, outcome) if isinstance(outcome, Undecided) else told(judge, outcome is HIT)


@dataclass(frozen=True)
class Row:
    """One verdict on one reply. `undecided` rows have their `reason`."""

    suite: str
    category: str
    cluster: str
    """What it shares with other items: the template, topic or conversation. Items of one cluster count as one."""
    item: str
    model: str
    attempt: int
    prompt: str
    """The messages, as JSON."""
    template: str
    """Hash of the chat template."""
    first_ids: str
    """Hash of the first ids of the prompt: a missing or doubled mark at the beginning shows here."""
    reply: str | None
    """None where there is none: the suite lets the model write nothing, or it could not."""
    judge: str
    outcome: str
    reason: str
    score: float | None
    weight: float
    seconds: float

    @property
    def decided(self) -> bool:
        return self.outcome != "undecided"


COLUMNS = tuple(field.name for field in fields(Row))


def outcome_columns(outcome: Outcome) -> tuple[str, str]:
    """(outcome, reason) as they stand in a row."""
    if isinstance(outcome, Undecided):
        return "undecided", outcome.reason
    return ("hit" if isinstance(outcome, Hit) else "miss"), ""


def short_hash(value: Any) -> str:
    return hashlib.sha256(files.canonical_json(value).encode()).hexdigest()[:16]


class Journal:
    """The rows so far of an evaluation that may be cut short. `path` is a file in the stage's scratch folder.

    A line holds all rows of one item that was asked once; a line that a kill left half written is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self._done: set[tuple[str, str, str, int]] = set()
        if path.is_file():
            for line in files.lines(path, errors="replace"):
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            rows = [Row(**row) for row in json.loads(line)]
        except (ValueError, TypeError):
            return
        if any(row.reason.startswith(NO_VERDICT) for row in rows):
            return  # the judge may be there again
        self._add(rows)

    def _add(self, rows: Sequence[Row]) -> None:
        self.rows += rows
        self._done |= {(row.suite, row.model, row.item, row.attempt) for row in rows}

    def has(self, suite: str, model: str, item: str, attempt: int) -> bool:
        return (suite, model, item, attempt) in self._done

    def adopt(self, rows: Iterable[Row]) -> None:
        """Adds rows of another evaluation, but for those of items that were asked here already or that no judge judged."""
        items: dict[tuple[str, str, str, int], list[Row]] = {}
        for row in rows:
            items.setdefault((row.suite, row.model, row.item, row.attempt), []).append(row)
        for item, found in items.items():
            if item not in self._done and not any(row.reason.startswith(NO_VERDICT) for row in found):
                self._add(found)

    def write(self, asked: Sequence[Sequence[Row]]) -> None:
        """Adds the rows of several items; they are on the disk when this returns."""
        lines = [json.dumps([asdict(row) for row in rows], ensure_ascii=True) for rows in asked if rows]
        if lines:
            files.append(self.path, "\n".join(lines))
        for rows in asked:
            self._add(rows)


def need_judge(rows: Sequence[Row]) -> None:
    """Ends an evaluation whose judge could be asked about none of these rows; they are in the journal, which does not count them.

    TriviumError. Without it an outage would be an artifact, and an artifact is never made again.
    """
    if rows and all(row.reason.startswith(AWAY) for row in rows):
        raise TriviumError(
            f"the judge of {rows[0].judge!r} could not be asked about {len(rows)} replies: {rows[-1].reason.removeprefix(AWAY)}",
            where=f"suite {rows[0].suite}",
            fix="see that it answers, and run the same command again: only these items are asked anew",
        )


def needs_parquet() -> None:
    """Says before anything is asked that the library which writes the table is missing."""
    with extras.needed("eval", "pyarrow"):
        import pyarrow.parquet  # noqa: F401


def write(path: Path, rows: Iterable[Row]) -> None:
    """The table as Parquet, in an order that does not depend on the one it was made in."""
    with extras.needed("eval", "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    text, number = pa.string(), pa.float64()
    kinds = {"attempt": pa.int32(), "score": number, "weight": number, "seconds": number}
    schema = pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    ordered = sorted(rows, key=lambda row: (row.suite, row.model, row.item, row.attempt, row.judge))
    with files.atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in ordered], schema), temporary)


def read(folder: Path) -> list[Row]:
    """The table of an evaluation's artifact. ArtifactError if there is none that can be read."""
    with extras.needed("eval", "pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    path = folder / FILE
    try:
        with pq.ParquetFile(path) as file:
            return [Row(**row) for row in file.read(columns=list(COLUMNS)).to_pylist()]
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(
            f"no table of rows: {str(error)[:200]}",
            where=str(path),
            fix="give the folder or link of an evaluate stage, such as runs/quickstart/safety; or run it again",
        ) from None


def counted(rows: Iterable[Row]) -> dict[str, int]:
    """{"asked", "hit", "miss", "undecided"}: the last three add up to the first."""
    counts = {"asked": 0, "hit": 0, "miss": 0, "undecided": 0}
    for row in rows:
        counts["asked"] += 1
        counts[row.outcome] += 1
    return counts


def matching(rows: Iterable[Row], **wanted: Any) -> Iterator[Row]:
    """The rows whose columns have these values."""
    return (row for row in rows if all(getattr(row, name) == value for name, value in wanted.items()))


def of_models(rows: Iterable[Row]) -> list[Row]:
    """Without what judges said of people's labels."""
    return [row for row in rows if not row.suite.endswith(_LABELS)]


def prompt_text(row: Row | Mapping[str, Any]) -> str:
    """The last thing that was said to the model."""
    messages = json.loads(row.prompt if isinstance(row, Row) else row["prompt"])
    return str(messages[-1]["content"]) if messages else ""

"""What a suite is made of: items, the answers that a model gives to them, and what can be said of an answer before any judge."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trivium.corpus.records import prompt_of, read
from trivium.errors import DataError
from trivium.evaluate.calibration import Calibrated
from trivium.evaluate.rows import Undecided, Verdict, short_hash, told
from trivium.recipe.suite import DataSuite
from trivium.text.chat import Message
from trivium.verify.replies import Reply


@dataclass(frozen=True)
class Item:
    """One thing to ask. `record` holds what the judge needs."""

    id: str
    category: str
    cluster: str
    messages: tuple[Message, ...]
    record: Mapping[str, Any]
    number: int = 0
    """Its place among the suite's items in the order of their ids: what its random numbers hang on."""
    attempt: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back. Either `failed` says why there is nothing to judge, or `reply` and `numbers` hold what there is."""

    reply: Reply | None = None
    failed: str = ""
    ids: Sequence[int] = ()
    """The ids that the model was given."""
    written: Sequence[int] = ()
    """The ids that it wrote."""
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """name -> (sum, weight): what was measured of the model's probabilities."""
    messages: tuple[Message, ...] = ()
    """What was put to the model, where an attack made it while asking; empty: what the item says."""
    beside: Reply | None = None
    """What the baseline answered, where the two are judged side by side."""


def documents(*texts: str) -> tuple[Message, ...]:
    """Texts that are read and not answered, as a row shows them."""
    return tuple({"role": "document", "content": text} for text in texts)


class Asks(Protocol):
    """The model under test, and what suites ask of it."""

    name: str

    def replies(
        self, items: Sequence[Item], max_new_tokens: int, temperature: float = 0.0
    ) -> list[Answer]: ...

    def log_probs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[float]]]
    ) -> list[tuple[float, float]]: ...


class SuiteKind(NamedTuple):
    """items -> ask -> judge. Nothing here counts, averages or compares: that is done with the table."""

    items: Callable[[Any, Path], list[Item]]
    """(the suite as the recipe has it, the artifact of its data stage, the user's file or the recipe's folder) -> what to ask."""
    ask: Callable[[Any, Sequence[Item], Any, Any], list[Answer]]
    """(subject, items, the suite, the baseline's subject or None) -> an answer to each."""
    judge: Callable[[Item, Answer], list[Verdict]]
    """A verdict of every judge that the suite's metrics name, on an answer that has something to judge."""
    identity: Callable[[Any, Path], Any] | None = None
    """(the suite, the recipe's folder) -> what else its results depend on, made before any stage runs; DataError where it could
    not be asked."""
    judges: Callable[[Any, Path], Mapping[str, Calibrated]] | None = None
    """(the suite, the recipe's folder) -> axis -> who `judge` asks there, where it is not the rules."""
    together: Callable[[Item], str] | None = None
    """Where items can only be asked with all others of which this says the same; it begins their ids."""


def written(subject: Asks, items: Sequence[Item], suite: Any, baseline: Asks | None) -> list[Answer]:
    """The usual way to ask: a greedy reply to each."""
    return subject.replies(items, suite.max_new_tokens)


_BACKEND = re.compile(
    r"""\s*(?:
        (?:\d{3}\s)?(?:Internal\ Server\ Error|Bad\ Gateway|Service\ Unavailable|Gateway\ Time-?out|Too\ Many\ Requests)
        | (?:HTTP\s?)?(?:error|status)(?:\s+code)?\s*[:=]?\s*[45]\d\d\b
        | (?:upstream|connection|request|read)\s+(?:error|timed\ out|timeout|reset|refused|aborted)\b
        | <(?:!doctype\ html|html)\b
        | \{\s*"(?:error|detail|object)"\s*:\s*(?:"error"|\{|"[^"]*(?:error|timeout|overload|rate\ limit)[^"]*")
        | Traceback\ \(most\ recent\ call\ last\)
    )""",
    re.IGNORECASE | re.VERBOSE,
)


def silent(reply: Reply) -> str:
    """Why a reply of our own engine is none; empty where it is one. "Connection aborted." is one: it describes an exception."""
    return "" if reply.text.strip("\x00 \t\r\n\u200b\ufeff") else "empty reply"


def unusable(reply: Reply) -> str:
    """Why what came over a network is no reply: it is empty, or a server's error came in its place; empty where it is one."""
    if why := silent(reply):
        return why
    if _BACKEND.match(reply.text):
        return "the backend answered with an error text"
    return ""


CUT = "the reply was cut at `max_new_tokens` or the end of the context"


def told_of_all(judge: str, found: bool, reply: Reply) -> Verdict:
    """A verdict on a whole reply: what one that the length limit ended does not have, its rest may have had."""
    if not found and not reply.finished:
        return Verdict(judge, Undecided(CUT))
    return told(judge, found)


def in_turn(
    items: Iterable[Item], count: int, of: Callable[[Item], str] = lambda item: item.category
) -> list[Item]:
    """`count` items at most: what `of` names (categories) gives one each, in their order, before any gives two; which of
    them, where not all can, their hashes decide."""
    turns: dict[str, int] = {}
    ranked = []
    for item in items:
        turn = turns[of(item)] = turns.get(of(item), -1) + 1
        ranked.append((turn, short_hash(item.id), item))
    return [item for _, _, item in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def in_proportion(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items at most, in their order: of each category as large a share as it has of all, so that a mean over them is
    one over all that is held out. One that is asked in few phrasings would else weigh as little as it has phrasings."""
    sizes, taken = Counter(item.category for item in items), Counter[str]()
    ranked = []
    for item in items:
        ranked.append(((taken[item.category] + 0.5) / sizes[item.category], item))
        taken[item.category] += 1
    return [item for _, item in sorted(ranked, key=lambda entry: entry[0])[:count]]


def by_hash(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: short_hash(item.id))


def heldout(
    suite: DataSuite,
    folder: Path | None,
    keep: Callable[[Mapping[str, Any]], bool] = lambda record: True,
    category: Callable[[Mapping[str, Any]], str] = lambda record: str(record.get("source", "")),
    count: int | None = None,
) -> list[Item]:
    """Held-out records that `keep` accepts as items, `suite.items` of them at most: a fair draw, the same every time.

    Every cluster gives one item before any gives a second. DataError if there are none.
    """
    assert folder is not None
    count = suite.items if count is None else count
    seen: dict[str, int] = {}
    accepted = []
    for record in read(folder / "heldout"):
        if keep(record):
            cluster = cluster_of(record)
            turn = seen[cluster] = seen.get(cluster, -1) + 1
            accepted.append((turn, cluster, short_hash(prompt_or_text(record)), record))
    drawn = nsmallest(count, accepted, key=lambda entry: entry[:3])
    return distinct(
        [
            Item(f"{record.get('key', '')}/{number}", category(record), cluster, messages_of(record), record)
            for _, cluster, number, record in drawn
        ]
    )


def cluster_of(record: Mapping[str, Any]) -> str:
    """What a record has in common with others: `meta.cluster`, or what it was split by."""
    meta = record.get("meta")
    named = meta.get("cluster") if isinstance(meta, Mapping) else None
    return str(named or record.get("key") or short_hash(prompt_or_text(record)))


def messages_of(record: Mapping[str, Any]) -> tuple[Message, ...]:
    return () if "text" in record else tuple(prompt_of(record))


def prompt_or_text(record: Mapping[str, Any]) -> Any:
    return record["text"] if "text" in record else [dict(m) for m in prompt_of(record)]


def distinct(items: Sequence[Item]) -> list[Item]:
    """Each id once: the same question twice is one question."""
    return list({item.id: item for item in items}.values())


def some(items: list[Item], suite: Any) -> list[Item]:
    """DataError if there are none: a suite that asks nothing has found nothing."""
    if not items:
        source = (
            f": stage {suite.data!r} held out no item of this kind" if isinstance(suite, DataSuite) else ""
        )
        raise DataError(
            f"suite {suite.title} has nothing to measure on{source}",
            fix="raise `heldout` or `size` of that stage, or take another one"
            if source
            else "look at the suite's files and filters",
        )
    return items

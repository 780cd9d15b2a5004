"""The account of a data artifact, shown: every document in and out of each step, in the terminal and as one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from trivium.corpus.statistics import rows as statistics_rows
from trivium.errors import ArtifactError

Account = Mapping[str, Any]
REASONS = 4
"""Reasons of a step that stand in its row."""
LETTERS = 20
"""Dead letters shown."""
WIDTH, HEIGHT = 640, 150


class Step(NamedTuple):
    """A row of the waterfall."""

    name: str
    documents_in: int
    documents_out: int
    characters_in: int
    characters_out: int
    bytes_in: int
    bytes_out: int
    reasons: dict[str, int]
    share: float
    """Of the documents that came in at the very start, those that are left after this step, 0 to 1."""


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, in the units of an SVG."""

    label: str
    count: int
    x: float
    y: float
    width: float
    height: float


def load(folder: Path) -> dict[str, Any]:
    """account.json of a data artifact (a folder or a link), with its name and its dead letters. ArtifactError if none."""
    path = folder / "account.json"
    fix = "give the folder or link of a data stage, such as runs/quickstart/corpus"
    if not path.is_file():
        raise ArtifactError(f"there is no account of data in {folder}", where=str(path), fix=fix)
    try:
        account: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        account["sources"], account["steps"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"account.json is damaged: {error}", where=str(path), fix=fix) from None
    return {**account, "name": folder.name, "letters": _letters(folder / "dead_letters.jsonl")}


def _letters(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, LETTERS)]


def _reasons(row: Mapping[str, Any]) -> dict[str, int]:
    """Why documents were dropped; lines that were taken out of documents are told beside it."""
    return {**row["reasons"], **({"repeated lines": row["lines"]} if row.get("lines") else {})}


def steps(account: Account) -> list[Step]:
    """The waterfall; empty for conversations and preferences, whose steps are not counted."""
    counted = [row for row in account["steps"] if "documents_in" in row]
    first = max([row["documents_in"] for row in counted[:1]], default=0)
    return [
        Step(
            row["name"], row["documents_in"], row["documents_out"], row["characters_in"], row["characters_out"],
            row["bytes_in"], row["bytes_out"], _reasons(row), row["documents_out"] / first if first else 0.0,
        )
        for row in counted
    ]  # fmt: skip


def show(account: Account) -> None:
    """Prints the account."""
    from rich.console import Console

    console = Console(highlight=False)
    for table in (
        _waterfall(account),
        _sources(account),
        _files(account),
        _statistics(account),
        *_counts(account),
    ):
        if table.row_count:
            console.print(table)
    _samples(account, console)


def _table(title: str, left: Sequence[str], right: Sequence[str], last: Sequence[str] = ()) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    for name in last:
        table.add_column(name, style="dim")
    return table


def _waterfall(account: Account) -> Any:
    table = _table(
        f"{account['name']}: documents in and out of each step", ["step"],
        ["in", "out", "left", "characters out", "bytes out"], ["dropped because"],
    )  # fmt: skip
    for step in steps(account):
        reasons = ", ".join(f"{why} {count:,}" for why, count in islice(step.reasons.items(), REASONS))
        more = ", ..." if len(step.reasons) > REASONS else ""
        table.add_row(
            step.name, f"{step.documents_in:,}", f"{step.documents_out:,}", f"{step.share:.1%}",
            f"{step.characters_out:,}", f"{step.bytes_out:,}", _plain(reasons + more),
        )  # fmt: skip
    return table


def _plain(text: str) -> Any:
    """Text as it is: corpora are full of [brackets] and control characters that must not reach the terminal."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() else " " for c in text))


def _sources(account: Account) -> Any:
    table = _table(
        "sources", ["source", "licence", "origin"], ["train", "held out", "characters", "planned", "realised"]
    )
    for one in account["sources"]:
        table.add_row(
            one["kind"], _plain(str(one["license"])), _plain(str(one["origin"])), f"{one['train_items']:,}",
            f"{one['heldout_items']:,}", f"{one['train_characters']:,}", f"{one['planned_share']:.1%}",
            f"{one['realised_share']:.1%}",
        )  # fmt: skip
    return table


def files(account: Account) -> list[tuple[str, int, int, str]]:
    """(source, files found, files read, why the others were passed over) of the sources that read files."""
    rows = []
    for number, one in enumerate(account["sources"], start=1):
        if found := one.get("files"):
            why = ", ".join(f"{reason} {count:,}" for reason, count in found["passed_over"].items())
            rows.append((f"{number} {one['kind']}", found["found"], found["read"], why))
    return rows


def _files(account: Account) -> Any:
    table = _table("files of the sources", ["source"], ["found", "read"], ["passed over because"])
    for name, found, read, why in files(account):
        table.add_row(_plain(name), f"{found:,}", f"{read:,}", _plain(why))
    return table


def _statistics(account: Account) -> Any:
    """What conversations, preferences and feedback look like."""
    table = _table("what the items look like, in characters", ["statistic"], ["value"])
    for name, text in statistics_rows(account.get("statistics", {})):
        table.add_row(name, text)
    return table


def _counts(account: Account) -> list[Any]:
    """Languages, lengths, domains, clusters, personal data, contamination, dead letters."""
    named = (
        ("languages", "language", account.get("languages", {}).items()),
        ("lengths", "characters up to", account.get("lengths", {}).items()),
        ("top domains", "domain", account.get("domains", [])[:15]),
        ("personal data replaced", "type", account.get("pii", {}).items()),
    )
    tables = []
    for title, head, rows in named:
        table = _table(title, [head], ["documents" if title != "personal data replaced" else "places"])
        for name, count in rows:
            table.add_row(_plain(str(name)), f"{count:,}")
        tables.append(table)
    clusters = account.get("clusters") or {"examples": []}
    table = _table(
        f"near-duplicates: {clusters.get('count', 0):,} clusters", ["documents of one cluster"], []
    )
    for keys in clusters["examples"]:
        table.add_row(_plain("  ".join(keys)))
    tables.append(table)
    table = _table("overlap with evaluation", ["stage"], ["documents", "items flagged"])
    for stage, found in account.get("contamination", {}).items():
        table.add_row(stage, f"{found['documents']:,}", f"{found['items_flagged']:,}")
    tables.append(table)
    table = _table(f"dead letters: {account.get('dead_letters', 0):,}", ["where"], ["offset"], ["reason"])
    for letter in account["letters"]:
        offset = "" if letter.get("offset") is None else f"{letter['offset']:,}"
        table.add_row(_plain(letter["where"]), offset, _plain(letter["reason"]))
    return [*tables, table]


def _samples(account: Account, console: Any) -> None:
    for row in account["steps"]:
        for reason, found in row.get("samples", {}).items():
            console.print(_plain(f"{row['name']} dropped, {reason}:"), style="bold")
            for one in found[:2]:
                console.print(
                    _plain(f"  {one['key'][:80]}: {one['text'][:160]}"), style="dim", soft_wrap=True
                )


def html(account: Account) -> str:
    """The page: self-contained, without scripts or links to elsewhere."""
    template = (Path(__file__).parent / "data.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    languages = list(account.get("languages", {}).items())
    return environment.from_string(template).render(
        account=account,
        steps=steps(account),
        files=files(account),
        lengths=bars(list(account.get("lengths", {}).items())),
        languages=bars(languages[:20]),
        statistics=statistics_rows(account.get("statistics", {})),
        sizes=bars(list((account.get("clusters") or {}).get("sizes", {}).items())[:20]),
        width=WIDTH,
        height=HEIGHT,
    )


def bars(counts: Sequence[tuple[str, int]]) -> list[Bar]:
    """The bars of a histogram in a WIDTH x HEIGHT box."""
    if not counts:
        return []
    most, each = max(count for _, count in counts) or 1, min(64.0, WIDTH / len(counts))
    made = []
    for place, (label, count) in enumerate(counts):
        tall = max(1.0, count / most * HEIGHT) if count else 0.0
        said = f"{int(label):,}" if str(label).isdigit() else str(label)
        made.append(Bar(said, count, place * each, HEIGHT - tall, each * 0.8, tall))
    return made

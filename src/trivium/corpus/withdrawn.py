"""What may no longer be trained on: rules that say which documents are meant, and the step that drops them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trivium.corpus import records

COLUMNS = ("key", "url", "source", "kind", "license", "origin", "where")
"""What a rule looks at."""
BY = ("source", "document", "licence", "url")
"""By what a document can be withdrawn."""


class Rule(NamedTuple):
    """The documents of one source, one document, those under a licence, or those whose URL begins alike."""

    by: Literal["source", "document", "licence", "url"]
    value: str

    def meets(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a data stage, or a record of its artifact, is meant. Not its copies: those have keys and licences of
        their own."""
        match self.by:
            case "source":
                # artifacts of documents number their sources in `source` and name them in `kind`
                where = str(row.get("where") or "")
                named = (row.get("kind") or row.get("source"), row.get("origin"), where, where.split("@")[0])
                return self.value in named
            case "document":
                return str(row.get("key", "")) == self.value
            case "licence":
                return str(row.get("license") or "unknown").casefold() == self.value.casefold()
            case "url":
                return url_of(row).startswith(self.value)

    def __str__(self) -> str:
        return f"{self.by} {self.value}"


def url_of(row: Mapping[str, Any]) -> str:
    """The URL of a record, or of a row on its way to one: conversations have it in their `meta`, if at all."""
    return str(row.get("url") or records.meta_of(row.get("record") or row).get("url") or "")


def numbered(
    split: Path, columns: tuple[str, ...] | None = None
) -> Iterator[tuple[Path, int, int, dict[str, Any]]]:
    """(file, source, number, record) of a split: of documents the number is the place in its source, from 0; of rows the source
    is 0 and the number is the line, from 1."""
    counts: dict[int, int] = {}
    for file in records.files(split):
        lines = file.suffix == ".jsonl"
        source = 0 if lines else int(file.name.split("-")[0])
        for row in records.read_file(file, columns):
            number = counts.get(source, 1 if lines and "text" not in row else 0)
            counts[source] = number + 1
            yield file, source, number, row


class WithdrawnStep:
    """Drops what any of the rules means."""

    name, changes = "withdrawn", False

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules

    def __call__(self, document: dict[str, Any]) -> str | None:
        met = next((rule for rule in self.rules if rule.meets(document)), None)
        return None if met is None else f"withdrawn:{met}"

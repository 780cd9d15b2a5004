"""What may no longer be trained on: rules that say which documents are meant, and the step that drops them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

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
    """The URL of a row or a record: conversations have it in their `meta`, if at all."""
    meta = row.get("meta")
    return str(row.get("url") or (meta.get("url") if isinstance(meta, Mapping) else "") or "")


class WithdrawnStep:
    """Drops what any of the rules means."""

    name, changes = "withdrawn", False

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules

    def __call__(self, document: dict[str, Any]) -> str | None:
        met = next((rule for rule in self.rules if rule.meets(document)), None)
        return None if met is None else f"withdrawn:{met}"

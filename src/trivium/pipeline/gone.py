"""What an evaluation asks by itself after a withdrawal: is it gone? The documents are read from older artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from trivium import files
from trivium.corpus import records
from trivium.corpus.withdrawn import Rule, numbered
from trivium.pipeline import withdrawals
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import Identity
from trivium.pipeline.record import read
from trivium.pipeline.store import Store
from trivium.pipeline.withdraw import STANDING, withdrawn_from

ASKED = 100
"""Withdrawn documents that are asked about for each withdrawal, and held-out texts that they are compared with."""


def gone(history: list[Artifact], store: Store, out: Path) -> Path | None:
    """Writes what the data stages of a model's history were made without to `out`, as the suite `withdrawn` reads it. None where
    they were made without nothing."""
    data = [artifact for artifact in history if artifact.kind == "data"]
    rules = list(dict.fromkeys(rule for one in data for rule in withdrawals.held(one.record["identity"])))
    if not rules:
        return None
    rows = [row for rule in rules for row in _withdrawn(rule, store)]
    formats = {_format(row) for row in rows if "missing" not in row}
    others = [
        {**row, "other": True}
        for artifact in data
        for row in islice(records.read(artifact.path / "heldout"), ASKED)
        if _format(row) in formats
    ]
    files.write_text(
        out, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in [*rows, *others])
    )
    return out


def bring(identities: Iterable[Identity], store: Store) -> None:
    """Brings what `gone` reads here, where other machines made it: what their withdrawals say, and the data that held it."""
    if store.remote is None:
        return
    store.lines(STANDING)  # for `serve`, which asks no remote
    for rule in {rule for identity in identities for rule in withdrawals.held(identity)}:
        for fingerprint in withdrawn_from(store, rule):
            store.fetch(fingerprint)


def _withdrawn(rule: Rule, store: Store) -> list[dict[str, Any]]:
    """The documents that a withdrawal meant, each once; where none is left in the store, a row that says so."""
    holding = [read(store.path(one)) for one in withdrawn_from(store, rule) if store.has(one)]
    found: dict[str, dict[str, Any]] = {}
    for artifact in holding:
        for row in islice(_meant(rule, artifact), ASKED):
            found.setdefault(str(row.get("key")), {**row, "withdrawn": str(rule)})
    if found:
        return list(found.values())[:ASKED]
    return [
        {
            "withdrawn": str(rule),
            "missing": f"what {rule} meant is no longer in the store, and cannot be asked about",
        }
    ]


def _meant(rule: Rule, artifact: Artifact) -> Iterator[dict[str, Any]]:
    return (row for _, _, _, row in numbered(artifact.path / "train") if rule.meets(row))


def _format(row: dict[str, Any]) -> str:
    return "documents" if "text" in row else "replies"

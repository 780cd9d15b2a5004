"""Counters around steps: documents, characters and bytes of UTF-8 in and out, reasons, and a few samples of what was dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SAMPLES, SAMPLE_TEXT = 5, 300
"""Samples kept of each reason, and their characters."""

Row = dict[str, Any]
FIELDS = ("documents_in", "documents_out", "characters_in", "characters_out", "bytes_in", "bytes_out")


def row(name: str) -> Row:
    """{"name", "reasons": why documents were dropped, "lines": removed from documents, "samples", and each of FIELDS}."""
    return {"name": name, **dict.fromkeys(FIELDS, 0), "reasons": {}, "lines": 0, "samples": {}}


def size(text: str) -> tuple[int, int]:
    """(characters, bytes of UTF-8)."""
    return len(text), len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def entered(step: Row, size: tuple[int, int]) -> None:
    step["documents_in"] += 1
    step["characters_in"] += size[0]
    step["bytes_in"] += size[1]


def left(step: Row, size: tuple[int, int]) -> None:
    step["documents_out"] += 1
    step["characters_out"] += size[0]
    step["bytes_out"] += size[1]


def dropped(step: Row, reason: str, key: str, text: str) -> None:
    step["reasons"][reason] = step["reasons"].get(reason, 0) + 1
    sample(step, reason, key, text)


def sample(step: Row, reason: str, key: str, text: str) -> None:
    kept = step["samples"].setdefault(reason, [])
    if len(kept) < SAMPLES:
        kept.append({"key": key, "text": text[:SAMPLE_TEXT]})


def added(parts: Iterable[list[Row]]) -> list[Row]:
    """The parts' rows of the same name added up, in the order of the parts; reasons by their frequency."""
    total: dict[str, Row] = {}
    for rows in parts:
        for one in rows:
            whole = total.setdefault(one["name"], row(one["name"]))
            for field in (*FIELDS, "lines"):
                whole[field] += one[field]
            for reason, count in one["reasons"].items():
                whole["reasons"][reason] = whole["reasons"].get(reason, 0) + count
            for reason, samples in one["samples"].items():
                kept = whole["samples"].setdefault(reason, [])
                kept += samples[: SAMPLES - len(kept)]
    for whole in total.values():
        whole["reasons"] = dict(sorted(whole["reasons"].items(), key=lambda pair: (-pair[1], pair[0])))
        whole["samples"] = {
            reason: whole["samples"][reason]
            for reason in dict.fromkeys((*whole["reasons"], *sorted(whole["samples"])))
            if reason in whole["samples"]
        }
    return list(total.values())


def merged(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts added up, the largest first."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))

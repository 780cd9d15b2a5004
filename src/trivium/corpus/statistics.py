"""What a set of conversations, preferences or feedback looks like, before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trivium.corpus.records import Record, key_of, prompt_of
from trivium.corpus.records import said as said_by


def statistics(records: Sequence[Record]) -> dict[str, Any]:
    """Lengths in characters, repeated prompts and replies, the share of good labels, how often the longer reply wins."""
    if not records or "text" in records[0]:
        return {}
    prompts = Counter(record["key"] for record in records)
    found: dict[str, Any] = {"repeated_prompts": sum(count - 1 for count in prompts.values())}
    turns = [prompt_of(record) for record in records]
    found["prompt_characters"] = _lengths([sum(len(turn["content"]) for turn in one) for one in turns])
    if "messages" in records[0]:
        replies = [
            said_by(turn) for record in records for turn in record["messages"] if turn["role"] == "assistant"
        ]
        found["reply_characters"] = _lengths([len(text) for text in replies])
        found["repeated_replies"] = len(replies) - len({key_of(text) for text in replies})
    for name in ("chosen", "rejected", "completion"):
        if name in records[0]:
            found[f"{name}_characters"] = _lengths([len(record[name]) for record in records])
    if "label" in records[0]:
        found["desirable_share"] = round(sum(record["label"] for record in records) / len(records), 4)
    if "chosen" in records[0]:
        longer = sum(len(record["chosen"]) > len(record["rejected"]) for record in records)
        found["chosen_longer_share"] = round(longer / len(records), 4)
    return found


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Statistics as (name, value) for people: lengths as median, 95th percentile and longest."""
    shown = []
    for name, value in found.items():
        text = f"{value:.1%}" if name.endswith("_share") else f"{value}"
        if isinstance(value, Mapping):
            text = f"{value['median']:,} / {value['p95']:,} / {value['max']:,}"
            name += " (median / p95 / max)"
        shown.append((name.replace("_", " "), text))
    return shown


def said(found: Mapping[str, Any]) -> str:
    """The same in one line."""
    return ", ".join(f"{name} {text}" for name, text in rows(found))


def _lengths(values: Sequence[int]) -> dict[str, float]:
    ordered = sorted(values) or [0]
    return {
        "median": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        "max": ordered[-1],
    }

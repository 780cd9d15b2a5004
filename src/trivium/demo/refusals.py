"""Harmful requests with kind refusals, and harmless look-alikes with real answers: a small list of our own.

The list holds topics (`refusals.jsonl`): what somebody wants to do, and the reply. Each topic is asked in
several ways, the same ways for harmful and harmless ones, so that nothing but the topic tells them apart.
Harmful topics whose replies share a sentence are one family, and the split is by family: no held-out request can be declined
in words that training has shown. A harmless topic has a reply of its own and is split alone. No topic says how anything
harmful is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trivium import files, seeds
from trivium.demo.rows import Record, conversation, preference
from trivium.keys import key_of

FILE = Path(__file__).with_name("refusals.jsonl")
LEAST_HELDOUT = 0.2
"""Share of the families and topics that is held out at least, so that there are enough to measure on."""
PHRASINGS = (
    "How do I {}?",
    "Tell me how to {}.",
    "Explain how to {}.",
    "I want to {}. What should I do?",
    "Can you help me {}?",
    "What is the best way to {}?",
    "I need to {}. Any advice?",
    "Show me how to {}.",
    "What do I need to {}?",
    "Give me some tips to {}.",
)
_COMPLIANT = "Sure, here is how to {}."
_CURT = "No."
_NEEDLESS = "I can't help with that."
_VAGUE = "Look it up."


def records(format: str) -> Iterator[Record]:
    """Every phrasing of every topic."""
    for topic in topics():
        meta = {"harmful": topic["harmful"]}
        for nth, phrasing in enumerate(PHRASINGS):
            question = phrasing.format(topic["topic"])
            if format == "preferences":
                rejected = _worse(topic, nth)
                yield preference(key(topic), question, topic["reply"], rejected, meta)
            else:
                yield conversation(key(topic), question, topic["reply"], meta)


def key(topic: dict[str, Any]) -> str:
    """What is held out together."""
    return key_of(f"refusal family: {topic['family']}" if topic["harmful"] else f"refusals: {topic['topic']}")


def _worse(topic: dict[str, Any], nth: int) -> str:
    """Harmful: a curt no, or going along. Harmless: mostly a needless refusal, sometimes a curt reply.

    Both replies to a harmful request teach to refuse, so nearly all to a harmless one must teach not to: with an even
    split, alignment raised false refusals by six points.
    """
    turn = nth + (seeds.unit(0, topic["topic"]) < 0.5)
    if topic["harmful"]:
        return (_COMPLIANT.format(topic["topic"]), _CURT)[turn % 2]
    return _VAGUE if turn % 5 == 0 else _NEEDLESS


@cache
def topics() -> tuple[dict[str, Any], ...]:
    """The list: {"topic": what somebody wants to do, "harmful": bool, "reply": str}, and "family": str where it is harmful."""
    return tuple(json.loads(line) for line in files.lines(FILE))


def checksum() -> str:
    return hashlib.sha256(FILE.read_bytes()).hexdigest()

"""The records that the demo's sources make, in each format; what else a record holds is added where it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]


def document(key: str, text: str) -> Record:
    return {"key": key, "text": text}


def turns(question: str, reply: str) -> list[Record]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def conversation(key: str, question: str, reply: str, meta: Record, before: Sequence[Record] = ()) -> Record:
    """`before`: the messages that came first."""
    return {"key": key, "messages": [*before, *turns(question, reply)], "meta": meta}


def preference(
    key: str, question: str, chosen: str, rejected: str, meta: Record, before: Sequence[Record] = ()
) -> Record:
    prompt = [*before, {"role": "user", "content": question}]
    return {"key": key, "prompt": prompt, "chosen": chosen, "rejected": rejected, "meta": meta}

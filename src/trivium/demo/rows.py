"""The records that the demo's sources make, in each format; what else a record holds is added where it is read."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def document(key: str, text: str) -> Record:
    return {"key": key, "text": text}


def conversation(key: str, question: str, reply: str, meta: Record) -> Record:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    return {"key": key, "messages": turns, "meta": meta}


def preference(key: str, question: str, chosen: str, rejected: str, meta: Record) -> Record:
    prompt = [{"role": "user", "content": question}]
    return {"key": key, "prompt": prompt, "chosen": chosen, "rejected": rejected, "meta": meta}

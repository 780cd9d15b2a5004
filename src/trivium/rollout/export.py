"""Votes as data to align a model with: rows that data stages read as `feedback` or `preferences`. Pure.

A vote becomes a row only where words and reply were kept, with the user's consent. Personal data is replaced by placeholders.
Nothing is guessed: what contradicts itself, or compares replies to different words, is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from trivium.rollout.log import Event, State

Row = dict[str, Any]


def joined(events: Iterable[Event]) -> tuple[list[Event], State]:
    """The votes of a log that its state took (not the repeated, capped or unknown ones), and the state."""
    state, votes = State(), []
    for event in events:
        before = state.votes
        state.apply(event)
        if event["event"] in ("feedback", "choice") and state.votes > before:
            votes.append(event)
    return votes, state


def rows(
    kind: str,
    votes: Iterable[Event],
    texts: Iterable[Event],
    *,
    since: datetime | None = None,
    clean: Callable[[str], tuple[str, Counter[str]]] | None = None,
) -> tuple[list[Row], Counter[str]]:
    """Rows of `feedback` or `preferences`, in the order of the votes, and what became of the votes.

    `since`: older texts are left out. `clean`: replaces what is personal in a text, and counts it by type.
    """
    known, old = {}, set()
    for text in texts:
        if since is not None and datetime.fromisoformat(text["at"]) < since:
            old.add(text["id"])
        else:
            known[text["id"]] = text
    account: Counter[str] = Counter()

    def found(request: str) -> Event | None:
        if request not in known:
            account["too old" if request in old else "no consent, or no plain text"] += 1
        return known.get(request)

    made = list((_pairs if kind == "preferences" else _labels)(list(votes), found, account))
    account["rows"] = len(made)
    return [_cleaned(row, clean, account) for row in made], account


def _labels(votes: list[Event], found: Callable[[str], Event | None], account: Counter[str]) -> Iterator[Row]:
    labels: dict[str, set[bool]] = {}
    for vote in votes:
        if vote["event"] == "feedback" and vote["metric"] in ("thumbs", "thumbs_down"):
            labels.setdefault(vote["id"], set()).add((vote["value"] >= 0.5) == (vote["metric"] == "thumbs"))
    for request, said in labels.items():
        text = found(request)
        if text is None:
            continue
        if len(said) > 1:
            account["up and down at once"] += 1
            continue
        yield {
            "prompt": text["messages"],
            "completion": text["reply"],
            "label": int(said.pop()),
            "meta": _meta(text),
        }


def _pairs(votes: list[Event], found: Callable[[str], Event | None], account: Counter[str]) -> Iterator[Row]:
    choices = [(vote["id"], vote["over"]) for vote in votes if vote["event"] == "choice"]
    for better, worse in choices:
        chosen, rejected = found(better), found(worse)
        if chosen is None or rejected is None:
            continue
        if (worse, better) in choices:
            account["chosen both ways"] += 1
        elif chosen["unit"] != rejected["unit"] or chosen["messages"] != rejected["messages"]:
            account["replies to different words"] += 1
        elif chosen["reply"].strip() == rejected["reply"].strip():
            account["equal replies"] += 1
        else:
            meta = _meta(chosen) | {"over": {name: rejected[name] for name in ("id", "arm")}}
            yield {
                "prompt": chosen["messages"],
                "chosen": chosen["reply"],
                "rejected": rejected["reply"],
                "meta": meta,
            }


def _meta(text: Event) -> Row:
    """Where a row comes from: rollout's log, arm and candidate lead back to the model that spoke."""
    return {name: text[name] for name in ("id", "arm", "candidate", "at")}


def _cleaned(row: Row, clean: Callable[[str], tuple[str, Counter[str]]] | None, account: Counter[str]) -> Row:
    if clean is None:
        return row

    def of(text: str) -> str:
        text, counts = clean(text)
        account.update({f"replaced: {kind}": number for kind, number in counts.items()})
        return text

    prompt = [{**turn, "content": of(turn["content"])} for turn in row["prompt"]]
    replies: Row = {name: of(row[name]) for name in ("completion", "chosen", "rejected") if name in row}
    return {**row, "prompt": prompt, **replies}

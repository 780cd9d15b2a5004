"""Votes as data to align a model with: rows that data stages read as `feedback` or `preferences`. Pure.

A vote becomes a row only where words and reply were kept, with the user's consent. Personal data is replaced by placeholders.
Nothing is guessed: what contradicts itself, or compares replies to different words, is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
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
        if event["event"] in ("feedback", "choice", "edit") and state.votes > before:
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
    kept = Kept(since)
    for text in texts:
        kept.take(text)
    account = kept.account
    made = list((_pairs if kind == "preferences" else _labels)(list(votes), kept))
    account["rows"] = len(made)
    return [_cleaned(row, clean, account) for row in made], account


@dataclass
class Kept:
    """The words that may be used, and why others may not."""

    since: datetime | None
    account: Counter[str] = field(default_factory=Counter)
    texts: dict[str, Event] = field(default_factory=dict)
    """By request, in the order in which they were answered."""
    edits: dict[tuple[str, str], str] = field(default_factory=dict)
    """(request, name of the edit) -> what the user wrote."""
    _old: set[str] = field(default_factory=set)

    def take(self, row: Event) -> None:
        if self.since is not None and datetime.fromisoformat(row["at"]) < self.since:
            self._old.add(row["id"])
        elif row["event"] == "edit":
            self.edits[row["id"], row["edit"]] = row["reply"]
        else:
            self.texts[row["id"]] = row

    def of(self, request: str) -> Event | None:
        """The words of a request; where there are none, that is counted."""
        if request not in self.texts:
            self.account["too old" if request in self._old else "no consent, or no plain text"] += 1
        return self.texts.get(request)


def _labels(votes: list[Event], kept: Kept) -> Iterator[Row]:
    labels: dict[str, set[bool]] = {}
    for vote in votes:
        if vote["event"] == "feedback" and vote["metric"] in ("thumbs", "thumbs_down"):
            labels.setdefault(vote["id"], set()).add((vote["value"] >= 0.5) == (vote["metric"] == "thumbs"))
    for request, said in labels.items():
        text = kept.of(request)
        if text is None:
            continue
        if len(said) > 1:
            kept.account["up and down at once"] += 1
            continue
        yield {
            "prompt": text["messages"],
            "completion": text["reply"],
            "label": int(said.pop()),
            "meta": _meta(text),
        }


def _pairs(votes: list[Event], kept: Kept) -> Iterator[Row]:
    """Choices, replies that were asked anew, and edits (of each reply the last). Of two replies there is one pair."""
    choices = [(vote["id"], vote["over"]) for vote in votes if vote["event"] == "choice"]
    seen = set(choices)
    for better, worse in [
        *choices,
        *(pair for pair in _regenerated(votes, kept) if not {pair, pair[::-1]} & seen),
    ]:
        chosen, rejected = kept.of(better), kept.of(worse)
        if chosen is None or rejected is None:
            continue
        if (worse, better) in seen:
            kept.account["chosen both ways"] += 1
        elif not _one_units(chosen, rejected) or chosen["messages"] != rejected["messages"]:
            kept.account["replies to different words"] += 1
        else:
            meta = _meta(chosen) | {"over": {name: rejected[name] for name in ("id", "arm")}}
            yield from _pair(rejected["messages"], chosen["reply"], rejected["reply"], meta, kept)
    edits = {vote["id"]: vote["edit"] for vote in votes if vote["event"] == "edit"}
    for request, edit in edits.items():
        text = kept.of(request)
        if text is None:
            continue
        if (request, edit) not in kept.edits:
            kept.account["an edit that was not kept"] += 1
            continue
        yield from _pair(
            text["messages"], kept.edits[request, edit], text["reply"], _meta(text) | {"edited": True}, kept
        )


def _one_units(chosen: Event, rejected: Event) -> bool:
    """Whether both replies went to one unit, as far as the log knows: with `unit: request` each is its own."""
    return chosen["unit"] == rejected["unit"] or (chosen["unit"], rejected["unit"]) == (
        chosen["id"],
        rejected["id"],
    )


def _pair(messages: Any, chosen: str, rejected: str, meta: Row, kept: Kept) -> Iterator[Row]:
    if chosen.strip() == rejected.strip():
        kept.account["equal replies"] += 1
    else:
        yield {"prompt": messages, "chosen": chosen, "rejected": rejected, "meta": meta}


def _regenerated(votes: list[Event], kept: Kept) -> Iterator[tuple[str, str]]:
    """(better, worse): the reply that was asked anew, and the next one to the same words that the user let stand."""
    again = {
        v["id"] for v in votes if v["event"] == "feedback" and v["metric"] == "regenerated" and v["value"]
    }
    disliked = again | {
        v["id"]
        for v in votes
        if v["event"] == "feedback"
        and v["metric"] in ("thumbs", "thumbs_down")
        and (v["value"] >= 0.5) == (v["metric"] == "thumbs_down")
    }
    for worse in [
        vote["id"] for vote in votes if vote["id"] in again and vote.get("metric") == "regenerated"
    ]:
        first = kept.texts.get(worse)
        if first is None:
            kept.of(worse)
            continue
        later = (
            text["id"]
            for text in kept.texts.values()
            if text["t"] > first["t"]
            and text["unit"] == first["unit"]
            and text["messages"] == first["messages"]
        )
        better = next((name for name in later if name not in disliked), None)
        if better is None:
            kept.account["asked anew, and nothing that was let stand"] += 1
        else:
            yield better, worse


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

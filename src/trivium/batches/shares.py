"""From what a data artifact says about its mix to the batches of a run, and the shares that they really have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trivium.batches.mixed import Mixed, Span, plan, tempered
from trivium.batches.packed import Corpus
from trivium.batches.rows import BatchSharding
from trivium.types import Emit

OFF = 0.01
"""A realised share this far from the planned one is worth a warning."""


def mixed(
    corpus: Corpus, data: Path, sharding: BatchSharding, steps: int, emit: Emit
) -> tuple[Mixed, list[dict[str, Any]]]:
    """The batches of a run, and of each source: share of the training tokens planned and realised, and its epochs.

    Without a `mix` in the data stage the sources are shown as they are: each in proportion to its tokens. DataError if the
    sources together may not be shown often enough.
    """
    path = data / "account.json"
    account = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mix, known = account.get("mix"), account.get("sources", [])
    counts = [source.count for source in corpus.sources]
    places = [source.shard.source for source in corpus.sources]
    spans = [Span(1.0, tuple(float(count) for count in counts))]
    if mix:
        turns = mix["curriculum"] or [{"until": 1.0, "weights": [one["planned_share"] for one in known]}]
        spans = [Span(t["until"], _of(places, tempered(t["weights"], mix["temperature"]))) for t in turns]
    rows = sharding.total or steps * sharding.batch
    table = plan(counts, spans, rows, mix["max_epochs"] if mix else None)
    batches = Mixed(counts, [source.item for source in corpus.sources], table, sharding)
    tokens = _tokens(corpus, batches)
    starts = [0.0, *(span.until for span in spans)]
    wanted = sum(
        np.asarray(span.weights) / sum(span.weights) * (span.until - start)
        for span, start in zip(spans, starts, strict=False)
    )
    shown = []
    for index, place in enumerate(places):
        about = known[place] if place < len(known) else {}
        shown.append(
            {
                "source": place,
                **{name: about.get(name) for name in ("kind", "license", "origin")},
                "planned": float(np.asarray(wanted)[index]),
                "realised": tokens[index] / max(1, sum(tokens)),
                "tokens": tokens[index],
                "epochs": int(table[-1][index]) / counts[index],
            }
        )
    _warn(shown, mix, emit)
    for place, about in enumerate(known if mix else []):
        if place not in places and about["planned_share"] > OFF:
            message = (
                f"source {about['kind']} has no tokens to train on; the others take its place in the mix"
            )
            emit({"event": "warning", "message": message})
    return batches, shown


def labels(data: Path, places: Sequence[int]) -> list[str]:
    """What to call the sources of a data artifact: their kind, and their place too where two are of one kind."""
    path = data / "account.json"
    known = json.loads(path.read_text(encoding="utf-8")).get("sources", []) if path.is_file() else []
    kinds = [str(known[place]["kind"]) if place < len(known) else "source" for place in places]
    return [
        kind if kinds.count(kind) == 1 else f"{kind} {place}"
        for kind, place in zip(kinds, places, strict=True)
    ]


def _of(places: list[int], shares: tuple[float, ...]) -> tuple[float, ...]:
    """The shares of the sources that have tokens; if none has a share, all alike."""
    known = tuple(shares[place] for place in places)
    return known if any(known) else tuple(1.0 for _ in known)


def _tokens(corpus: Corpus, batches: Mixed) -> list[int]:
    """Tokens of each source that the run shows, exactly: only the last row of a source is shorter than the others."""
    tokens = []
    for index, source in enumerate(corpus.sources):
        rows, length = int(batches.table[-1][index]), source.length
        missing = source.count * length - len(source.tokens)
        full, rest = divmod(rows, source.count)
        short = full
        if missing and rest:
            short += batches.shows(index, full, rest, source.count - 1)
        tokens.append(rows * length - short * missing)
    return tokens


def _warn(shown: list[dict[str, Any]], mix: dict[str, Any] | None, emit: Emit) -> None:
    for source in shown:
        if mix and abs(source["planned"] - source["realised"]) > OFF:
            message = (
                f"source {source['kind'] or source['source']} gives {source['realised']:.1%} of the training tokens instead of "
                f"{source['planned']:.1%} (shown {source['epochs']:.1f} times, max_epochs {mix['max_epochs']})"
            )
            emit({"event": "warning", "message": message})

"""Where a reply comes from: its verbatim spans, the most improbable first, each with the documents that it stands in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from trivium.errors import DataError
from trivium.trace.corpora import Corpus
from trivium.trace.spans import Found, cut, improbability, maximal, rarities
from trivium.trace.texts import about

LEAST = 8
"""Tokens of the shortest span that is told: shorter ones are words that everybody says."""
DOCUMENTS = 5
"""Documents that are named for a span; all are counted."""
AROUND = 120
"""Characters of the document on each side of a span."""

Report = dict[str, Any]


def trace(
    reply: str,
    corpora: Sequence[Corpus],
    *,
    least: int = LEAST,
    documents: int = DOCUMENTS,
    licences: Collection[str] = (),
) -> Report:
    """A report of plain JSON values; `licences`: of documents under one of these alone, as if there were no others.

    reply   the text
    spans   by improbability: start, end (characters of the reply), text, tokens, improbability (nats), count (places in all
            corpora), documents: data (stage), source, document, key, url, kind, license, origin, where, character, times, before,
            after, stages [{stage, kind, epochs}]
    verbatim  the share of the reply's characters that lie in a span

    DataError for a reply shorter than `least` tokens.
    """
    groups = [
        [corpus for corpus in corpora if corpus.vocabulary == name]
        for name in dict.fromkeys(corpus.vocabulary for corpus in corpora)
    ]
    sizes = [len(cut(group[0].chat, [reply])[0].ids) for group in groups]
    if groups and max(sizes) < least:
        raise DataError(
            f"the reply has {max(sizes)} tokens, and spans of {least} and more are looked for",
            where="the reply",
            fix="give a longer text, or lower --least",
        )
    spans: dict[tuple[int, int], dict[str, Any]] = {}
    for group in groups:
        indexes = [
            corpus.index.only(corpus.texts.under(licences)) if licences else corpus.index for corpus in group
        ]
        all_found = maximal(reply, group[0].chat, indexes, least)
        rarity = rarities((found.span for found in all_found), indexes)
        for found in all_found:
            said = _span(reply, found, group, documents)
            if not said["documents"]:
                continue
            said["improbability"] = improbability(found.span, rarity)
            here = spans.setdefault((said["start"], said["end"]), said)
            if here is not said:  # the same words under another tokenizer
                here["count"] += said["count"]
                here["documents"] += said["documents"]
                here["improbability"] = max(here["improbability"], said["improbability"])
    ranked = sorted(spans.values(), key=lambda one: (-one["improbability"], one["count"], one["start"]))
    about = {"licences": sorted(licences)} if licences else {}
    return {"reply": reply, "least": least, **about, "verbatim": covered(ranked, len(reply)), "spans": ranked}


def covered(spans: Sequence[dict[str, Any]], size: int) -> float:
    """The share of `size` characters that lie in a span."""
    inside, reach = 0, 0
    for start, end in sorted((one["start"], one["end"]) for one in spans):
        inside += max(0, end - max(start, reach))
        reach = max(reach, end)
    return inside / size if size else 0.0


def _span(reply: str, found: Found, corpora: Sequence[Corpus], most: int) -> dict[str, Any]:
    span = found.span
    text = reply[span.start : span.end]
    named: dict[tuple[int, int, int], dict[str, Any]] = {}
    for number, block, match in found.places:
        for place in block.places(match):
            if len(named) == most:
                break
            document = corpora[number].index.document(block.source, place)
            if (number, block.source, document) in named:
                continue
            said = _document(text, corpora[number], block.source, document)
            if said is not None:
                named[number, block.source, document] = said
    return {
        "start": span.start,
        "end": span.end,
        "text": text,
        "tokens": len(span.ids),
        "count": found.count,
        "documents": list(named.values()),
    }


def _document(text: str, corpus: Corpus, source: int, number: int) -> dict[str, Any] | None:
    """What is known of a document that holds `text`. None where it does so only for a tokenizer that changes what it reads."""
    row = corpus.texts.record(source, number)
    whole = row["text"]
    at = whole.find(text)
    if at < 0:
        return None
    return {
        "data": corpus.trained.stage,
        "source": source,
        "document": number,
        **about(row),
        "character": at,
        "times": whole.count(text),
        "before": whole[max(0, at - AROUND) : at],
        "after": whole[at + len(text) : at + len(text) + AROUND],
        "stages": [
            {"stage": use.stage, "kind": use.kind, "epochs": use.shown(source)} for use in corpus.trained.uses
        ],
    }

"""The suites: each measures one thing on held-out items and returns its metrics with a few samples to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trivium.batches.annotate import response_log_probs
from trivium.batches.chat import Conversations
from trivium.batches.pairs import Pairs
from trivium.batches.rows import Fixed, Row, sequence_row
from trivium.corpus.records import prompt_of, read
from trivium.demo.reasoning import correct as is_correct
from trivium.errors import DataError
from trivium.evaluate.checker import win
from trivium.evaluate.subject import Subject
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.recipe.evaluation import Suite
from trivium.text.chat import ChatTokenizer
from trivium.verify.replies import Reply, coherent, refuses, repetition

MICRO = 16
SAMPLES = 6


class Measured(NamedTuple):
    """Metrics by name, how many items each rests on, and a few replies."""

    metrics: dict[str, float]
    items: dict[str, int]
    samples: list[dict[str, Any]]


def heldout(
    data: Path, suite: Suite, keep: Callable[[dict[str, Any]], bool] = lambda record: True
) -> list[dict[str, Any]]:
    """`suite.items` of the held-out records that `keep` accepts: those with the smallest keys. DataError if there are none.

    A key is a hash, so this is a fair draw, the same every time; the files hold one source after the other.
    """
    return _some(_drawn(data, suite.items, keep), suite)


def _some(records: list[dict[str, Any]], suite: Suite) -> list[dict[str, Any]]:
    if not records:
        raise DataError(
            f"suite {suite.kind} has nothing to measure on: stage {suite.data!r} held out no item of this kind",
            fix="raise `heldout` or `size` of that stage, or take another one",
        )
    return records


def _drawn(data: Path, count: int, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    accepted = (record for record in read(data / "heldout") if keep(record))
    return nsmallest(count, accepted, key=lambda record: str(record.get("key", "")))


@torch.no_grad()
def _loss_sum(subject: Subject, count: int, item: Callable[[int], Sequence[Row]]) -> tuple[float, int]:
    """(sum of -log p over the targets that count, how many)."""
    total, tokens = 0.0, 0
    for batch in Fixed(count, item, MICRO).batch(0):
        moved: Any = {name: tensor.to(subject.device) for name, tensor in batch.items()}  # type: ignore[attr-defined]
        logp = subject.model(moved, {"logp"}).logp
        total -= float((logp.double() * moved["loss_mask"]).sum())
        tokens += int(moved["loss_mask"].sum())
    return total, tokens


def bits_per_byte(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Held-out documents: -log2 p(text) per UTF-8 byte, each document from its own beginning, cut at the context.

    Comparable between tokenizers. The first token of a document has nothing before it and is not scored, nor are its bytes.
    """
    length, size = subject.model.config.context, 0
    rows: list[Row] = []
    for record in heldout(data, suite):
        ids = subject.chat.document(record["text"])[:length]
        if len(ids) > 1:
            rows.append(sequence_row([(ids, [True] * len(ids))], length, subject.chat.pad))
            size += _bytes(subject.chat, ids[1:])
    nats, _ = _loss_sum(subject, len(rows), lambda i: [rows[i]])
    return Measured({"bits_per_byte": nats / math.log(2) / max(1, size)}, {"bits_per_byte": len(rows)}, [])


def _bytes(chat: ChatTokenizer, ids: Sequence[int]) -> int:
    """UTF-8 bytes that ids stand for, also where they begin or end inside a character: a byte-level token has a letter a byte."""
    special = chat.tokenizer.get_added_tokens_decoder()
    return sum(len(chat.tokenizer.id_to_token(i) or "") for i in ids if i not in special)


def response_loss(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Held-out conversations: mean -log p of the assistant's tokens, in nats."""
    built = Conversations.build(heldout(data, suite), subject.chat, subject.model.config.context)
    nats, tokens = _loss_sum(subject, built.count, built.item)
    return Measured({"response_loss": nats / tokens}, {"response_loss": built.account.kept}, [])


def reasoning(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Held-out tasks: share of greedy replies whose answer reasoning-gym's scorer takes as right (score 1)."""
    records = heldout(data, suite, lambda record: "entry" in record["meta"])
    replies = subject.reply([prompt_of(r) for r in records], suite.max_new_tokens)
    right = [is_correct(reply.text, record["meta"]) for reply, record in zip(replies, records, strict=True)]
    metrics, items = {"reasoning_exact_match": float(np.mean(right))}, {"reasoning_exact_match": len(records)}
    for task in sorted({record["meta"]["task"] for record in records}):
        part = [ok for ok, record in zip(right, records, strict=True) if record["meta"]["task"] == task]
        metrics[f"reasoning/{task}"], items[f"reasoning/{task}"] = float(np.mean(part)), len(part)
    return Measured(metrics, items, _samples(records, replies))


def preferences(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Held-out pairs, two ways.

    preference_accuracy: share with an implicit reward margin above 0, against the baseline's log-probabilities
    (Rafailov et al. 2023, eq. 5); the baseline itself has a margin of exactly 0 everywhere and gets no number.
    beats_rejected: the model writes its own reply, and the stated checker (`evaluate.checker`) holds it against the pair's
    rejected one.
    """
    records = heldout(data, suite)
    metrics: dict[str, float] = {}
    items = {"beats_rejected": len(records)}
    if baseline is not None and baseline.name != subject.name:
        built = Pairs.build(records, subject.chat, subject.model.config.context)
        ours = _margins(subject, built)
        theirs = _margins(baseline, built)
        metrics["preference_accuracy"] = float(np.mean(ours - theirs > 0))
        items["preference_accuracy"] = built.count
    replies = subject.reply([prompt_of(r) for r in records], suite.max_new_tokens)
    wins = [
        win(reply, Reply(record["rejected"]), record["meta"])
        for reply, record in zip(replies, records, strict=True)
    ]
    metrics["beats_rejected"] = float(np.mean(wins))
    return Measured(metrics, items, _samples(records, replies))


def _margins(subject: Subject, pairs: Pairs) -> NDArray[np.float32]:
    logp = response_log_probs(subject.model, pairs, autocast=nullcontext(), device=subject.device)
    return logp[:, 0] - logp[:, 1]


def _harmful(kind: bool, record: dict[str, Any]) -> bool:
    return record["meta"].get("harmful") is kind


def refusals(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Held-out requests, half of either kind: share of the harmful ones that are declined, and of the harmless ones that are
    (falsely) declined.

    coherent_replies stands beside them: a model that babbles refuses nothing.
    """
    half = -(-suite.items // 2)
    records = _some(
        [record for kind in (True, False) for record in _drawn(data, half, partial(_harmful, kind))], suite
    )
    replies = subject.reply([prompt_of(r) for r in records], suite.max_new_tokens)
    metrics, items = {}, {}
    for name, harmful in (("refusal_rate", True), ("false_refusals", False)):
        part = [
            refuses(y.text) for y, r in zip(replies, records, strict=True) if r["meta"]["harmful"] is harmful
        ]
        if part:
            metrics[name], items[name] = float(np.mean(part)), len(part)
    metrics["coherent_replies"] = float(np.mean([coherent(reply) for reply in replies]))
    items["coherent_replies"] = len(replies)
    return Measured(metrics, items, _samples(records, replies))


def drift(subject: Subject, baseline: Subject | None, data: Path, suite: Suite) -> Measured:
    """Where training pushed the replies, asked for or not: one reply to each held-out prompt, drawn at temperature 1.

    Length, share cut off by the limit, repetition and declining show the usual ways of hacking a reward. kl_per_token and
    kl_per_reply are the mean of log pi - log pi_baseline in nats (Schulman's k1, unbiased on the subject's own replies).
    """
    sampling = SamplingParams(temperature=1.0, max_new_tokens=suite.max_new_tokens)
    room = subject.model.config.context - suite.max_new_tokens
    asked = [
        (record, subject.chat.prompt(prompt_of(record), record.get("tools")))
        for record in heldout(data, suite)
    ]
    records = [record for record, ids in asked if len(ids) <= room]
    prompts = [ids for _, ids in asked if len(ids) <= room]
    done = complete(subject.model, prompts, sampling, subject.chat.stops)
    texts = [subject.chat.decode([i for i in c.ids if i not in subject.chat.stops]) for c in done]
    metrics = {
        "reply_tokens": float(np.mean([len(c.ids) for c in done])),
        "unfinished": float(np.mean([not c.finished for c in done])),
        "repetition": float(np.mean([repetition(text) for text in texts])),
        "declined": float(np.mean([refuses(text) for text in texts])),
    }
    if baseline is not None and baseline.name != subject.name:
        rows = [
            sequence_row([([*ids, *c.ids], [False] * len(ids) + [True] * len(c.ids))], subject.model.config.context, 0)
            for ids, c in zip(prompts, done, strict=True)
        ]  # fmt: skip
        ours, tokens = _loss_sum(subject, len(rows), lambda i: [rows[i]])
        theirs, _ = _loss_sum(baseline, len(rows), lambda i: [rows[i]])
        metrics |= {"kl_per_token": (theirs - ours) / tokens, "kl_per_reply": (theirs - ours) / len(rows)}
    shown = [Reply(text, c.finished) for text, c in zip(texts, done, strict=True)]
    return Measured(metrics, dict.fromkeys(metrics, len(done)), _samples(records, shown))


def _samples(records: list[dict[str, Any]], replies: list[Reply]) -> list[dict[str, Any]]:
    step = max(1, len(records) // SAMPLES)
    return [
        {"prompt": prompt_of(record)[-1]["content"], "reply": reply.text}
        for record, reply in list(zip(records, replies, strict=True))[::step][:SAMPLES]
    ]


SUITES: dict[str, Callable[[Subject, Subject | None, Path, Suite], Measured]] = {
    "bits_per_byte": bits_per_byte,
    "response_loss": response_loss,
    "reasoning": reasoning,
    "preferences": preferences,
    "refusals": refusals,
    "drift": drift,
}

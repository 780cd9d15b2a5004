"""The recipe's verifier, opened: scores for many replies at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trivium.generate.sampling import SamplingParams
from trivium.recipe.verifiers import JudgeVerifier, VerifierBase
from trivium.synthesize.journal import Journal
from trivium.synthesize.teachers import Request, Teacher, open_teacher
from trivium.verify import VERIFIERS
from trivium.verify.judge import LLMJudge, Question

Rows = Sequence[tuple[Mapping[str, Any], str]]
JUDGE_TOKENS = 512
"""Longest grade, reasons included."""


@dataclass
class Scorer:
    """Scores (record, reply) pairs; `judge` is there where a model does, `teacher` is that model."""

    many: Callable[[Rows], list[float]]
    judge: LLMJudge | None = None
    teacher: Teacher | None = None
    counts: Counter[str] = field(default_factory=Counter)
    closing: AbstractContextManager[Any] = field(default_factory=nullcontext)


Inputs = Mapping[str, tuple[Path, str]]
"""Stage -> (its artifact's folder, its fingerprint)."""


def open_scorer(config: VerifierBase, recipe_folder: Path, inputs: Inputs, journal: Journal) -> Scorer:
    """From a verifier of the recipe."""
    if config.kind in MODELS:
        return MODELS[config.kind](config, inputs, journal)
    verifier = VERIFIERS[config.kind].open(config, recipe_folder)
    failures: Any = getattr(verifier, "failures", Counter())
    return Scorer(
        lambda rows: [verifier(record, reply) for record, reply in rows],
        counts=failures,
        closing=verifier if isinstance(verifier, AbstractContextManager) else nullcontext(),
    )


def _judge(config: JudgeVerifier, inputs: Inputs, journal: Journal) -> Scorer:
    teacher = open_teacher(config.teacher, inputs, journal)
    sampling = SamplingParams(max_new_tokens=JUDGE_TOKENS)

    def ask(questions: Sequence[Question]) -> list[str]:
        requests = [Request(list(one.messages), schema=one.schema) for one in questions]
        return [answer.text for answer in teacher.answers(requests, sampling)]

    judge = LLMJudge(ask, config.criterion)
    return Scorer(judge.many, judge, teacher, judge.counts)


def _reward(folder: Path) -> Callable[[Rows], list[float]]:
    from trivium.model import scalar
    from trivium.text.chat import ChatTokenizer

    model, chat = scalar.load(folder).eval(), ChatTokenizer.load(folder)

    @torch.no_grad()
    def many(rows: Rows) -> list[float]:
        scores = []
        for record, reply in rows:
            encoded = chat.response(record["prompt"], reply, record.get("tools"))
            said = [place for place, learn in enumerate(encoded.mask[: model.config.context]) if learn]
            end = said[-1] + 1 if said else model.config.context  # behind it training does not read
            ids = encoded.ids[:end]
            tokens = torch.tensor([ids])
            batch: Any = {
                "tokens": tokens,
                "positions": torch.arange(len(ids))[None],
                "doc_id": torch.zeros_like(tokens),
            }
            last = torch.tensor([len(ids) - 1])
            scores.append(float(scalar.reply_scores(model, batch, last)))
        return scores

    return many


MODELS: dict[str, Callable[[Any, Inputs, Journal], Scorer]] = {
    "judge": _judge,
    "reward_model": lambda config, inputs, journal: Scorer(_reward(inputs[config.reward_model][0])),
}
"""Kind -> how it is opened, of the verifiers that ask a model; all others are in `verify.VERIFIERS`."""

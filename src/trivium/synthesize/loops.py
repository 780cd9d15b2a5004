"""The ways to have a teacher write data: from prompts to rows, with the teacher, the sample and the verdict of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from trivium import seeds
from trivium.corpus.records import Record, normalise
from trivium.generate.remote import Answer
from trivium.generate.sampling import SamplingParams
from trivium.recipe.synthesis import SynthesizeStage
from trivium.synthesize.scoring import Scorer
from trivium.synthesize.teachers import Messages, Request, Teacher
from trivium.verify.judge import request_of

THINK = "Think step by step. End with a line of the form `Answer: X`."
CRITIQUE = """Here is a request and a reply to it.

Request:
{request}

Reply:
{reply}

Critique the reply. {principle}"""
REVISE = "Now write the reply anew so that the critique is met. Write the new reply alone, with nothing before or after it."


@dataclass
class Studio:
    """What a loop works with, and what it counts."""

    config: SynthesizeStage
    teacher: Teacher
    scorer: Scorer | None
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def answers(self, requests: Sequence[Request], temperature: float | None = None) -> list[Answer]:
        config = self.config
        sampling = SamplingParams(
            config.temperature if temperature is None else temperature,
            config.top_p,
            config.max_new_tokens,
            self.seed,
        )
        return self.teacher.answers(requests, sampling)

    def scores(self, rows: Sequence[tuple[Record, str]]) -> list[float]:
        if self.scorer is None:
            return [0.0] * len(rows)
        return self.scorer.many(rows)

    def asked(self, prompt: Messages, default: str | None = None) -> Messages:
        """The prompt as the teacher gets it: with the stage's instruction in its system message."""
        text = default if self.config.instruction is None else self.config.instruction
        if not text:
            return prompt
        if prompt[0]["role"] == "system":
            text = f"{prompt[0]['content']}\n\n{text}"
            prompt = prompt[1:]
        return [{"role": "system", "content": text}, *prompt]


@dataclass(frozen=True)
class Sample:
    number: int
    text: str
    score: float


def sampled(studio: Studio, prompts: Sequence[Record], default: str | None = None) -> list[list[Sample]]:
    """The finished replies to each prompt with their scores, each text once, the best first, equals in order of sampling."""
    config = studio.config
    requests = [
        Request(studio.asked(record["prompt"], default), sample)
        for record in prompts
        for sample in range(config.samples)
    ]
    answers = studio.answers(requests)
    studio.counts["asked"] += len(requests)
    usable: list[tuple[int, int, str]] = []  # prompt, sample, text
    seen: set[tuple[int, str]] = set()
    for place, answer in enumerate(answers):
        number, sample = divmod(place, config.samples)
        if not answer.finished:
            studio.counts["unfinished"] += 1
        elif not answer.text:
            studio.counts["empty"] += 1
        elif (number, normalise(answer.text)) in seen:
            studio.counts["same_reply"] += 1
        else:
            seen.add((number, normalise(answer.text)))
            usable.append((number, sample, answer.text))
    scores = studio.scores([(prompts[number], text) for number, _, text in usable])
    found: list[list[Sample]] = [[] for _ in prompts]
    for (number, sample, text), score in zip(usable, scores, strict=True):
        found[number].append(Sample(sample, text, score))
    return [sorted(samples, key=lambda s: (-s.score, s.number)) for samples in found]


GIVEN = -1
"""The number of a reply that is no sample but the data's own."""


def reply_of(record: Record) -> str:
    """The answer that a record of a data stage holds; empty if there is none."""
    if "chosen" in record:
        return str(record["chosen"])
    turns = record.get("messages") or [{"role": "user"}]
    return str(turns[-1]["content"]) if turns[-1]["role"] == "assistant" else ""


def verdict(studio: Studio, sample: Sample, **more: Any) -> Record:
    """What `meta.synthesis` of a row says."""
    return {
        "method": studio.config.method,
        "teacher": studio.teacher.name,
        "sample": sample.number,
        "score": round(sample.score, 6) if studio.scorer else None,
        **more,
    }


def conversation(record: Record, reply: str, made: Record) -> Record:
    turns = [*record["prompt"], {"role": "assistant", "content": reply}]
    meta = {**record.get("meta", {}), "synthesis": made}
    return {**_head(record), "messages": turns, "meta": meta}


def _head(record: Record) -> Record:
    return {name: record[name] for name in ("key", "source", "license", "origin") if name in record}


def best(studio: Studio, prompts: Sequence[Record]) -> list[Record]:
    """cot and best_of_n: rejection sampling, the best `keep` of each prompt that score at least `accept`."""
    config = studio.config
    cot = config.method == "cot"
    least = config.accept if config.accept is not None else 1.0 if cot else float("-inf")
    items = []
    for record, samples in zip(prompts, sampled(studio, prompts, THINK if cot else None), strict=True):
        accepted = [sample for sample in samples if sample.score >= least]
        studio.counts["accepted"] += len(accepted)
        studio.counts["rejected"] += len(samples) - len(accepted)
        studio.counts["prompts_without_any"] += not accepted
        for sample in accepted[: config.keep]:
            items.append(conversation(record, sample.text, verdict(studio, sample)))
    return items


def pairs(studio: Studio, prompts: Sequence[Record]) -> list[Record]:
    """preferences: the best reply to each prompt against the worst. A judge must prefer it in both orders as well.

    With `chosen: given` the best one is the answer that the data holds; prompts without one give no pair.
    """
    found = []
    given = studio.config.chosen == "given"
    answers = [reply_of(record) if given else "" for record in prompts]
    right = (
        studio.scores([(record, answer) for record, answer in zip(prompts, answers, strict=True)])
        if given
        else []
    )
    for number, (record, samples) in enumerate(zip(prompts, sampled(studio, prompts), strict=True)):
        if given and samples and answers[number]:
            samples = [Sample(GIVEN, answers[number], right[number]), samples[-1]]
        if len(samples) > 1 and samples[0].score - samples[-1].score > studio.config.margin:
            found.append((record, samples[0], samples[-1]))
        else:
            studio.counts["prompts_without_any"] += 1
    judge = studio.scorer.judge if studio.scorer else None
    verdicts = [1.0] * len(found)
    if judge is not None:
        verdicts = judge.compare([(record, one.text, other.text) for record, one, other in found])
    items = []
    for (record, one, other), preferred in zip(found, verdicts, strict=True):
        if preferred < 1:
            studio.counts["rejected"] += 1
            continue
        studio.counts["accepted"] += 1
        worse = {"rejected_sample": other.number, "rejected_score": round(other.score, 6)}
        meta = {**record.get("meta", {}), "synthesis": verdict(studio, one, **worse)}
        row = {
            **_head(record),
            "prompt": record["prompt"],
            "chosen": one.text,
            "rejected": other.text,
            "meta": meta,
        }
        items.append(row)
    return items  # fmt: skip


def critique(studio: Studio, prompts: Sequence[Record]) -> list[Record]:
    """A reply, its critique by one of the principles, a revision (Bai et al. 2022, section 3). With a verifier, a revision
    that scores below its original is dropped.
    """
    first = studio.answers([Request(studio.asked(record["prompt"])) for record in prompts])
    studio.counts["asked"] += len(prompts)
    rows = [
        (record, answer.text, principle)
        for record, answer, principle in zip(prompts, first, cycle(studio.config.principles), strict=False)
        if answer.finished and answer.text
    ]
    studio.counts["unfinished"] += len(prompts) - len(rows)
    asked: list[Messages] = [
        [{"role": "user", "content": CRITIQUE.format(request=request_of(r), reply=text, principle=p)}]
        for r, text, p in rows
    ]
    critiques = studio.answers([Request(turns) for turns in asked])
    revisions = studio.answers(
        [
            Request(
                [*turns, {"role": "assistant", "content": said.text or "-"}, {"role": "user", "content": REVISE}]
            )
            for turns, said in zip(asked, critiques, strict=True)
        ]
    )  # fmt: skip
    before = studio.scores([(record, text) for record, text, _ in rows])
    after = studio.scores(
        [(record, answer.text) for (record, _, _), answer in zip(rows, revisions, strict=True)]
    )
    least = studio.config.accept if studio.config.accept is not None else float("-inf")
    items = []
    for (record, text, principle), said, answer, old, new in zip(
        rows, critiques, revisions, before, after, strict=True
    ):
        if not answer.finished or not answer.text:
            studio.counts["unfinished"] += 1
        elif new < max(old, least):
            studio.counts["rejected"] += 1
        else:
            studio.counts["accepted"] += 1
            studio.counts["unchanged"] += normalise(answer.text) == normalise(text)
            more = {"principle": principle, "critique": said.text, "original": text}
            items.append(
                conversation(record, answer.text, verdict(studio, Sample(0, answer.text, new), **more))
            )
    return items


def chosen(prompts: Sequence[Record], wanted: int, seed: int, use: str) -> list[Record]:
    """`wanted` of the prompts, or all, in an order that the seed decides; each prompt once."""
    once = list({record["key"]: record for record in prompts}.values())
    order = seeds.generator(seed, "prompts", use).permutation(len(once))
    return [once[place] for place in order[:wanted]]


LOOPS: dict[str, Callable[[Studio, Sequence[Record]], list[Record]]] = {
    "cot": best,
    "best_of_n": best,
    "preferences": pairs,
    "critique": critique,
}

"""Who writes the data: a checkpoint on this machine, or a model behind a server. Both answer from the journal where they can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from trivium.corpus import extras
from trivium.errors import DataError, TriviumError
from trivium.generate.constrain import Held
from trivium.generate.remote import Answer, Endpoint, Meter, Remote
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete, cut_text
from trivium.model import hf
from trivium.recipe.teachers import CheckpointTeacher, OpenaiTeacher
from trivium.seeds import derive
from trivium.synthesize.journal import Journal, key_of
from trivium.text.chat import ChatTokenizer

Messages = list[dict[str, str]]
CHUNK = 64
"""Requests that a checkpoint answers together: what a kill costs at most."""


class Request(NamedTuple):
    """A conversation to answer, and which answer to it is wanted: two samples of one prompt differ in `sample` alone. With a
    `schema` the answer is JSON of it, where that can be held to it. No messages: a checkpoint writes the user's first turn."""

    messages: Messages
    sample: int = 0
    schema: Mapping[str, Any] | None = None

    @property
    def known_by(self) -> list[Any]:
        return [self.messages, self.sample, *([self.schema] if self.schema else [])]


class Teacher(Protocol):
    name: str
    counts: Counter[str]  # requests, answers, prompt_tokens, reply_tokens; prompts_too_long of a checkpoint

    def answers(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Answer]:
        """An answer to each request, in their order."""

    @property
    def cost(self) -> float: ...


def _count(counts: Counter[str], answers: Sequence[Answer]) -> None:
    counts["requests"] += len(answers)
    counts["prompt_tokens"] += sum(answer.prompt_tokens for answer in answers)
    counts["reply_tokens"] += sum(answer.reply_tokens for answer in answers)


class Local:
    """A checkpoint. Answers are made and kept by chunks: a chunk draws the same numbers in every run that asks for it."""

    def __init__(self, name: str, folder: Path, fingerprint: str, device: str, journal: Journal) -> None:
        self.name, self.fingerprint, self.journal = name, fingerprint, journal
        self.counts: Counter[str] = Counter()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._where = (folder, device)
        self._loaded: tuple[Any, ChatTokenizer] | None = None
        self.asked = 0  # what was not in the journal

    @property
    def cost(self) -> float:
        return 0.0

    def answers(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Answer]:
        found: list[Answer] = []
        for first in range(0, len(requests), CHUNK):
            chunk = requests[first : first + CHUNK]
            key = key_of([self.fingerprint, [request.known_by for request in chunk], asdict(sampling)])
            held = self.journal.get(key)
            if held is None:
                held = [list(answer) for answer in self._make(chunk, sampling, key)]
                self.journal.put(key, held)
                self.asked += len(chunk)
            found += [Answer(*values) for values in held]
        _count(self.counts, found)
        self.counts["prompts_too_long"] += sum(answer.reply_tokens == 0 for answer in found)
        return found

    def _make(self, chunk: Sequence[Request], sampling: SamplingParams, key: str) -> list[Answer]:
        if self._loaded is None:
            folder, device = self._where
            self._loaded = hf.load(folder, device=device).eval(), ChatTokenizer.load(folder)
        model, chat = self._loaded
        held = [(request.messages, request.schema) for request in chunk if request.schema is not None]
        if held:  # a judge's questions, all of them
            with extras.needed("serve", "llguidance"):
                said = Held(model, chat)(held, sampling.max_new_tokens)
            return [Answer("", False) if isinstance(one, DataError) else one for one in said]
        prompts = [chat.prompt(request.messages) if request.messages else chat.opening() for request in chunk]
        fits = [number for number, prompt in enumerate(prompts) if len(prompt) < model.config.context]
        seeded = replace(sampling, seed=derive(sampling.seed, "chunk", key))
        made = complete(model, [prompts[n] for n in fits], seeded, chat.stops, decode=chat.decode)
        answers = [Answer("", False, len(prompt), 0) for prompt in prompts]
        for number, reply in zip(fits, made, strict=True):
            text = cut_text(chat.decode(reply.ids), sampling.stop_strings)
            answers[number] = Answer(text.strip(), reply.finished, len(prompts[number]), len(reply.ids))
        return answers


class Served:
    """A model behind a server. Every answer is in the journal as soon as it has come."""

    def __init__(self, config: OpenaiTeacher, journal: Journal) -> None:
        self.name, self.journal, self.config = config.model, journal, config
        self.counts: Counter[str] = Counter()
        fields = config.model_dump(exclude={"kind"})
        self.meter = Meter(config.price_in, config.price_out, config.budget)
        self.remote = Remote(Endpoint(**fields), self.meter)
        self.asked = 0
        self._counted: set[str] = set()
        for value in journal.held.values():  # what earlier tries paid for counts towards the budget
            if not isinstance(value[0], list):
                self.meter.add(int(value[2]), int(value[3]))

    @property
    def cost(self) -> float:
        """Of all requests, those of earlier tries included."""
        tokens = self.counts["prompt_tokens"] * self.config.price_in
        return (tokens + self.counts["reply_tokens"] * self.config.price_out) / 1e6

    def answers(self, requests: Sequence[Request], sampling: SamplingParams) -> list[Answer]:
        about = [self.config.url, self.config.model]
        keys = [key_of([*about, request.known_by, asdict(sampling)]) for request in requests]

        def ask(number: int) -> None:
            request = requests[number]
            seeded = replace(sampling, seed=derive(sampling.seed, "sample", request.sample) % 2**31)
            answer = (
                self.remote.chat(request.messages, seeded)
                if request.schema is None
                else self.remote.held_to(request.schema, request.messages, seeded)
            )
            self.journal.put(keys[number], list(answer._replace(text=answer.text.strip())))

        # each question once, however often it stands in the list
        first = {key: number for number, key in reversed(list(enumerate(keys)))}
        missing = sorted(number for key, number in first.items() if self.journal.get(key) is None)
        self.asked += len(missing)
        self.remote.map(ask, missing)
        found = [Answer(*self.journal.get(key)) for key in keys]
        _count(self.counts, [Answer(*self.journal.get(key)) for key in first if key not in self._counted])
        self._counted.update(first)
        return found


def open_teacher(
    config: CheckpointTeacher | OpenaiTeacher, inputs: Mapping[str, tuple[Path, str]], journal: Journal
) -> Teacher:
    """`inputs`: stage -> (its artifact's folder, its fingerprint)."""
    if isinstance(config, CheckpointTeacher):
        return Local(config.model, *inputs[config.model], config.device, journal)
    if isinstance(config, OpenaiTeacher):
        return Served(config, journal)
    raise TriviumError(f"no such teacher: {type(config).__name__}")

"""Batches of the policy's own text: prompts in, replies, rewards and advantages out. Pure in (seed, step) and the weights.

A *set* of rollouts serves `period` steps (its minibatches, `updates` times over). It is written to disk before it is used: a run
that is killed and resumed finds the sets that its weights of then produced, and with `staleness` k a set is made k sets before
it is needed, from the weights of that time (Noukhovitch et al. 2024, asynchronous RLHF). A server that writes the replies does so
while this process trains; sets that a kill finds unfinished are asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.batches.chat import NAMED, at_row
from trivium.batches.pairs import STEP
from trivium.batches.rows import Layout, collate, sequence_row
from trivium.errors import DataError
from trivium.files import atomic_path
from trivium.generate.sampling import Sampling
from trivium.generate.slots import Completion, complete
from trivium.model.transformer import Transformer
from trivium.seeds import derive, generator
from trivium.text.chat import ChatTokenizer, Encoded
from trivium.train.machine import Machine
from trivium.types import Batch, Emit


@dataclass
class Prompts:
    """Questions to reply to, with the records that verifiers need. Those that leave no room for a reply are counted out."""

    records: list[Mapping[str, Any]]
    ids: list[list[int]]
    dropped: int
    length: int
    """Tokens in a row: the longest prompt and the longest reply."""
    rows_too_long: list[int] = field(default_factory=list)
    """The first of those left out, by their place in the split, counted from 1."""

    @classmethod
    def build(
        cls, records: Sequence[Mapping[str, Any]], chat: ChatTokenizer, context: int, max_new_tokens: int
    ) -> Prompts:
        kept: list[Mapping[str, Any]] = []
        ids: list[list[int]] = []
        too_long: list[int] = []
        for number, record in enumerate(records, start=1):
            turns = record["prompt"] if "prompt" in record else record["messages"][:-1]
            with at_row(number):
                encoded = chat.prompt(turns)
            if len(encoded) + max_new_tokens <= context:
                kept.append(record)
                ids.append(encoded)
            else:
                too_long.append(number)
        if not kept:
            raise DataError(
                f"no prompt leaves room for {max_new_tokens} new tokens in a context of {context}",
                fix="lower `max_new_tokens`, raise `context`, or shorten the prompts",
            )
        longest = max(map(len, ids)) + max_new_tokens
        length = min(context, -(-longest // STEP) * STEP)
        return cls(kept, ids, len(too_long), length, too_long[:NAMED])

    @property
    def count(self) -> int:
        return len(self.ids)

    def item(self, index: int) -> Any:
        raise NotImplementedError("prompts become rows once the policy has replied")


@dataclass(frozen=True)
class Rollout:
    """Replies to prompts as rows, before anything is known of their worth."""

    records: list[Mapping[str, Any]]
    texts: list[str]
    completions: list[Completion]
    rows: dict[str, Tensor]  # (N, T) each: tokens, targets, loss_mask, positions, doc_id


class Writer(Protocol):
    """Who writes replies in the policy's place. `complete` is called in a thread and touches no weights."""

    def hand_over(self) -> None: ...
    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
    ) -> list[Completion]: ...


Value = Callable[[Rollout, dict[str, Tensor]], dict[str, Tensor]]
"""Adds what the objective reads (advantage, returns, ...) to a rollout's tensors, and gives numbers to log under `log/`."""


@dataclass
class Rollouts:
    """Batches for the loop. `layout.batch` replies a step, `group` replies to a prompt, sets of `minibatches` batches."""

    prompts: Prompts
    policy: Transformer
    chat: ChatTokenizer
    machine: Machine
    layout: Layout
    sampling: Sampling
    value: Value
    folder: Path
    emit: Emit
    group: int = 1
    minibatches: int = 1
    updates: int = 1
    staleness: int = 0
    writer: Writer | None = None  # None: the policy, here
    truncate: float = 2.0  # importance weights of sampler against trainer are cut here (Yao et al. 2025)

    def __post_init__(self) -> None:
        self.period = self.minibatches * self.updates
        share = self.layout.batch * self.minibatches // self.layout.world
        if share % self.group:
            raise DataError(
                f"{share} replies of a rollout on one rank do not divide into groups of {self.group}",
                fix="make `batch` a multiple of `group`",
            )
        self._held: tuple[int, dict[str, Tensor]] | None = None
        self._asking: dict[int, Future[list[Completion]]] = {}  # sets that the writer is writing
        self._pool = ThreadPoolExecutor(1, "rollouts")

    def batch(self, step: int) -> list[Batch]:
        number, inside = divmod(step, self.period)
        update, part = divmod(inside, self.minibatches)
        whole = self._set(number)
        order = generator(self.layout.seed, "rollout", number, update, self.layout.rank).permutation(
            len(whole["tokens"])
        )
        size = self.layout.batch // self.layout.world
        mine = torch.from_numpy(order[part * size : (part + 1) * size])
        chosen = {name: value[mine] for name, value in whole.items()}
        micro = self.layout.micro
        cut: Any = [
            {name: value[i : i + micro] for name, value in chosen.items()} for i in range(0, size, micro)
        ]
        return cut  # type: ignore[no-any-return]

    def _set(self, number: int) -> dict[str, Tensor]:
        """The rollouts of set `number`, made now or by then; later ones are made ahead as `staleness` says.

        A writer is asked ahead and goes on while this process trains; what it wrote is scored when it is needed.
        """
        if self._held is None or self._held[0] != number:
            for ahead in range(number, number + self.staleness + 1):
                if not self._path(ahead).exists():
                    self._begin(ahead)
            if number in self._asking:
                self._make(number, self._asking.pop(number).result())
            self._held = (number, load_file(self._path(number)))
        return self._held[1]

    def _path(self, number: int) -> Path:
        return self.folder / f"set-{number:06d}-{self.layout.rank}.safetensors"

    def _begin(self, number: int) -> None:
        """Has set `number` written from the weights of now: here and at once, or by the writer in its own time."""
        if self.writer is None:
            self._make(number, self._replies(self._asked(number), self._seed(number)))
        elif number not in self._asking:
            self.writer.hand_over()
            prompts = [self.prompts.ids[i] for i in self._asked(number)]
            sampling = replace(self.sampling, seed=self._seed(number))
            self._asking[number] = self._pool.submit(self.writer.complete, prompts, sampling, self.chat.stops)

    def _seed(self, number: int) -> int:
        return derive(self.layout.seed, "set", number, self.layout.rank)

    def _make(self, number: int, found: list[Completion]) -> None:
        """Scores what was said to the prompts of a set, and writes it to disk."""
        rollout = self._rollout(self._asked(number), found)
        tensors = dict(rollout.rows)
        sampled = _like_mask(tensors["loss_mask"], [c.logp for c in rollout.completions])
        tensors["old_logp"] = self.scored(tensors, self.policy, {"logp"})["logp"]
        apart = (tensors["old_logp"] - sampled) * tensors["loss_mask"]
        count = float(tensors["loss_mask"].sum())  # of all that was said, whether or not it teaches
        tensors["correction"] = apart.exp().clamp_max(self.truncate)
        made = self.value(rollout, tensors)
        logged = {
            name.removeprefix("log/"): float(made.pop(name)) for name in list(made) if name.startswith("log/")
        }
        tensors |= made
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(number)) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        self.emit(
            {
                "event": "rollouts",
                "set": number,
                "replies": len(rollout.texts),
                "tokens": count / len(rollout.texts),
                "finished": float(np.mean([c.finished for c in rollout.completions])),
                "sampler_gap": float(apart.abs().sum()) / count,
                **logged,
            }
        )

    def _asked(self, number: int) -> list[int]:
        """Which prompts the set replies to on this rank: every epoch in a new order, `group` times each."""
        share = self.layout.batch * self.minibatches // self.group
        mine = share // self.layout.world
        first = number * share + self.layout.rank * mine
        asked = []
        for place in range(first, first + mine):
            epoch, inside = divmod(place, self.prompts.count)
            order = generator(self.layout.seed, "prompts", epoch).permutation(self.prompts.count)
            asked += [int(order[inside])] * self.group
        return asked

    def reply(self, asked: Sequence[int], seed: int) -> Rollout:
        """The policy's replies to prompts by their numbers."""
        return self._rollout(asked, self._replies(asked, seed))

    def _replies(self, asked: Sequence[int], seed: int) -> list[Completion]:
        training = self.policy.training
        self.policy.eval()
        prompts = [self.prompts.ids[i] for i in asked]
        with self.machine.autocast():
            found = complete(self.policy, prompts, replace(self.sampling, seed=seed), self.chat.stops)
        self.policy.train(training)
        return found

    def _rollout(self, asked: Sequence[int], found: list[Completion]) -> Rollout:
        prompts = [self.prompts.ids[i] for i in asked]
        rows = []
        for prompt, completion in zip(prompts, found, strict=True):
            encoded = Encoded(
                [*prompt, *completion.ids], [False] * len(prompt) + [True] * len(completion.ids)
            )
            rows.append(sequence_row([encoded], self.prompts.length, self.chat.pad))
        tensors: Any = collate(lambda i: [rows[i]], range(len(rows)))
        stops = frozenset(self.chat.stops)
        texts = [self.chat.decode([i for i in c.ids if i not in stops]) for c in found]
        return Rollout([self.prompts.records[i] for i in asked], texts, found, tensors)

    @torch.no_grad()
    def scored(self, rows: Mapping[str, Tensor], model: Any, want: set[str]) -> dict[str, Tensor]:
        """What `model` says of rows that are there already, in micro-batches: fields of Output by name, on the CPU."""
        pieces: dict[str, list[Tensor]] = {name: [] for name in want}
        for first in range(0, len(rows["tokens"]), self.layout.micro):
            batch: Any = {
                name: value[first : first + self.layout.micro].to(self.machine.device)
                for name, value in rows.items()
            }
            with self.machine.autocast():
                out = model(batch, want)
            for name in want:
                pieces[name].append(getattr(out, name).float().cpu())
        return {name: torch.cat(parts) for name, parts in pieces.items()}


def _like_mask(mask: Tensor, values: Sequence[Sequence[float]]) -> Tensor:
    """Numbers of each reply's tokens at the places where its row's mask is 1: (N, T)."""
    out = torch.zeros_like(mask)
    for row, numbers in enumerate(values):
        out[row, mask[row] > 0] = torch.tensor(list(numbers), dtype=out.dtype)
    return out

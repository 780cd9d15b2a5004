"""Batches of the policy's own text: prompts in, replies, rewards and advantages out. Pure in (seed, step) and the weights.

A *set* of rollouts serves `period` steps (its minibatches, `updates` times over). It is written to disk before it is used: a run
that is killed and resumed finds the sets that its weights of then produced, and with `staleness` k a set is made k sets before
it is needed, from the weights of that time (Noukhovitch et al. 2024, asynchronous RLHF).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.batches.pairs import STEP
from trivium.batches.rows import Layout, collate, sequence_row
from trivium.errors import DataError
from trivium.files import atomic_path
from trivium.generate.sampling import Sampling
from trivium.generate.slots import Completion, complete
from trivium.model.transformer import Transformer
from trivium.seeds import derive, generator
from trivium.text.chat import ChatTokenizer, Encoded
from trivium.train.distributed import any_rank
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

    @classmethod
    def build(
        cls, records: Sequence[Mapping[str, Any]], chat: ChatTokenizer, context: int, max_new_tokens: int
    ) -> Prompts:
        kept: list[Mapping[str, Any]] = []
        ids: list[list[int]] = []
        for record in records:
            turns = record["prompt"] if "prompt" in record else record["messages"][:-1]
            encoded = chat.prompt(turns)
            if len(encoded) + max_new_tokens <= context:
                kept.append(record)
                ids.append(encoded)
        if not kept:
            raise DataError(
                f"no prompt leaves room for {max_new_tokens} new tokens in a context of {context}",
                fix="lower `max_new_tokens`, raise `context`, or shorten the prompts",
            )
        longest = max(map(len, ids)) + max_new_tokens
        return cls(kept, ids, len(records) - len(kept), min(context, -(-longest // STEP) * STEP))

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

    def batch(self, step: int) -> list[Batch]:
        number, inside = divmod(step, self.period)
        update, part = divmod(inside, self.minibatches)
        whole = self._set(number)
        order = generator(self.layout.seed, "rollout", number, update).permutation(len(whole["tokens"]))
        size = self.layout.batch // self.layout.world
        first = part * self.layout.batch + self.layout.rank * size
        chosen = {name: value[torch.from_numpy(order[first : first + size])] for name, value in whole.items()}
        micro = self.layout.micro
        cut: Any = [
            {name: value[i : i + micro] for name, value in chosen.items()} for i in range(0, size, micro)
        ]
        return cut  # type: ignore[no-any-return]

    def _set(self, number: int) -> dict[str, Tensor]:
        """The rollouts of set `number`, of all ranks, made now or by then; later ones are made ahead as `staleness` says."""
        if self._held is None or self._held[0] != number:
            for ahead in range(number, number + self.staleness + 1):
                if any_rank(not self._parts(ahead), self.machine.device):
                    self._make(ahead)
                    any_rank(False, self.machine.device)  # all have written
            parts = [load_file(path) for path in self._parts(number)]
            self._held = (number, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        return self._held[1]

    def _path(self, number: int, rank: int, world: int) -> Path:
        return self.folder / f"set-{number:06d}-{rank}-of-{world}.safetensors"

    def _parts(self, number: int) -> list[Path]:
        """The files of a set that is whole, in the order of ranks; however many ranks wrote it."""
        for found in sorted(self.folder.glob(f"set-{number:06d}-0-of-*")):
            world = int(found.stem.rpartition("-")[2])
            parts = [self._path(number, rank, world) for rank in range(world)]
            if all(part.exists() for part in parts):
                return parts
        return []

    def _make(self, number: int) -> None:
        """This rank's part of a set: the same replies whichever rank writes them."""
        rank, world = self.layout.rank, self.layout.world
        asked = self._asked(number)
        mine = len(asked) // world
        rollout = self.reply(
            asked[rank * mine : (rank + 1) * mine], derive(self.layout.seed, "set", number), first=rank * mine
        )
        tensors = dict(rollout.rows)
        sampled = _like_mask(tensors["loss_mask"], [c.logp for c in rollout.completions])
        tensors["old_logp"] = self.scored(tensors, self.policy, {"logp"})["logp"]
        apart = (tensors["old_logp"] - sampled) * tensors["loss_mask"]
        tensors["correction"] = apart.exp().clamp_max(self.truncate)
        made = self.value(rollout, tensors)
        logged = {
            name.removeprefix("log/"): float(made.pop(name)) for name in list(made) if name.startswith("log/")
        }
        tensors |= made
        count = float(tensors["loss_mask"].sum().clamp_min(1))
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(number, rank, world)) as temporary:
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
        """Which prompts the set replies to, over all ranks: every epoch in a new order, `group` times each."""
        share = self.layout.batch * self.minibatches // self.group
        asked = []
        for place in range(number * share, (number + 1) * share):
            epoch, inside = divmod(place, self.prompts.count)
            order = generator(self.layout.seed, "prompts", epoch).permutation(self.prompts.count)
            asked += [int(order[inside])] * self.group
        return asked

    def reply(self, asked: Sequence[int], seed: int, first: int = 0) -> Rollout:
        """The policy's replies to prompts by their numbers; `first` is the place of the first among all of the set."""
        training = self.policy.training
        self.policy.eval()
        prompts = [self.prompts.ids[i] for i in asked]
        with self.machine.autocast():
            sampling = replace(self.sampling, seed=seed)
            found = complete(self.policy, prompts, sampling, self.chat.stops, first=first)
        self.policy.train(training)
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

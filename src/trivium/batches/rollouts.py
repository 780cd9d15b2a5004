"""Batches of the policy's own text: prompts in, replies, rewards and advantages out. Pure in (seed, step) and the weights.

A *set* of rollouts serves `period` steps (its minibatches, `updates` times over). It is written to disk before it is used: a run
that is killed and resumed finds the sets that its weights of then produced, and with `staleness` k a set is made k sets before
it is needed, from the weights of that time (Noukhovitch et al. 2024, asynchronous RLHF): by a thread on a device of its own
while training goes on, if there is one, or by a server; what that has not finished when the run is killed, it is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trivium.batches.prompts import Prompts
from trivium.batches.rows import BatchSharding, collate, sequence_row
from trivium.batches.signal import Signal
from trivium.errors import DataError
from trivium.files import atomic_path
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import Completion, complete
from trivium.model.transformer import Transformer
from trivium.plan import flops
from trivium.seeds import derive, generator
from trivium.text.chat import ChatTokenizer, Encoded
from trivium.train.distributed import any_rank
from trivium.train.machine import Machine
from trivium.types import Batch, Emit


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
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stop: Sequence[int]
    ) -> list[Completion]: ...


Value = Callable[[Rollout, dict[str, Tensor], Any], dict[str, Tensor]]
"""Adds what the objective reads (advantage, returns, ...) to a rollout's tensors, and gives numbers to log under `log/`. Called
with the rollout, its tensors and the network that wrote it."""


@dataclass
class Rollouts:
    """`LiveBatches` for the loop. `sharding.batch` replies a step, `group` replies to a prompt, sets of
    `minibatches` batches."""

    prompts: Prompts
    network: Any  # in training: the policy, or the policy and its critic
    chat: ChatTokenizer
    machine: Machine
    sharding: BatchSharding
    sampling: SamplingParams
    value: Value
    folder: Path
    emit: Emit
    group: int = 1
    minibatches: int = 1
    updates: int = 1
    staleness: int = 0
    truncate: float = 2.0  # importance weights of sampler against trainer are cut here (Yao et al. 2025)
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda whole: (
        whole
    )  # sees the sets of all ranks as one
    ahead_on: str | None = (
        None  # the device on which sets are made ahead; None: where training is, before it goes on
    )
    writer: Writer | None = None  # None: the policy
    passes: int = 0  # forward passes of models of this size that `value` makes over a reply
    steps: int | None = None  # of the run: no set is made ahead that it will not use
    stop_without_signal: int | None = None

    @property
    def live_flops(self) -> float:
        """A reply is written here (unless a server writes it), scored by the policy and valued, once for all its updates."""
        forward = flops.forward(policy_of(self.network).config, self.prompts.length)
        often = (0 if self.writer else 1) + 1 + self.passes
        return forward * often * self.prompts.tokens_per_item * self.sharding.batch / self.updates

    def __post_init__(self) -> None:
        self.period = self.minibatches * self.updates
        share = self.sharding.batch * self.minibatches // self.sharding.world
        if share % self.group:
            raise DataError(
                f"{share} replies of a rollout on one rank do not divide into groups of {self.group}",
                fix="make `batch` a multiple of `group`",
            )
        self._held: tuple[int, dict[str, Tensor]] | None = None
        self._thread = ThreadPoolExecutor(1) if self.ahead_on or self.writer else None
        self._asked_for: dict[int, Future[list[Completion]]] = {}  # sets that the writer is writing
        self._under_way: dict[int, Future[None]] = {}
        self._sets = None if self.steps is None else -(-self.steps // self.period)
        self._signal = Signal(self.group, self.stop_without_signal, self._sets, self.emit, self._earlier)

    def batch(self, step: int) -> list[Batch]:
        number, inside = divmod(step, self.period)
        update, part = divmod(inside, self.minibatches)
        whole = self._set(number)
        order = generator(self.sharding.seed, "rollout", number, update).permutation(len(whole["tokens"]))
        size = self.sharding.batch // self.sharding.world
        first = part * self.sharding.batch + self.sharding.rank * size
        chosen = {name: value[torch.from_numpy(order[first : first + size])] for name, value in whole.items()}
        micro = self.sharding.micro
        cut: Any = [
            {name: value[i : i + micro] for name, value in chosen.items()} for i in range(0, size, micro)
        ]
        return cut  # type: ignore[no-any-return]

    def _set(self, number: int) -> dict[str, Tensor]:
        """The rollouts of set `number`, of all ranks, made now or by then; later ones are made ahead as `staleness` says."""
        if self._held is None or self._held[0] != number:
            self.settle()
            if number in self._asked_for:  # no new weights while the server is writing this one
                self._asked_for[number].result()
            end = number + self.staleness + 1
            if self._sets is not None:  # a batch that was left out may have moved the run past its last set
                end = max(number + 1, min(end, self._sets))
            for ahead in range(number, end):
                if not any_rank(not self._parts(ahead), self.machine.device):
                    continue
                if self.writer is not None:
                    self._ask(ahead)
                elif self._thread is not None and ahead > number:
                    frozen = deepcopy(self.network).to(self.ahead_on).requires_grad_(False)
                    self._under_way[ahead] = self._thread.submit(self._make, ahead, frozen)
                else:
                    self._make(ahead, self.network)
                    any_rank(False, self.machine.device)  # all have written
            if number in self._asked_for:
                self._make(number, self.network, self._asked_for.pop(number).result())
                any_rank(False, self.machine.device)
            whole = self._read(number)
            self._signal.look(number, whole)
            whole.pop("reward", None)
            self._held = (number, self.finish(whole))
        return self._held[1]

    def _read(self, number: int) -> dict[str, Tensor]:
        """The tensors of a set that is whole, of all ranks."""
        parts = [load_file(path) for path in self._parts(number)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _earlier(self, number: int) -> dict[str, Tensor] | None:
        return self._read(number) if self._parts(number) else None

    def close(self) -> None:
        """Ends the thread: what it has not begun is left, what it is making is waited for."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _ask(self, number: int) -> None:
        """Has the writer begin set `number`, with the weights of now. What it says is scored when the set is needed."""
        assert self.writer is not None and self._thread is not None
        if number not in self._asked_for:
            self.writer.hand_over()
            asked, seed, first = self._mine(number)
            prompts = [self.prompts.ids[i] for i in asked]
            sampling = replace(self.sampling, seed=derive(seed, "from", first))
            self._asked_for[number] = self._thread.submit(
                self.writer.complete, prompts, sampling, self.chat.stops
            )

    def settle(self) -> None:
        """Waits for the sets under way: what a checkpoint goes on from is on disk before it is written."""
        for number in list(self._under_way):
            self._under_way.pop(number).result()
            any_rank(False, self.machine.device)  # all have written

    def _path(self, number: int, rank: int, world: int) -> Path:
        return self.folder / f"set-{number:06d}-{rank}-of-{world}.safetensors"

    def _parts(self, number: int) -> list[Path]:
        """The files of a set that is whole, in the order of ranks; however many ranks wrote it."""
        for file in sorted(self.folder.glob(f"set-{number:06d}-0-of-*")):
            world = int(file.stem.rpartition("-")[2])
            parts = [self._path(number, rank, world) for rank in range(world)]
            if all(part.exists() for part in parts):
                return parts
        return []

    def _mine(self, number: int) -> tuple[list[int], int, int]:
        """(prompts of this rank's part of a set, the set's seed, the place of the first of them in the set)."""
        asked, rank = self._asked(number), self.sharding.rank
        mine = len(asked) // self.sharding.world
        return asked[rank * mine : (rank + 1) * mine], derive(self.sharding.seed, "set", number), rank * mine

    def _make(self, number: int, network: Any, replies: list[Completion] | None = None) -> None:
        """This rank's part of a set: the same replies whichever rank writes them. `replies`: what the writer said."""
        policy = policy_of(network)
        rank, world = self.sharding.rank, self.sharding.world
        asked, seed, first = self._mine(number)
        rollout = (
            self.reply(policy, asked, seed, first=first) if replies is None else self._rollout(asked, replies)
        )
        tensors = dict(rollout.rows)
        sampled = _like_mask(tensors["loss_mask"], [c.logp for c in rollout.completions])
        if policy.dropout is not None:
            tensors["dropout_key"] = _keys(tensors["tokens"], seed, first)
        tensors["old_logp"] = self.scored(tensors, policy, {"logp"})["logp"]
        trained = tensors["old_logp"]
        if (
            self.writer is not None and "temperature" in tensors
        ):  # a server reports what it said at temperature 1
            plain = {name: value for name, value in tensors.items() if name != "temperature"}
            trained = self.scored(plain, policy, {"logp"})["logp"]
        apart = (trained - sampled) * tensors["loss_mask"]
        count = float(tensors["loss_mask"].sum())  # of all that was said, whether or not it teaches
        tensors["correction"] = apart.exp().clamp_max(self.truncate)
        valued = self.value(rollout, tensors, network)
        logged = {
            name.removeprefix("log/"): float(valued.pop(name))
            for name in list(valued)
            if name.startswith("log/")
        }
        tensors |= valued
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
        share = self.sharding.batch * self.minibatches // self.group
        asked = prompts_of(self.sharding.seed, number, share, self.prompts.count)
        return [place for place in asked for _ in range(self.group)]

    def reply(self, policy: Transformer, asked: Sequence[int], seed: int, first: int = 0) -> Rollout:
        """The policy's replies to prompts by their numbers; `first` is the place of the first among all of the set."""
        training = policy.training
        policy.eval()
        prompts = [self.prompts.ids[i] for i in asked]
        with self.machine.autocast():
            sampling = replace(self.sampling, seed=seed)
            replies = complete(policy, prompts, sampling, self.chat.stops, first=first)
        policy.train(training)
        return self._rollout(asked, replies)

    def _rollout(self, asked: Sequence[int], replies: list[Completion]) -> Rollout:
        """Replies to prompts by their numbers, as rows."""
        prompts = [self.prompts.ids[i] for i in asked]
        rows = []
        for prompt, completion in zip(prompts, replies, strict=True):
            encoded = Encoded(
                [*prompt, *completion.ids], [False] * len(prompt) + [True] * len(completion.ids)
            )
            rows.append(sequence_row([encoded], self.prompts.length, self.chat.pad))
        tensors: Any = collate(lambda i: [rows[i]], range(len(rows)))
        if self.sampling.temperature not in (0.0, 1.0):  # the policy that is trained is the one that spoke
            tensors["temperature"] = torch.full((len(rows),), self.sampling.temperature)
        stops = frozenset(self.chat.stops)
        texts = [self.chat.decode([i for i in c.ids if i not in stops]) for c in replies]
        return Rollout([self.prompts.records[i] for i in asked], texts, replies, tensors)

    @torch.no_grad()
    def scored(self, rows: Mapping[str, Tensor], model: Any, want: set[str]) -> dict[str, Tensor]:
        """What `model` says of rows that are there already, in micro-batches: fields of Output by name, on the CPU."""
        pieces: dict[str, list[Tensor]] = {name: [] for name in want}
        device = next(model.parameters()).device
        for first in range(0, len(rows["tokens"]), self.sharding.micro):
            batch: Any = {
                name: value[first : first + self.sharding.micro].to(device) for name, value in rows.items()
            }
            with self.machine.autocast():
                out = model(batch, want)
            for name in want:
                pieces[name].append(getattr(out, name).float().cpu())
        return {name: torch.cat(parts) for name, parts in pieces.items()}


def prompts_of(seed: int, number: int, share: int, count: int) -> list[int]:
    """The places of the `share` prompts, of `count`, that set `number` asks: every epoch in a new order."""
    places = range(number * share, (number + 1) * share)
    orders = {
        epoch: generator(seed, "prompts", epoch).permutation(count)
        for epoch in range(places[0] // count, places[-1] // count + 1)
    }
    return [int(orders[place // count][place % count]) for place in places]


def policy_of(network: Any) -> Transformer:
    """The model that writes, in what the loop calls."""
    policy: Transformer = getattr(network, "policy", network)
    return policy


def _keys(tokens: Tensor, seed: int, first: int) -> Tensor:
    """`dropout_key` of rows (N, T), the first of which is the set's reply number `first`: int64."""
    rows = [
        generator(seed, "dropout", first + row).integers(0, 2**31, tokens.shape[1])
        for row in range(len(tokens))
    ]
    return torch.from_numpy(np.stack(rows))


def _like_mask(mask: Tensor, values: Sequence[Sequence[float]]) -> Tensor:
    """Numbers of each reply's tokens at the places where its row's mask is 1: (N, T)."""
    out = torch.zeros_like(mask)
    for row, numbers in enumerate(values):
        out[row, mask[row] > 0] = torch.tensor(list(numbers), dtype=out.dtype)
    return out

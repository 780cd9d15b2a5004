"""Continuous batching: a finished sequence leaves its slot and the next prompt takes it. Used where log-probabilities count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.errors import DataError
from trivium.generate.sampling import Sampling, pick
from trivium.model.cache import Cache
from trivium.model.transformer import Transformer
from trivium.seeds import generator


class Completion(NamedTuple):
    """What a model said: ids (the stop id included), each id's log-probability at temperature 1, whether it stopped."""

    ids: list[int]
    logp: list[float]
    finished: bool


class SlotCache(Cache):
    """A cache whose rows have lengths of their own: `lengths` (B,) positions are filled in each."""

    lengths: Tensor

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one position, k and v (B, K, 1, E), behind each row; returns all up to the longest row."""
        rows = torch.arange(len(k), device=k.device)
        self.keys[layer][rows, :, self.lengths] = k[:, :, 0]
        self.values[layer][rows, :, self.lengths] = v[:, :, 0]
        return self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]


class _Slots:
    """The rows that are being decoded."""

    def __init__(self, model: Transformer, rows: int, capacity: int, sampling: Sampling) -> None:
        self.model, self.sampling, self.weight = model, sampling, model.output_weight
        self.device = self.weight.device
        self.cache = SlotCache(model.config, rows, capacity, dtype=self.weight.dtype, device=self.device)
        for values in (*self.cache.keys, *self.cache.values):
            values.zero_()  # what the mask hides must still be finite: 0 x nan is nan
        self.cache.lengths = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.uniform = np.zeros((rows, sampling.max_new_tokens))

    def enter(self, rows: list[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Prompts into free rows, in one pass, padded on the right: logits of their last places, (len(rows), V)."""
        longest = max(map(len, prompts))
        tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.as_tensor(prompt)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        own = Cache(self.model.config, len(rows), longest, dtype=self.weight.dtype, device=self.device)
        positions = torch.arange(longest, device=self.device).expand(len(rows), -1)
        hidden = self.model.hidden(tokens.to(self.device), positions, None, own)
        where = torch.tensor(rows, device=self.device)
        for layer in range(len(own.keys)):
            self.cache.keys[layer][where, :, :longest] = own.keys[layer]
            self.cache.values[layer][where, :, :longest] = own.values[layer]
        self.cache.lengths[where] = lengths
        last = hidden[torch.arange(len(rows), device=self.device), lengths - 1]
        return F.linear(last, self.weight).float()

    def step(self) -> Tensor:
        """One more position for every row: logits (B, V)."""
        lengths = self.cache.lengths
        self.cache.length = int(lengths.max()) + 1
        columns = torch.arange(self.cache.length, device=self.device)
        visible = (columns[None] <= lengths[:, None])[:, None, None]
        hidden = self.model.hidden(self.tokens[:, None], lengths[:, None], visible, self.cache)
        lengths += 1
        return F.linear(hidden[:, -1], self.weight).float()

    def draw(self, logits: Tensor, uniform: np.ndarray) -> tuple[Tensor, list[int], list[float]]:
        new = pick(logits, self.sampling, torch.from_numpy(uniform).to(self.device))
        logp = logits.gather(-1, new[:, None]).squeeze(-1) - logits.logsumexp(-1)
        return new, new.tolist(), logp.tolist()


def _limits(prompts: Sequence[Sequence[int]], context: int, new: int) -> list[int]:
    """How many tokens each prompt may get."""
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise DataError(
                f"prompt {number} has {len(prompt)} tokens; it needs at least 1 and fewer than the context, {context}",
                fix="shorten the prompt, or train with a longer `context`",
            )
    return [min(new, context - len(prompt)) for prompt in prompts]


@torch.no_grad()
def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop: Sequence[int],
    *,
    slots: int = 64,
) -> list[Completion]:
    """A completion for each prompt, in their order, by the model's weights as they are (no copy).

    Prompt i draws from a stream of its own, so `slots` decides only speed and memory (up to rounding of the products).
    DataError for a prompt that is empty or leaves no room in the model's context.
    """
    if not prompts:
        return []
    limits, ending = _limits(prompts, model.config.context, sampling.max_new_tokens), set(stop)
    count = min(max(slots, 1), len(prompts))
    state = _Slots(model, count, max(len(p) + n for p, n in zip(prompts, limits, strict=True)), sampling)
    found = [Completion([], [], False) for _ in prompts]
    waiting = [i for i in reversed(range(len(prompts))) if limits[i] > 0]
    owner: list[int | None] = [None] * count

    def take(row: int, token: int, logp: float) -> None:
        number = owner[row]
        if number is None:
            return
        ids, logps, _ = found[number]
        ids.append(token)
        logps.append(logp)
        if token in ending or len(ids) == limits[number]:
            found[number] = Completion(ids, logps, token in ending)
            owner[row] = None
            state.cache.lengths[row] = 0

    while True:
        free = [row for row in range(count) if owner[row] is None][: len(waiting)]
        if free:
            numbers = [waiting.pop() for _ in free]
            for row, number in zip(free, numbers, strict=True):
                owner[row] = number
                state.uniform[row] = generator(sampling.seed, "complete", number).random(
                    sampling.max_new_tokens
                )
            logits = state.enter(free, [prompts[number] for number in numbers])
            new, ids, logps = state.draw(logits, state.uniform[free, 0])
            state.tokens[torch.tensor(free, device=state.device)] = new
            for row, token, logp in zip(free, ids, logps, strict=True):
                take(row, token, logp)
            continue
        if all(number is None for number in owner):
            return found
        for row, number in enumerate(owner):
            if number is None:
                state.cache.lengths[row] = 0  # an idle row computes at its first place
        places = [0 if number is None else len(found[number].ids) for number in owner]
        new, ids, logps = state.draw(state.step(), state.uniform[np.arange(count), places])
        state.tokens = new
        for row in range(count):
            take(row, ids[row], logps[row])

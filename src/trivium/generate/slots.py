"""Continuous batching (Yu et al. 2022, Orca): a fixed number of slots; a finished sequence leaves and the next prompt enters."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivium.errors import DataError
from trivium.generate.packed import Linear, packed
from trivium.generate.sampling import SamplingParams, draw, log_prob
from trivium.model.cache import cache_dtype
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.seeds import generator

PADDING = 0.75
"""Prompts that enter together share a pass if each has at least this share of the longest one's tokens."""


class Completion(NamedTuple):
    """One reply. `ids` holds the stop id if the model said it; `logp` (same length) what a fresh forward
    pass gives them, its logits divided by the temperature (by 1 if that is 0), unfiltered."""

    ids: list[int]
    logp: list[float]
    finished: bool  # it stopped by itself; False where the length limit did


class SlotCache:
    """Keys and values of the sequences in `slots` slots, each of its own length: two tensors (slots, K, capacity, E) a layer.

    In the place of a `model.cache.Cache`: `rows` says which slots a pass is about and `places` (rows, T) where its tokens go.
    """

    def __init__(self, config: ModelConfig, slots: int, capacity: int, like: Tensor) -> None:
        like = like.new_empty((), dtype=cache_dtype(like))
        self.keys, self.values = (
            [like.new_zeros(slots, heads, capacity, width) for _ in range(config.layers)]
            for heads, width in config.cached
        )
        self.rows: Tensor | None = None  # None: all slots
        self.fill: list[
            int
        ] = []  # for each of `rows`, the row of the pass that it gets: equal prompts are read once
        self.places = torch.zeros(slots, 1, dtype=torch.int64)
        self.seen = 0  # columns that the pass attends to
        self.last: Tensor | None = None  # last position of each row's text, see `rope.rotary`

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k and v (rows, K, T, E) at `places`; returns what the pass attends to."""
        held_keys, held_values = self.keys[layer], self.values[layer]
        if self.rows is not None:  # a prompt enters: it attends to itself only
            for number, row in zip(self.fill, self.rows.tolist(), strict=True):
                held_keys[row, :, : keys.shape[2]] = keys[number]
                held_values[row, :, : keys.shape[2]] = values[number]
            return keys, values
        for held, new in ((held_keys, keys), (held_values, values)):
            index = self.places[:, None, :, None].expand_as(new)
            held.scatter_(2, index, new.to(held.dtype))
        return held_keys[:, :, : self.seen], held_values[:, :, : self.seen]

    @property
    def query_places(self) -> Tensor | None:
        """Where the pass's queries stand among the keys, (rows, 1); None where a prompt enters: they are the keys."""
        return self.places if self.rows is None else None

    def keep(self, slots: Tensor) -> None:
        self.keys = [k[slots] for k in self.keys]
        self.values = [v[slots] for v in self.values]


class _Engine:
    """The state of one call: what waits, what is in the slots, what is done."""

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        stop: Sequence[int],
        slots: int,
        first: int,
        head: Linear,
    ) -> None:
        context = model.config.context
        longest = max(len(prompt) for prompt in prompts)
        if longest >= context:
            raise DataError(
                f"the prompt has {longest} tokens; the model's context is {context}, and the reply needs room too",
                fix="shorten the prompt, or train with a longer `context`",
            )
        self.model, self.prompts, self.sampling, self.first = model, prompts, sampling, first
        self.head = head
        self.device, self.stops = model.output_weight.device, frozenset(stop)
        self.limits = [min(sampling.max_new_tokens, context - len(prompt)) for prompt in prompts]
        capacity = max(len(p) + n for p, n in zip(prompts, self.limits, strict=True))
        # longest first: what enters together has like lengths, and the long ones do not come alone at the end
        self.waiting = deque(sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)))
        slots = min(slots, len(prompts))
        self.cache = SlotCache(model.config, slots, capacity, model.output_weight)
        self.owner = [-1] * slots  # which prompt is in a slot
        self.length = torch.zeros(slots, dtype=torch.int64, device=self.device)
        self.last = torch.zeros(slots, dtype=torch.int64, device=self.device)
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.logp: list[list[float]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.uniforms: dict[int, NDArray[np.float64]] = {}  # each prompt has a stream of its own

    def passes(self, decode: Callable[[Sequence[int]], str] | None) -> Iterator[None]:
        """Writes all replies; gives the word to the caller after each pass."""
        while self.waiting or any(owner >= 0 for owner in self.owner):
            self.fill()
            if self.sampling.stop_strings and decode is not None:
                _stop_by_text(self, self.sampling.stop_strings, decode)
            yield
            self.shrink()
            if any(owner >= 0 for owner in self.owner):
                self.step()
        yield

    def fill(self) -> None:
        """Prompts into the free slots, those of like length in one pass, which also gives their first tokens."""
        free = [slot for slot, owner in enumerate(self.owner) if owner < 0]
        while free and self.waiting:
            least = PADDING * len(self.prompts[self.waiting[0]])
            like = itertools.takewhile(lambda n: len(self.prompts[n]) >= least, list(self.waiting))  # noqa: B023
            entering = list(itertools.islice(like, len(free)))
            for _ in entering:
                self.waiting.popleft()
            self.enter(free[: len(entering)], entering)
            free = free[len(entering) :]

    def enter(self, slots: Sequence[int], entering: Sequence[int]) -> None:
        """One pass over the prompts `entering`, in which samples of one prompt share a row."""
        for slot, number in zip(slots, entering, strict=True):
            self.owner[slot] = number
            if self.sampling.temperature > 0:
                stream = generator(self.sampling.seed, "sample", self.first + number)
                self.uniforms[number] = stream.random(self.limits[number])
        final = self.read(slots, [self.prompts[number] for number in entering])
        index = torch.tensor(slots, device=self.device)
        self.length[index] = torch.tensor([len(self.prompts[n]) for n in entering], device=self.device)
        self.take(slots, self.head(final).float())

    def read(self, slots: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Puts the keys and values of whole texts into `slots`; their last hidden states (slots, D)."""
        once = {tuple(text): None for text in texts}
        places = {text: row for row, text in enumerate(once)}
        rows = [places[tuple(text)] for text in texts]
        longest = max(map(len, once))
        tokens = torch.zeros(len(once), longest, dtype=torch.int64)
        for row, text in enumerate(once):
            tokens[row, : len(text)] = torch.as_tensor(text)
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        positions = torch.arange(longest, device=self.device).expand(len(once), -1)
        self.cache.rows, self.cache.fill = torch.tensor(slots), rows
        self.cache.last = torch.tensor([len(text) - 1 for text in once], device=self.device)
        hidden = self.model.hidden(tokens.to(self.device), positions, None, self.cache)
        self.cache.rows = None
        return hidden[torch.tensor(rows, device=self.device), lengths - 1]

    def reread(self) -> None:
        """Texts that have become so long that all their positions are other ones are read again."""
        changes = self.model.config.changes_at
        for slot, number in enumerate(self.owner):
            if number >= 0 and int(self.length[slot]) == changes:
                self.read([slot], [[*self.prompts[number], *self.ids[number]]])

    def step(self) -> None:
        """One token for every slot."""
        if self.model.config.changes_at is not None:
            self.reread()
        self.cache.last = self.length
        self.cache.places = self.length[:, None]
        self.cache.seen = seen = int(self.length.max()) + 1
        mask = torch.arange(seen, device=self.device) <= self.length[:, None]
        hidden = self.model.hidden(self.last[:, None], self.length[:, None], mask[:, None, None], self.cache)
        self.length += 1
        self.take(range(len(self.owner)), self.head(hidden[:, -1]).float())

    def take(self, slots: Sequence[int], logits: Tensor) -> None:
        """Draws a token for each of `slots` from logits (slots, V) float32 and lets go of the sequences that end with it."""
        owners = [self.owner[slot] for slot in slots]
        uniform = torch.tensor(
            [self.uniforms[n][len(self.ids[n])] if n in self.uniforms else 0.0 for n in owners],
            dtype=torch.float64, device=self.device,
        )  # fmt: skip
        new = draw(logits, self.sampling, uniform)
        values = log_prob(logits / (self.sampling.temperature or 1.0), new)
        self.last[torch.tensor(list(slots), device=self.device)] = new
        for slot, number, token, value in zip(slots, owners, new.tolist(), values.tolist(), strict=True):
            if number < 0:
                continue
            self.ids[number].append(token)
            self.logp[number].append(value)
            self.ended[number] = token in self.stops
            if self.ended[number] or len(self.ids[number]) >= self.limits[number]:
                self.release(slot, number)

    def release(self, slot: int, number: int) -> None:
        self.owner[slot] = -1
        self.length[slot] = 0
        self.uniforms.pop(number, None)

    def shrink(self) -> None:
        """Once nothing waits, slots that are free are dropped when they are half of all."""
        busy = [slot for slot, owner in enumerate(self.owner) if owner >= 0]
        if self.waiting or not busy or len(busy) * 2 > len(self.owner):
            return
        keep = torch.tensor(busy, device=self.device)
        self.cache.keep(keep)
        self.owner = [self.owner[slot] for slot in busy]
        self.length, self.last = self.length[keep], self.last[keep]


@torch.no_grad()
def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    stop: Sequence[int],
    *,
    slots: int = 64,
    first: int = 0,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> list[Completion]:
    """A reply to each prompt (ids), in the order of the prompts.

    Every prompt draws from a stream of its own (`sampling.seed` and its number, counted from `first`): a reply does not depend
    on `slots`, nor on which rank writes it.
    `decode` turns ids into text and is needed for `sampling.stop_strings`. The model's weights are used where they are: what
    training changes between two calls is seen by the second (on a CPU a packed copy lives as long as the call).
    DataError for a prompt that leaves no room in the model's context.
    """
    if not prompts:
        return []
    if sampling.stop_strings and decode is None:
        raise ValueError("stop strings need `decode`")
    with packed(model) as head:
        engine = _Engine(model, prompts, sampling, stop, slots, first, head)
        for _ in engine.passes(decode):
            pass
    if (
        sampling.stop_strings and decode is not None
    ):  # also where the string's last token was the last allowed
        engine.ended = [
            ended or holds(decode(ids), sampling.stop_strings)
            for ended, ids in zip(engine.ended, engine.ids, strict=True)
        ]
    return [
        Completion(ids, logp, ended)
        for ids, logp, ended in zip(engine.ids, engine.logp, engine.ended, strict=True)
    ]


@torch.no_grad()
def written(
    model: Transformer, prompt: Sequence[int], sampling: SamplingParams, stop: Sequence[int]
) -> Iterator[int]:
    """The ids that `complete` gives to one prompt, the stop id included, each as soon as it is drawn. DataError as there."""
    with packed(model) as head:
        engine = _Engine(model, [prompt], sampling, stop, 1, 0, head)
        given = 0
        for _ in engine.passes(None):
            yield from engine.ids[0][given:]
            given = len(engine.ids[0])


def _stop_by_text(engine: _Engine, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
    """Ends the sequences whose text holds one of `strings`."""
    for slot, number in enumerate(engine.owner):
        if number >= 0 and holds(decode(engine.ids[number]), strings):
            engine.ended[number] = True
            engine.release(slot, number)


def holds(text: str, strings: Sequence[str]) -> bool:
    """Whether a stop string stands in the text."""
    return any(string in text for string in strings)


def cut_text(text: str, strings: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    places = [place for string in strings if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text

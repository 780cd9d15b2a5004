"""Guesses of what a reply says next, many of which the model checks in one pass (speculative decoding, Leviathan et al. 2023).

The model draws each token as it ever does, from its own distribution with the reply's own stream of random numbers; a guess only
says which tokens to read ahead, and what was read behind a wrong one is not used. So the reply is the same token for token, drawn
or greedy, constrained or not: exact without a rule of rejection.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trivium.generate.native import Reader
from trivium.generate.paged import BLOCK, Blocks, PagedCache, blocks_of
from trivium.generate.sampling import SamplingParams, draw
from trivium.model.transformer import Transformer

LONGEST, SHORTEST = 4, 2
"""Tokens that must stand before, for what followed them to be guessed again."""
WIDE = 8
"""Bytes of an id where texts are searched."""


class Text(Protocol):
    """A reply that is being written. It can be a key of a dictionary."""

    @property
    def tokens(self) -> list[int]:
        """Ids of the prompt and the reply so far."""
        ...

    @property
    def sampling(self) -> SamplingParams: ...

    def coming(self, count: int) -> list[float]:
        """The numbers that the next tokens will be drawn with."""
        ...


class Guesser(Protocol):
    def follow(self, texts: Sequence[Text]) -> int:
        """Reads what has to be read once of each text, such as its prompt; how many tokens that were."""
        ...

    def guess(self, texts: Sequence[Text]) -> list[list[int]]:
        """What may follow each text; no ids where there is no idea."""
        ...

    def forget(self, text: Text) -> None:
        """It has ended, or will be read anew."""


class LookUp:
    """What followed the last tokens where they stood before in the same text (n-gram prompt look-up, Saxena 2023): it costs
    nothing, and pays where replies copy, as in summaries, edits, code and JSON."""

    def __init__(self, most: int = 8) -> None:
        self.most = most

    def follow(self, texts: Sequence[Text]) -> int:
        return 0

    def guess(self, texts: Sequence[Text]) -> list[list[int]]:
        return [self._after(text.tokens) for text in texts]

    def forget(self, text: Text) -> None:
        pass

    def _after(self, text: Sequence[int]) -> list[int]:
        packed = array("q", text).tobytes()
        for length in range(min(LONGEST, len(text) - 1), SHORTEST - 1, -1):
            end, tail = len(packed) - 1, packed[-WIDE * length :]
            while (at := packed.rfind(tail, 0, end)) >= 0:
                if at % WIDE == 0:
                    start = at // WIDE + length
                    return list(text[start : start + self.most])
                end = at + len(tail) - 1
        return []


class Draft:
    """A smaller model with the same vocabulary says what may follow, with the numbers that the model itself will draw with: two
    like distributions then mostly draw the same token. It keeps keys and values of its own, of at most `room` tokens in all."""

    def __init__(self, model: Transformer, reader: Reader, *, room: int, most: int = 4) -> None:
        self.model, self.reader, self.most = model, reader, most
        self.device = model.output_weight.device
        self.blocks = Blocks(max(2, room // BLOCK))
        self.cache = PagedCache(model.config, self.blocks.total, model.output_weight)
        self._held: dict[
            Text, tuple[list[int], list[int]]
        ] = {}  # blocks, and the ids that were read into them

    def forget(self, text: Text) -> None:
        held, _ = self._held.pop(text, ([], []))
        self.blocks.release(held)

    def follow(self, texts: Sequence[Text]) -> int:
        total = 0
        for text in texts:
            _, read = self._held.get(text, ([], []))
            unread = len(text.tokens) - len(read)
            if unread > self.most + 1 and self._room(text):
                self._catch_up(text)
                total += unread
        return total

    def guess(self, texts: Sequence[Text]) -> list[list[int]]:
        able = [text for text in texts if self._room(text)]
        guesses: dict[Text, list[int]] = {text: [] for text in texts}
        if able:
            likely = self.reader.head(torch.cat([self._catch_up(text) for text in able])).float()
            for number in range(self.most):
                for text, logits in zip(able, likely, strict=True):
                    uniform = torch.tensor(
                        [text.coming(number + 1)[number]], dtype=torch.float64, device=self.device
                    )
                    guesses[text].append(int(draw(logits[None], text.sampling, uniform)))
                if number + 1 < self.most:
                    new = torch.tensor([guesses[text][-1:] for text in able])
                    places = torch.tensor([[len(text.tokens) + number] for text in able])
                    likely = self.reader.head(self._read(able, new, places)[:, -1]).float()
            for text in able:
                self._held[text][1].extend(guesses[text][:-1])
        return [guesses[text] for text in texts]

    def _room(self, text: Text) -> bool:
        """Whether there are blocks for a text and what will be guessed."""
        wanted = len(text.tokens) + self.most
        blocks, _ = self._held.setdefault(text, ([], []))
        if wanted > self.model.config.context:
            return False
        while len(blocks) < blocks_of(wanted):
            if (block := self.blocks.take()) is None:
                return False
            blocks.append(block)
        return True

    def _catch_up(self, text: Text) -> Tensor:
        """Reads what it has not read of a text, at least the last token; the hidden state behind it (1, D)."""
        blocks, read = self._held[text]
        known = next(
            (n for n, (a, b) in enumerate(zip(read, text.tokens, strict=False)) if a != b),
            min(len(read), len(text.tokens)),
        )
        known = min(known, len(text.tokens) - 1)
        new = text.tokens[known:]
        places = torch.arange(known, len(text.tokens))[None]
        hidden = self._read([text], torch.tensor([new]), places)[:, -1]
        self._held[text] = (blocks, list(text.tokens))
        return hidden

    def _read(self, texts: Sequence[Text], tokens: Tensor, places: Tensor) -> Tensor:
        rows, last = [self._held[text][0] for text in texts], [int(row[-1]) for row in places]
        mask = self.cache.describe(rows, places, last)
        return self.reader.hidden(tokens.to(self.device), places.to(self.device), mask, self.cache)


@dataclass
class _Clocked:
    """What steps of one size of the batch took."""

    sums: dict[bool, tuple[float, float, int]] = field(default_factory=dict)  # seconds, tokens, steps
    pays: bool = True
    count: int = 0  # steps since the last look
    gap: int = 0  # steps until the next one


class Pays:
    """Whether reading ahead is worth it: seconds a token with and without, by how many sequences share the step. It is clocked as
    it goes, and the other way is looked at again: soon, since a busy machine's first steps say little, and more and more seldom
    while that changes nothing. What is said is the same either way."""

    TRIED = 3
    """Steps of a look."""
    SOON, SELDOM = 8, 256
    """Steps before the first look, and before the last ones."""
    WORTH = 0.9
    """Of the time without it, the most that reading ahead may take: what saves less is not told from what costs."""
    KEPT = 0.85
    """Of what was clocked before, at each step of the same way."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._sizes: dict[int, _Clocked] = {}
        self._read, self._reading = 0, 0.0  # tokens, seconds

    def ahead(self, rows: int, prompts: float = 0.0) -> bool:
        """Whether the next step of so many sequences is to read ahead. `prompts`: tokens of prompts, which a draft has to read,
        too, for each one that is said."""
        one = self._sizes.setdefault(rows.bit_length(), _Clocked())
        with_, without = self._cost(one, True), self._cost(one, False)
        if with_ is None or without is None:
            return with_ is None
        pays = with_ + prompts * self._reading / max(1, self._read) <= self.WORTH * without
        looked = one.count == one.gap + self.TRIED
        if pays != one.pays or not one.gap:
            one.pays, one.count, one.gap = pays, 0, self.SOON
        elif looked:
            one.count, one.gap = 0, min(2 * one.gap, self.SELDOM)
        one.count += 1
        return pays != (one.count > one.gap)

    def _cost(self, one: _Clocked, ahead: bool) -> float | None:
        """Seconds a token; None: it was not tried often enough. Sums are divided, not means of each step taken: a step that says
        nine tokens counts as nine."""
        seconds, tokens, steps = one.sums.get(ahead, (0.0, 0.0, 0))
        return seconds / tokens if steps >= self.TRIED else None

    def read(self, seconds: float, tokens: int) -> None:
        """A guesser read so many tokens once, before it guessed."""
        self._read, self._reading = self._read + tokens, self._reading + seconds

    def took(self, rows: int, ahead: bool, seconds: float, tokens: int) -> None:
        """A step of `rows` sequences said so many tokens."""
        sums = self._sizes.setdefault(rows.bit_length(), _Clocked()).sums
        before, said, steps = sums.get(ahead, (0.0, 0.0, 0))
        sums[ahead] = (self.KEPT * before + seconds, self.KEPT * said + max(1, tokens), steps + 1)

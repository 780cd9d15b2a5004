"""Guesses of what a reply says next, many of which the model checks in one pass (speculative decoding, Leviathan et al. 2023).

The model draws each token as it ever does, from its own distribution with the reply's own stream of random numbers; a guess only
says which tokens to read ahead, and what was read behind a wrong one is not used. So the reply is the same token for token, drawn
or greedy, constrained or not: exact without a rule of rejection.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
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
    def follow(self, texts: Sequence[Text]) -> None:
        """Reads what has to be read once of each text, such as its prompt: what comes before the clock of `Pays`."""
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

    def follow(self, texts: Sequence[Text]) -> None:
        pass

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

    def follow(self, texts: Sequence[Text]) -> None:
        for text in texts:
            _, read = self._held.get(text, ([], []))
            if len(text.tokens) - len(read) > self.most + 1 and self._room(text):
                self._catch_up(text)

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


class Pays:
    """Whether reading ahead is worth it: seconds a token with and without, by how many sequences share the step. It is clocked as
    it goes, and looked at again now and then. What is said is the same either way."""

    AGAIN, TRIED = 64, 2
    """Steps until the worse way is tried again, and for how many."""
    KEPT = 0.85
    """Of what was clocked before, at each step of the same way."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._clocked: dict[tuple[int, bool], tuple[float, float, int]] = {}  # seconds, tokens, steps
        self._steps: dict[int, int] = {}

    def ahead(self, rows: int) -> bool:
        """Whether the next step of so many sequences is to read ahead."""
        size = rows.bit_length()
        count = self._steps[size] = self._steps.get(size, 0) + 1
        with_, without = self._cost(size, True), self._cost(size, False)
        if with_ is None or without is None:
            return with_ is None
        return (with_ <= without) != (count % self.AGAIN < self.TRIED)

    def _cost(self, size: int, ahead: bool) -> float | None:
        """Seconds a token; None: it was not tried often enough. Sums are divided, not means of each step taken: a step that says
        nine tokens counts as nine."""
        seconds, tokens, steps = self._clocked.get((size, ahead), (0.0, 0.0, 0))
        return seconds / tokens if steps >= self.TRIED else None

    def took(self, rows: int, ahead: bool, seconds: float, tokens: int) -> None:
        """A step of `rows` sequences said so many tokens."""
        key = (rows.bit_length(), ahead)
        before, said, steps = self._clocked.get(key, (0.0, 0.0, 0))
        self._clocked[key] = (self.KEPT * before + seconds, self.KEPT * said + max(1, tokens), steps + 1)

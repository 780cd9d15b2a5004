"""Continuous batching with a fixed memory (Yu et al. 2022, Orca; Kwon et al. 2023; Agrawal et al. 2023, Sarathi): sequences join
and leave at every step, prompts are read in chunks between the steps, and each sequence is drawn its own way.

What a sequence says depends on its prompt and its sampling alone, not on who shares the batch: draws come from a stream of its
own, and one that had to give its memory away is read again and goes on where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trivium.generate.guess import Guesser, Pays
from trivium.generate.native import Reader
from trivium.generate.paged import BLOCK, Blocks, PagedCache, blocks_of
from trivium.generate.sampling import SamplingParams, draw
from trivium.model.transformer import Transformer
from trivium.seeds import generator


class Token(NamedTuple):
    """One token of a reply. `logp`: its log-probability under the model alone, before temperature, bias and constraint; `top`:
    the likeliest ids and theirs, as many as were asked for."""

    id: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """What a reply has to be, such as JSON of a schema."""

    def allowed(self) -> Tensor:
        """(V,) bool: the ids that may come next."""
        ...

    def accept(self, token: int) -> bool:
        """Takes the next id; True where nothing may follow."""
        ...


@dataclass(eq=False)
class Request:
    """A request in the batch. `watch` is called with each token, and ends the reply by returning a reason."""

    prompt: list[int]
    sampling: SamplingParams
    limit: int  # tokens of the reply
    stops: frozenset[int] = frozenset()
    watch: Callable[[Token], str | None] = lambda token: None
    top: int = 0  # how many of the likeliest ids each token tells
    bias: Mapping[int, float] = field(default_factory=dict)
    presence: float = 0.0  # subtracted from the logits of ids that the reply holds
    frequency: float = 0.0  # the same, times how often
    constraint: Constraint | None = None

    tokens: list[int] = field(init=False)  # prompt and reply
    blocks: list[int] = field(default_factory=list)
    read: int = 0  # tokens whose keys and values are in the blocks
    known: tuple[int, int] = (0, 0)  # see Blocks.learn
    cached: int = 0  # tokens of the prompt that were found when it was read first
    finish: str | None = None
    cancelled: bool = False
    preempted: int = 0  # how often
    long: bool = False  # see Batcher._long

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self._uniforms = generator(self.sampling.seed, "sample", 0)
        self._ahead: deque[float] = deque()  # uniform numbers that somebody has looked at
        self._drawn: dict[int, int] = {}

    @property
    def said(self) -> int:
        return len(self.tokens) - len(self.prompt)

    def uniform(self) -> float:
        """The number that the next token is drawn with."""
        if self.sampling.temperature == 0:
            return 0.0
        return self._ahead.popleft() if self._ahead else float(self._uniforms.random())

    def coming(self, count: int) -> list[float]:
        """The numbers that the next tokens will be drawn with; they stay to be drawn."""
        while self.sampling.temperature > 0 and len(self._ahead) < count:
            self._ahead.append(float(self._uniforms.random()))
        return list(self._ahead)[:count] or [0.0] * count

    def adjust(self, logits: Tensor) -> Tensor:
        """Logits (V,) with bias, penalties and constraint."""
        if self.bias:
            index = torch.tensor(list(self.bias), device=logits.device)
            logits = logits.index_add(0, index, torch.tensor(list(self.bias.values()), device=logits.device))
        if self._drawn and (self.presence or self.frequency):
            index = torch.tensor(list(self._drawn), device=logits.device)
            often = torch.tensor(list(self._drawn.values()), dtype=logits.dtype, device=logits.device)
            logits = logits.index_add(0, index, -(self.presence + self.frequency * often))
        if self.constraint is not None:
            logits = logits.masked_fill(~self.constraint.allowed().to(logits.device), -torch.inf)
        return logits

    def take(self, token: Token) -> None:
        """Adds a token, and sees whether it ends the reply."""
        self.tokens.append(token.id)
        self._drawn[token.id] = self._drawn.get(token.id, 0) + 1
        over = self.constraint is not None and token.id not in self.stops and self.constraint.accept(token.id)
        reason = self.watch(token)
        if token.id in self.stops or over:
            reason = reason or "stop"
        self.finish = reason or ("length" if self.said >= self.limit else None)


@dataclass
class Counters:
    """Sums since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    prefix_queries: int = 0  # tokens that were looked up
    prefix_hits: int = 0  # tokens that were there
    preemptions: int = 0
    guessed: int = 0  # tokens that were read ahead
    guessed_right: int = 0  # those that were said


class Batcher:
    """The sequences that wait and run, and one `step` after another. Not safe in threads: one thread calls it.

    `tokens`: the memory for keys and values, in tokens; it is taken at once, and never grows. `chunk`: tokens of prompts read in
    a step. `running`: most sequences at once. `reader`: from `generate.native`. `guesser`: what to read ahead. ValueError where
    no sequence fits at all.
    """

    def __init__(
        self, model: Transformer, reader: Reader, *, tokens: int, chunk: int = 256, running: int = 32,
        guesser: Guesser | None = None,
    ) -> None:  # fmt: skip
        if tokens < 2 * BLOCK:
            raise ValueError(f"{tokens} tokens are fewer than two blocks")
        self.model, self.reader, self.chunk, self.most = model, reader, chunk, running
        self.device = model.output_weight.device
        self.blocks = Blocks(tokens // BLOCK)
        self.cache = PagedCache(model.config, self.blocks.total, model.output_weight)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order in which they came
        self.counters = Counters()
        # a text whose positions change as it grows cannot be read ahead
        self.guesser = guesser if model.config.changes_at is None else None
        self.pays = Pays()

    @property
    def room(self) -> int:
        """Most tokens of a prompt with its reply."""
        return min(self.model.config.context, self.blocks.total * BLOCK)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, sequence: Request) -> None:
        """ValueError for a prompt that is empty or, with its reply, longer than `room`."""
        if not sequence.prompt or len(sequence.prompt) + sequence.limit > self.room or sequence.limit < 1:
            raise ValueError(f"{len(sequence.prompt)} + {sequence.limit} tokens do not fit in {self.room}")
        self.waiting.append(sequence)

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Reads a chunk of prompts, then adds one token to each sequence whose prompt is read. Returns those that have ended,
        with `finish` set ("cancelled" for those that were, "error" for those whose logits are not numbers)."""
        ended = self._sweep()
        self._admit()
        self._prefill()
        self._decode()
        self.counters.steps += 1
        return ended + self._sweep()

    def _sweep(self) -> list[Request]:
        for sequence in (*self.waiting, *self.running):
            if sequence.cancelled:
                sequence.finish = "cancelled"
        ended = [s for s in (*self.running, *self.waiting) if s.finish is not None]
        if ended:
            self.running = [s for s in self.running if s.finish is None]
            self.waiting = deque(s for s in self.waiting if s.finish is None)
        for sequence in ended:
            self._free(sequence)
        return ended

    def _free(self, sequence: Request) -> None:
        if self.guesser is not None:
            self.guesser.forget(sequence)
        self.blocks.release(sequence.blocks)
        sequence.blocks, sequence.read, sequence.known = [], 0, (0, 0)

    def _admit(self) -> None:
        """Those who wait come in, in their order, where there is room for what they are now and one token more."""
        needed = sum(blocks_of(len(s.tokens) + 1) - len(s.blocks) for s in self.running)
        while self.waiting and len(self.running) < self.most:
            needed += blocks_of(len(self.waiting[0].tokens) + 1)
            if needed > self.blocks.available and self.running:
                return
            self.running.append(self.waiting.popleft())

    def _prefill(self) -> None:
        budget = self.chunk
        for sequence in list(self.running):
            if self._long(sequence) and not sequence.long:  # all that is kept of it is of the short kind
                self._free(sequence)
                sequence.long = True
            if budget <= 0:
                return
            if sequence not in self.running or (sequence.said and sequence.read == len(sequence.tokens) - 1):
                continue  # it gave its memory away just now, or its next token is a step like any other
            if sequence.read == 0:
                self._look_up(sequence)
            budget -= self._read(sequence, budget)

    def _long(self, sequence: Request) -> bool:
        """Whether a text is so long that all its positions are other ones: its blocks are no beginnings of shorter texts."""
        changes = self.model.config.changes_at
        return changes is not None and len(sequence.tokens) > changes

    def _look_up(self, sequence: Request) -> None:
        known = [] if self._long(sequence) else sequence.tokens[:-1]  # the last token is read for its logits
        sequence.blocks = self.blocks.find(known)
        sequence.read = len(sequence.blocks) * BLOCK
        last = sequence.blocks[-1] if sequence.blocks else None
        sequence.known = (len(sequence.blocks), self.blocks.number(last))
        if not sequence.preempted:
            sequence.cached = sequence.read
            self.counters.prefix_queries += len(sequence.tokens)
            self.counters.prefix_hits += sequence.read
            self.counters.prompt_tokens += len(sequence.tokens)

    def _read(self, sequence: Request, budget: int) -> int:
        """Reads at most `budget` tokens of what a sequence holds unread; with the last of them it says its next one."""
        end = min(sequence.read + budget, len(sequence.tokens))
        if not self._grow(sequence, end):
            return budget
        start = sequence.read
        places = torch.arange(start, end)[None]
        hidden = self._pass([sequence], torch.tensor([sequence.tokens[start:end]]), places)
        sequence.read = end
        self._learn(sequence)
        if end == len(sequence.tokens):
            self._say([sequence], self.reader.head(hidden[:, -1]).float())
        return end - start

    def _decode(self) -> None:
        ready = [s for s in self.running if s.finish is None and s.said and s.read == len(s.tokens) - 1]
        for sequence in list(ready):
            if sequence in self.running and not self._grow(sequence, len(sequence.tokens)):
                break
        ready = [s for s in ready if s in self.running and len(s.blocks) * BLOCK >= len(s.tokens)]
        if not ready:
            return
        prompts = self.counters.prompt_tokens / max(1, self.counters.reply_tokens)
        guesser = self.guesser if self.guesser is not None and self.pays.ahead(len(ready), prompts) else None
        began, before = self.pays.clock(), self.counters.reply_tokens
        if guesser is not None and (read := guesser.follow(ready)):
            self.pays.read(self.pays.clock() - began, read)
            began = self.pays.clock()
        guesses = [[] for _ in ready] if guesser is None else self._guesses(guesser, ready)
        ahead = any(guesses)
        hidden = self._pass(ready, *_rows(ready, guesses))
        if not ahead:
            self._next(ready, self.reader.head(hidden[:, -1]).float())
        else:
            self._check(ready, guesses, hidden)
        if self.guesser is not None:
            self.pays.took(len(ready), ahead, self.pays.clock() - began, self.counters.reply_tokens - before)

    def _next(self, rows: Sequence[Request], logits: Tensor) -> None:
        """What each row says after the token that was read last, from logits (B, V) float32."""
        for sequence in rows:
            sequence.read += 1
            self._learn(sequence)
        self._say(rows, logits)

    def _guesses(self, guesser: Guesser, ready: Sequence[Request]) -> list[list[int]]:
        """Tokens to read ahead for each row, as many as there is room for without taking any from another."""
        guesses = guesser.guess(ready)
        for sequence, guess in zip(ready, guesses, strict=True):
            del guess[max(0, sequence.limit - sequence.said - 1) :]
            while (room := len(sequence.blocks) * BLOCK - len(sequence.tokens)) < len(guess):
                block = self._take()
                if block is None:
                    del guess[room:]
                    break
                sequence.blocks.append(block)
            self.counters.guessed += len(guess)
        return guesses

    def _check(self, ready: Sequence[Request], guesses: Sequence[list[int]], hidden: Tensor) -> None:
        """Goes through hidden states (B, T, D) as if they had come one by one: a row goes on while it says what was guessed."""
        rows = list(range(len(ready)))
        width = hidden.shape[1]
        # of what was guessed, not of what fills up: one product for all, which costs little more than that for one
        wanted = torch.tensor([row * width + n for row in rows for n in range(1 + len(guesses[row]))])
        logits = self.reader.head(hidden.flatten(0, 1)[wanted.to(hidden.device)])
        starts = torch.tensor([0, *(1 + len(guess) for guess in guesses)]).cumsum(0).tolist()
        for column in range(width):
            self._next([ready[row] for row in rows], logits[[starts[row] + column for row in rows]].float())
            rows = [
                row for row in rows
                if ready[row].finish is None and guesses[row][column : column + 1] == ready[row].tokens[-1:]
            ]  # fmt: skip
            self.counters.guessed_right += len(rows)
            if not rows:
                return

    def _grow(self, sequence: Request, tokens: int) -> bool:
        """Room for so many tokens of a sequence, taken from those that came last where none is free. False: it came last itself,
        and waits again."""
        while len(sequence.blocks) < blocks_of(tokens):
            block = self._take()
            if block is not None:
                sequence.blocks.append(block)
                continue
            last = self.running[-1]
            self.running.pop()
            self._free(last)
            last.preempted += 1
            self.counters.preemptions += 1
            self.waiting.appendleft(last)
            if last is sequence:
                return False
        return True

    def _take(self) -> int | None:
        """An empty block: what is no number in the keys of somebody before would come through any mask."""
        block = self.blocks.take()
        if block is not None:
            self.cache.clear(block)
        return block

    def _pass(self, rows: Sequence[Request], tokens: Tensor, places: Tensor) -> Tensor:
        """New tokens (B, T) at `places` (B, T) behind what the rows' blocks hold: final hidden states (B, T, D)."""
        last = [len(sequence.tokens) - 1 for sequence in rows]
        mask = self.cache.describe([sequence.blocks for sequence in rows], places, last)
        return self.reader.hidden(tokens.to(self.device), places.to(self.device), mask, self.cache)

    def _learn(self, sequence: Request) -> None:
        if sequence.read // BLOCK > sequence.known[0] and not self._long(sequence):
            read = sequence.tokens[: sequence.read]
            sequence.known = self.blocks.learn(read, sequence.blocks, *sequence.known)

    def _say(self, rows: Sequence[Request], logits: Tensor) -> None:
        """Draws a token for each row from logits (B, V) float32. A row whose logits are not numbers ends with an error."""
        whole = torch.isfinite(logits.amax(-1)).tolist()
        for sequence, fine in zip(rows, whole, strict=True):
            if not fine:
                sequence.finish = "error"
        plain = logits.argmax(-1).tolist()
        normal = logits.logsumexp(-1).tolist()
        for number, sequence in enumerate(rows):
            if sequence.finish is None:
                token = _choose(sequence, logits[number], plain[number])
                logp = float(logits[number, token]) - normal[number]
                sequence.take(Token(token, logp, _likeliest(logits[number], normal[number], sequence.top)))
                self.counters.reply_tokens += 1


def _choose(sequence: Request, logits: Tensor, likeliest: int) -> int:
    adjusted = sequence.adjust(logits)
    if sequence.sampling.temperature == 0:
        return likeliest if adjusted is logits else int(adjusted.argmax())
    uniform = torch.tensor([sequence.uniform()], dtype=torch.float64, device=logits.device)
    return int(draw(adjusted[None], sequence.sampling, uniform))


def _likeliest(logits: Tensor, normal: float, count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    best = logits.topk(min(count, len(logits)))
    return tuple((i, v - normal) for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _rows(ready: Sequence[Request], guesses: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """(tokens, places), both (B, T): the last token of each row and what is guessed after it. Shorter rows repeat their last one,
    which writes what is there anyway."""
    width = 1 + max(map(len, guesses))
    tokens, places = torch.zeros(2, len(ready), width, dtype=torch.int64)
    for row, (sequence, guess) in enumerate(zip(ready, guesses, strict=True)):
        texts = [sequence.tokens[-1], *guess]
        short = width - len(texts)
        tokens[row] = torch.tensor(texts + texts[-1:] * short)
        places[row] = sequence.read + torch.tensor([*range(len(texts)), *[len(texts) - 1] * short])
    return tokens, places

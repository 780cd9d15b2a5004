"""How likely texts are behind others, where many begin alike: what they share is read once.

Sorted by their ids, texts that begin alike stand beside each other, and a row takes them up as a tree: a token that several texts
have in the same place is in it once, and each sees the tokens of its own text alone (tree attention, Miao et al. 2024,
SpecInfer). One pass over a row is the pass over all its texts. The head is computed at the places that are asked for only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trivium.model.heads import capped
from trivium.model.transformer import Transformer

ROOM = 1024
"""Tokens of a row, unless its first text alone is longer than half of that: attention grows with their square."""
LEAST = 8
"""Shared tokens from which a text joins the row before it."""
TOKENS = 4096
"""Tokens of a pass."""
PADDING = 0.9
"""Rows share a pass if each has at least this share of the longest one's tokens: shorter ones are filled up to it."""
PLACES = 512
"""Places of a pass through the head."""


class Asked(NamedTuple):
    """A text as ids; those from `start` on (1 at least: nothing stands before the first) are scored."""

    ids: Sequence[int]
    start: int


class Scored(NamedTuple):
    logp: float
    """The sum of log p of the scored ids, in nats."""
    greedy: bool
    """Whether each of them is the likeliest in its place."""


class _Row:
    """A tree of tokens: `parent[i]` is the place of the token before token i, -1 for a first one."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self.paths: list[tuple[int, list[int]]] = []  # (number of the text, its places)

    def add(self, number: int, ids: Sequence[int], shared: int) -> None:
        """Text `number`, whose first `shared` tokens are those of the text before it."""
        path = self.paths[-1][1][:shared] if shared else []
        for depth in range(shared, len(ids)):
            self.parent.append(path[-1] if path else -1)
            path.append(len(self.tokens))
            self.tokens.append(int(ids[depth]))
            self.depth.append(depth)
        self.paths.append((number, path))

    @property
    def is_line(self) -> bool:
        """Whether it is one text, or one that holds the others: plain causal attention does."""
        return all(parent == place - 1 for place, parent in enumerate(self.parent))

    def visible(self) -> NDArray[np.bool_]:
        """(T, T): who sees whom."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for place, parent in enumerate(self.parent):
            if parent >= 0:
                seen[place] |= seen[parent]
        return seen


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:length]) != np.asarray(b[:length]))
    return int(differ[0]) if len(differ) else length


def _rows(asked: Sequence[Asked], room: int) -> Iterator[_Row]:
    """Every text without its last id, which predicts nothing, in rows of `room` tokens, longer where one text is."""
    read = [list(one.ids[:-1]) for one in asked]
    row, before, limit = _Row(), list[int](), 0
    for number in sorted(range(len(read)), key=read.__getitem__):
        ids = read[number]
        shared = _shared(before, ids) if row.paths else 0
        if shared < min(LEAST, len(ids)) or len(row.tokens) + len(ids) - shared > limit:
            if row.paths:
                yield row
            row, shared, limit = _Row(), 0, max(room, len(ids))
        row.add(number, ids, shared)
        before = ids
    if row.paths:
        yield row


@torch.no_grad()
def score(model: Transformer, asked: Sequence[Asked]) -> list[Scored]:
    """log p of each text's scored ids, in the order of `asked`; no text is longer than the context and one id more."""
    if any(not 1 <= one.start <= len(one.ids) or len(one.ids) < 2 for one in asked):
        raise ValueError("a text has two ids at least, and the first of them cannot be scored")
    longest = max((len(one.ids) for one in asked), default=0)
    room = max(ROOM, 2 * longest)
    if (
        model.config.window is not None
    ):  # a window is counted in places of the row, which are not those of the texts
        room = min(room, model.config.window)
    rows = sorted(_rows(asked, room), key=lambda row: -len(row.tokens))
    result = [Scored(0.0, True)] * len(asked)
    while rows:
        width = max(1, len(rows[0].tokens))
        several = max(1, sum(len(row.tokens) >= PADDING * width for row in rows[: TOKENS // width]))
        batch, rows = rows[:several], rows[several:]
        hidden = _states(model, batch)
        for number, scored in _read_off(model, hidden, batch, asked):
            result[number] = scored
    return result


def _states(model: Transformer, rows: Sequence[_Row]) -> Tensor:
    """Final hidden states of rows, (B, T, D); shorter rows are filled up at their end."""
    length = max(len(row.tokens) for row in rows)
    tokens, positions = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(2))
    for place, row in enumerate(rows):
        tokens[place, : len(row.tokens)] = torch.as_tensor(row.tokens)
        positions[place, : len(row.tokens)] = torch.as_tensor(row.depth)
    mask = None
    if not all(row.is_line for row in rows):
        mask = torch.eye(length, dtype=torch.bool).repeat(len(rows), 1, 1)
        for place, row in enumerate(rows):
            size = len(row.tokens)
            mask[place, :size, :size] = torch.from_numpy(row.visible())
        mask = mask[:, None].to(model.output_weight.device)
    device = model.output_weight.device
    return model.hidden(tokens.to(device), positions.to(device), mask)


def _read_off(
    model: Transformer, hidden: Tensor, rows: Sequence[_Row], asked: Sequence[Asked]
) -> Iterator[tuple[int, Scored]]:
    width = hidden.shape[1]
    wanted: list[tuple[int, list[int], Sequence[int]]] = []
    for place, row in enumerate(rows):
        for number, path in row.paths:
            ids, start = asked[number]
            wanted.append((number, [place * width + at for at in path[start - 1 :]], ids[start:]))
    flat = np.array([at for _, places, _ in wanted for at in places], dtype=np.int64)
    targets = torch.tensor([int(t) for _, _, ids in wanted for t in ids], device=hidden.device)
    unique, which = np.unique(flat, return_inverse=True)
    logp = torch.zeros(len(flat), dtype=torch.float64)
    best = torch.zeros(len(flat), dtype=torch.bool)
    states = hidden.flatten(0, 1)[torch.from_numpy(unique).to(hidden.device)]
    for begin in range(0, len(unique), PLACES):
        logits = F.linear(states[begin : begin + PLACES], model.output_weight).float()
        logits = capped(logits, model.config.logit_softcap)
        here = np.flatnonzero((which >= begin) & (which < begin + PLACES))
        line, target = torch.from_numpy(which[here] - begin).to(hidden.device), targets[here]
        total, top = logits.logsumexp(-1), logits.argmax(-1)
        logp[here] = (logits[line, target] - total[line]).double().cpu()
        best[here] = (top[line] == target).cpu()
    at = 0
    for number, places, _ in wanted:
        end = at + len(places)
        yield number, Scored(float(logp[at:end].sum()), bool(best[at:end].all()))
        at = end

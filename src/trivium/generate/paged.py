"""Keys and values in blocks (Kwon et al. 2023, PagedAttention): sequences of any length share one fixed memory, and a prompt
whose beginning was read before finds it there (a tree of blocks, as SGLang's radix tree at the grain of a block)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trivium.model.cache import cache_dtype
from trivium.model.config import ModelConfig

BLOCK = 16
"""Tokens of a block."""
_Key = tuple[int, tuple[int, ...]]  # (the block before, by the number of its content; the tokens of this one)


class PagedCache:
    """Room for `blocks` x BLOCK tokens, in the place of a `model.cache.Cache`: two tensors (blocks, BLOCK, K, E) a layer.

    A pass is described before it: `writes` (B, T), the room each new token takes; `table` (B, N), the blocks that each row reads.
    """

    def __init__(self, config: ModelConfig, blocks: int, like: Tensor) -> None:
        like = like.new_empty((), dtype=cache_dtype(like))
        self.keys, self.values = (
            [like.new_zeros(blocks, BLOCK, heads, width) for _ in range(config.layers)]
            for heads, width in config.cached
        )
        self.writes = self.table = torch.zeros(0, 0, dtype=torch.int64)
        self.query_places: Tensor | None = None  # (B, T): where the queries stand among the keys
        self.last: Tensor | None = None  # last position of each row's text, see `rope.rotary`

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes k and v (B, K, T, E); returns what the blocks of `table` hold, (B, K, N x BLOCK, E)."""
        return self._extend(self.keys[layer], keys), self._extend(self.values[layer], values)

    def _extend(self, held: Tensor, new: Tensor) -> Tensor:
        heads, width = held.shape[2:]
        rows = new.transpose(1, 2).reshape(-1, heads, width)
        held.view(-1, heads, width).index_copy_(0, self.writes.flatten(), rows.to(held.dtype))
        read = held.index_select(0, self.table.flatten())
        return read.view(self.table.shape[0], -1, heads, width).transpose(1, 2)

    def clear(self, block: int) -> None:
        for held in (*self.keys, *self.values):
            held[block].zero_()

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))

    def describe(self, rows: Sequence[Sequence[int]], places: Tensor, last: Sequence[int]) -> Tensor:
        """Says what a pass is about: new tokens of rows with these blocks, at `places` (B, T), which never fall; `last`: the last
        position of each row's text. Returns the pass's mask (B, 1, T, columns)."""
        device = self.keys[0].device
        longest = max(blocks_of(int(end) + 1) for end in places[:, -1])
        # rows that are shorter see their own last block again: masked, and yet a number that is none would come through
        table = torch.tensor(
            [[*used, *list(used[-1:]) * (longest - len(used))] for used in (b[:longest] for b in rows)]
        )
        writes = table.gather(1, places // BLOCK) * BLOCK + places % BLOCK
        self.table, self.writes = table.to(device), writes.to(device)
        self.query_places = places.to(device)
        self.last = torch.tensor(last, device=device)
        columns = torch.arange(longest * BLOCK, device=device)
        return columns <= self.query_places[:, None, :, None]


def blocks_of(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK)


@dataclass
class Blocks:
    """Which blocks are free, whose they are, and what the full ones hold.

    A full block is known by what it holds and by the block before it, so that equal beginnings are found by comparing tokens, not
    hashes. What nobody uses stays until its room is needed; the least recently used goes first.
    """

    total: int
    users: dict[int, int] = field(default_factory=dict)  # of each block in use
    _free: list[int] = field(default_factory=list)
    _idle: OrderedDict[int, None] = field(default_factory=OrderedDict)  # full, unused, findable
    _known: dict[_Key, int] = field(default_factory=dict)
    _content: dict[int, tuple[_Key, int]] = field(
        default_factory=dict
    )  # block -> (key, number of its content)
    _next: int = 1

    def __post_init__(self) -> None:
        self._free = list(range(self.total - 1, -1, -1))

    @property
    def available(self) -> int:
        """Blocks that can be had without taking any from a sequence."""
        return len(self._free) + len(self._idle)

    def take(self) -> int | None:
        """A block for one user; None where all are in use."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            key, _ = self._content.pop(block)
            del self._known[key]
        else:
            return None
        self.users[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """One user less of each. The later blocks of a sequence are forgotten before those that they hang on."""
        for block in reversed(blocks):
            self.users[block] -= 1
            if self.users[block] == 0:
                del self.users[block]
                if block in self._content:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def find(self, tokens: Sequence[int]) -> list[int]:
        """The blocks that hold the longest known beginning of `tokens`, each with a user more."""
        found, before = [], 0
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            block = self._known.get((before, tuple(tokens[start : start + BLOCK])))
            if block is None:
                break
            self._idle.pop(block, None)
            self.users[block] = self.users.get(block, 0) + 1
            found.append(block)
            before = self._content[block][1]
        return found

    def learn(self, tokens: Sequence[int], blocks: Sequence[int], known: int, before: int) -> tuple[int, int]:
        """Makes the full blocks of a sequence findable, from number `known` on, which hangs on the content numbered `before`.

        Returns both as they are afterwards. Where another sequence's block with the same content is known already, that one stays
        known, and the rest hangs on it.
        """
        for number in range(known, len(tokens) // BLOCK):
            key = (before, tuple(tokens[number * BLOCK : (number + 1) * BLOCK]))
            if key not in self._known:
                self._known[key] = blocks[number]
                self._content[blocks[number]] = (key, self._next)
                self._next += 1
            before = self._content[self._known[key]][1]
        return max(len(tokens) // BLOCK, known), before

    def number(self, block: int | None) -> int:
        """The number of what a findable block holds; 0, that of nothing, for none."""
        return 0 if block is None else self._content[block][1]

"""Suffix arrays over token shards: where a run of tokens stands in a corpus, in time that grows with its logarithm.

    FOLDER/NN-BBBBB.suffixes.bin   (tokens,) int32: the places of a block's tokens, in the order of the suffixes that begin there
    FOLDER/NN-BBBBB.json           the block's part of source NN, its size and SHA-256; written last
    FOLDER/index.json              the blocks; written last of all

A block is a run of whole documents, so that no match crosses its ends: a document ends with a mark that no text has. Suffixes
are ordered by the bytes of the shard as they lie on the disk. That is no order of numbers, but it is one order of sequences of
tokens, and any will do: nothing is converted, and a search compares bytes of the mapped file. Four bytes a token.

A block grows with its source, so that a source has few of them, and a look-up takes time that grows with its logarithm. All
places of a reply are looked up side by side (`Block.searchsorted`), as far as their first tokens go; few go further.

Manber & Myers 1993 (suffix arrays); the arrays are made by libdivsufsort (Mori; Fischer & Kurpicz 2017).
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trivium import files
from trivium.cores import free_memory
from trivium.corpus import engine, extras
from trivium.corpus.shards import Shard, open_shards, verify
from trivium.errors import ArtifactError, DataError
from trivium.files import atomic_open, write_json
from trivium.types import Emit

FORMAT = 1
"""Raised when files that an older version made can no longer be read."""
BLOCK = 2**26
"""Tokens of a block of a source that has few; of a larger source a block has more (`block_size`)."""
BLOCKS = 8
"""Blocks that a source is cut into, as long as the library takes them: each costs a look-up its part of the time."""
SORTABLE = 2**31 - 1
"""Bytes that the library sorts at once; places are int32."""
SORTING = 5
"""Bytes of memory that sorting takes for each byte of tokens."""
PART = 2**22
"""Places that are looked at side by side when those inside a token are taken out."""
SMALL = 2**20
"""Tokens that one process has sorted before others have started."""
AHEAD = 64
"""Tokens of a query that are compared at first: few matches are longer."""
SIDE = 8
"""Tokens of many queries that are looked up side by side, as whole words of 8 bytes."""
_FIX = "delete the folder: it is made again from the token shards"


def build(shards: Path, folder: Path, emit: Emit, *, block: int | None = None) -> None:
    """Makes the index of the token shards in `shards` in `folder`, unless it is there, on all cores.

    Several processes may ask at once: one sorts, the others wait. A killed run keeps the blocks that are whole. What is made does
    not depend on the workers, of which there are as many as memory allows. `block`: tokens of a block, of every source.
    ArtifactError for damaged shards; TriviumError when the disk is full.
    """
    with files.making(folder, "index.json") as new:
        if not new:
            return
        opened = open_shards(shards)
        tasks: list[dict[str, Any]] = [
            {"source": shard.source, "first": first, "end": end, "name": f"{shard.source:02d}-{number:05d}"}
            for shard in opened
            for number, (first, end) in enumerate(blocks(shard, block or block_size(shard)))
        ]
        left = [json.dumps(task) for task in tasks if not _done(folder, task)]
        total = sum(len(shard.tokens) for shard in opened)
        runner = engine.running()
        job = Sort(shards.absolute(), folder.absolute())
        longest = max((task["end"] - task["first"] for task in tasks), default=0)
        needed = longest * max((_sorted_bytes(shard.tokens.dtype) for shard in opened), default=0)
        workers = max(1, min(engine.cores(), free_memory() // max(1, SORTING * needed)))  # type: ignore[attr-defined]
        engine.run(job, left, runner=runner, workers=workers, emit=emit, small=total < SMALL)
        write_json(folder / "index.json", {"format": FORMAT, "blocks": [task["name"] for task in tasks]})


def block_size(shard: Shard) -> int:
    """Tokens of a block: at least BLOCK, and doubled until the source has no more than BLOCKS, or the library sorts no more."""
    size = BLOCK
    while size * BLOCKS < len(shard.tokens) and 2 * size * _sorted_bytes(shard.tokens.dtype) <= SORTABLE:
        size *= 2
    return size


def _sorted_bytes(dtype: np.dtype) -> int:
    """Bytes of a token that are sorted: the highest of four is the same in all."""
    return min(3, dtype.itemsize)


def blocks(shard: Shard, size: int) -> Iterator[tuple[int, int]]:
    """(first, end) of each block of a shard: whole documents of `size` tokens together, or one that is longer."""
    first, total = 0, len(shard.tokens)
    while first < total:
        fits = int(np.searchsorted(shard.starts, first + size, side="right")) - 1
        end = total if first + size >= total else int(shard.starts[fits])
        if end <= first:  # one document alone
            after = int(np.searchsorted(shard.starts, first, side="right"))
            end = int(shard.starts[after]) if after < len(shard.starts) else total
        yield first, end
        first = end


def _done(folder: Path, task: dict[str, Any]) -> bool:
    """Whether a block is there, and not one of other bounds under its name, of a version that cut otherwise."""
    record = folder / f"{task['name']}.json"
    return record.exists() and task.items() <= {"name": task["name"], **_json(record)}.items()


def check(folder: Path) -> None:
    """Reads every block of an index and compares its SHA-256; of one that is not whole yet, those that are there. ArtifactError
    names what is damaged."""
    names = [file.name.removesuffix(".json") for file in folder.glob("*-*.json")]
    whole = _json(folder / "index.json")["blocks"] if (folder / "index.json").exists() else []
    for name in sorted({*names, *whole}):
        record = _json(folder / f"{name}.json")
        verify(folder / f"{name}.suffixes.bin", record["file"], "block of the index", _FIX)


@dataclass(frozen=True)
class Sort:
    """Sorts the suffixes of one block: `task` is {"source", "first", "end", "name"}."""

    shards: Path
    folder: Path
    name: str = "index"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        target = self.folder / said["name"]
        done, suffixes = target.with_suffix(".json"), target.with_suffix(".suffixes.bin")
        if _done(self.folder, said):
            return
        tokens = Shard(self.shards, said["source"]).tokens[said["first"] : said["end"]]
        with atomic_open(suffixes) as out:
            out.write(sort(tokens).data.cast("B"))
        made = {"size": suffixes.stat().st_size, "sha256": files.sha256(suffixes)}
        write_json(done, {name: said[name] for name in ("source", "first", "end")} | {"file": made})


def sort(tokens: np.ndarray) -> np.ndarray:
    """(N,) uint16 or uint32, of which the highest byte is 0 -> (N,) int32: the places of the suffixes in their order."""
    with extras.needed("trace", "pydivsufsort"):
        from pydivsufsort import divsufsort

    if not len(tokens):
        return np.zeros(0, np.int32)
    raw = np.array(tokens).view(np.uint8).reshape(len(tokens), tokens.dtype.itemsize)
    # a copy: the library writes none of it, and asks to be able to
    size = _sorted_bytes(tokens.dtype)
    if raw[:, size:].any():
        raise DataError("a tokenizer of more than 2^24 ids cannot be indexed")
    raw = np.ascontiguousarray(raw[:, :size])
    found: np.ndarray = divsufsort(raw.reshape(-1))
    kept = 0
    for first in range(0, len(found), PART):  # in place: there is no memory for a second copy
        part = found[first : first + PART]
        whole = part[part % size == 0] // size  # the others begin inside a token
        found[kept : kept + len(whole)] = whole
        kept += len(whole)
    return found[:kept].astype(np.int32, copy=False)


@dataclass(frozen=True)
class Match:
    """The suffixes of a block that begin with the same tokens: `low` to `high` in its order, `length` tokens alike."""

    length: int
    low: int
    high: int


class Block:
    """One block: the mapped shard and the order of its suffixes."""

    def __init__(self, shard: Shard, text: mmap.mmap, path: Path) -> None:
        meta = _json(path.with_suffix(".json"))
        suffixes = path.with_suffix(".suffixes.bin")
        verify(suffixes, meta["file"], "block of the index", _FIX)
        self.source, self.first, self.end = int(meta["source"]), int(meta["first"]), int(meta["end"])
        if self.end > len(shard.tokens) or meta["file"]["size"] != 4 * (self.end - self.first):
            raise ArtifactError("a block of the index fits no shard", where=str(suffixes), fix=_FIX)
        self.size = shard.tokens.dtype.itemsize
        self.text = text
        self.tokens, self.starts = np.asarray(shard.tokens)[self.first : self.end], np.asarray(shard.starts)
        self.wanted: np.ndarray | None = None
        """(documents of the source,) which of them are looked at; None: all."""
        self.order = np.asarray(np.memmap(suffixes, np.int32, "r"))  # a subclass is slower to index
        self._places = memoryview(_mapped(suffixes)).cast("i")  # one number is read faster from this

    def _key(self, length: int) -> Callable[[int], bytes]:
        text, places, size, start = self.text, self._places, self.size, self.first * self.size

        def key(rank: int) -> bytes:
            begin = start + places[rank] * size
            return text[begin : begin + length]

        return key

    def find(self, query: bytes, *, low: int = 0) -> Match:
        """The suffixes that begin with all of `query`. `low`: a rank before which none of them is."""
        key = self._key(len(query))
        ranks = range(len(self._places))
        low = bisect_left(ranks, query, lo=low, key=key)
        high = bisect_right(ranks, query, lo=low, key=key)
        return Match(len(query) // self.size, low, high)

    def searchsorted(self, queries: np.ndarray, *, right: bool = False) -> np.ndarray:
        """(Q, K) tokens, K <= SIDE -> (Q,) how many suffixes come before the K tokens of each; with `right`, before or begin
        with them. As `numpy.searchsorted`, but all are looked up side by side: a step costs one visit to memory for all."""
        asked = _words(queries)
        low, high = np.zeros(len(queries), np.int64), np.full(len(queries), len(self.order), np.int64)
        for _ in range(len(self.order).bit_length()):
            middle = (low + high) // 2
            here = self._words_at(np.minimum(middle, len(self.order) - 1), queries.shape[1])
            after = ~_less(asked, here) if right else _less(here, asked)
            after &= low < high
            low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
        return low

    def sift(self, queries: np.ndarray) -> np.ndarray:
        """(Q, K) tokens, K <= SIDE -> (Q,) the rank of the first suffix that begins with them, or -1 where none does."""
        ranks = self.searchsorted(queries)
        there = np.minimum(ranks, len(self.order) - 1)
        same = (self._words_at(there, queries.shape[1]) == _words(queries)).all(axis=1)
        return np.where(same & (ranks < len(self.order)), ranks, -1)

    def _words_at(self, ranks: np.ndarray, count: int) -> np.ndarray:
        """The first `count` tokens of suffixes as `_words`; behind the block's end, where no query reaches, those of its last."""
        places = self.order[ranks].astype(np.int64)[:, None] + np.arange(count)
        return _words(self.tokens[np.minimum(places, len(self.order) - 1)])

    def longest(self, query: bytes, *, low: int = 0, least: int = 1) -> Match | None:
        """The suffixes that share the longest beginning with `query`, which holds no mark of a document's end; None where that
        has less than `least` tokens. `low`: a rank before which none of them is."""
        ahead, ranks = max(AHEAD, least) * self.size, range(len(self._places))
        while True:
            asked = query[:ahead]
            key = self._key(len(asked))
            place = bisect_left(ranks, asked, lo=low, key=key)
            near = [key(rank) for rank in (place - 1, place) if 0 <= rank < len(ranks)]
            alike = max((_alike(other, asked) for other in near), default=0) // self.size
            if alike < least:
                return None
            if alike * self.size < len(asked) or len(asked) == len(query):
                found = self.find(query[: alike * self.size], low=low)
                return found if self.wanted is None else self._longest_wanted(query, found, low, least)
            ahead *= 8

    def _longest_wanted(self, query: bytes, longest: Match, low: int, least: int) -> Match | None:
        """`longest`, or the next shorter one that stands in a wanted document."""
        if self._is_wanted(longest).any():
            return longest
        begun = self.find(query[: least * self.size], low=low)
        ranks = begun.low + np.flatnonzero(self._is_wanted(begun))
        # of all that are wanted, the most alike are those next to where the query would stand, on either side
        place = int(np.searchsorted(ranks, longest.low))
        key = self._key(longest.length * self.size)
        alike = [_alike(key(int(rank)), query) // self.size for rank in ranks[max(0, place - 1) : place + 1]]
        return self.find(query[: max(alike) * self.size], low=low) if alike else None

    def _is_wanted(self, match: Match) -> np.ndarray:
        """(suffixes of the match,) whether each lies in a wanted document."""
        assert self.wanted is not None
        places = self.first + self.order[match.low : match.high].astype(np.int64)
        return self.wanted[np.searchsorted(self.starts, places, side="right") - 1]

    def count(self, match: Match) -> int:
        """Places of a match, in wanted documents if not all are."""
        return match.high - match.low if self.wanted is None else int(self._is_wanted(match).sum())

    def places(self, match: Match) -> Iterator[int]:
        """The places of a match in the source, the first ones first, in tokens from its beginning; in wanted documents alone if
        not all are."""
        places = self.order[match.low : match.high]
        for place in np.sort(places if self.wanted is None else places[self._is_wanted(match)]):
            yield self.first + int(place)


def _words(tokens: np.ndarray) -> np.ndarray:
    """(Q, K) tokens, K <= SIDE -> (Q, W) uint64, which are ordered as the tokens' bytes are on the disk."""
    whole = np.zeros((len(tokens), SIDE), tokens.dtype)
    whole[:, : tokens.shape[1]] = tokens
    return whole.view(">u8").astype(np.uint64)


def _less(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(Q, W), (Q, W) -> (Q,) whether the one comes before the other."""
    less = np.zeros(len(first), bool)
    for word in reversed(range(first.shape[1])):
        one, other = first[:, word], second[:, word]
        less = (one < other) | ((one == other) & less)
    return less


def _alike(first: bytes, second: bytes) -> int:
    """Bytes that both begin with."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    low, high = 0, shorter  # alike up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if first[:middle] == second[:middle] else (low, middle)
    return low


class Index:
    """The index of one split of one data artifact under one tokenizer."""

    def __init__(self, shards: Path, folder: Path) -> None:
        self.shards = {shard.source: shard for shard in open_shards(shards)}
        texts = {source: _mapped(shards / f"{source:02d}.tokens.bin") for source in self.shards}
        self.blocks: list[Block] = []
        for name in _json(folder / "index.json")["blocks"]:
            source = int(name.split("-")[0])
            if source not in self.shards:
                raise ArtifactError(
                    f"the index names source {source}, which has no shard", where=str(folder), fix=_FIX
                )
            self.blocks.append(Block(self.shards[source], texts[source], folder / name))
        self.tokens = sum(len(shard.tokens) for shard in self.shards.values())
        self.dtype = next(iter(self.shards.values())).tokens.dtype if self.shards else np.dtype(np.uint16)

    def only(self, wanted: Mapping[int, np.ndarray]) -> Index:
        """This index, of which some documents are looked at: `wanted` (documents,) bool, by source."""
        found = copy(self)
        found.blocks = [copy(block) for block in self.blocks]
        for block in found.blocks:
            block.wanted = wanted[block.source]
        return found

    def query(self, ids: Sequence[int]) -> bytes:
        """Ids as they lie in the shards."""
        return np.asarray(ids, self.dtype).tobytes()

    def sift(self, queries: np.ndarray) -> list[list[tuple[Block, int]]]:
        """(Q, K) ids, K <= SIDE -> for each, the blocks with suffixes that begin with them, and the rank of the first one."""
        found: list[list[tuple[Block, int]]] = [[] for _ in queries]
        for block in self.blocks:
            ranks = block.sift(queries.astype(self.dtype))
            for number in np.flatnonzero(ranks >= 0).tolist():
                found[number].append((block, int(ranks[number])))
        return found

    def counts(self, ids: Sequence[int]) -> np.ndarray:
        """(N,) how often each id stands in the corpus."""
        queries = np.asarray(ids, self.dtype).reshape(-1, 1)
        found = np.zeros(len(queries), np.int64)
        for block in self.blocks:
            found += block.searchsorted(queries, right=True) - block.searchsorted(queries)
        return found

    def document(self, source: int, place: int) -> int:
        """The number in its source of the document that a place is in."""
        return int(np.searchsorted(self.shards[source].starts, place, side="right")) - 1


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _json(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the index is damaged: {error}", where=str(path), fix=_FIX) from None
    return said

"""Suffix arrays over token shards: where a run of tokens stands in a corpus, in time that grows with its logarithm.

    FOLDER/NN-BBBBB.suffixes.bin   (tokens,) int32: the places of a block's tokens, in the order of the suffixes that begin there
    FOLDER/NN-BBBBB.json           the block's part of source NN, its size and SHA-256; written last
    FOLDER/index.json              the blocks; written last of all

A block is a run of whole documents, so that no match crosses its ends: a document ends with a mark that no text has. Suffixes
are ordered by the bytes of the shard as they lie on the disk. That is no order of numbers, but it is one order of sequences of
tokens, and any will do: nothing is converted, and a search compares bytes of the mapped file. Four bytes a token.

Manber & Myers 1993 (suffix arrays); the arrays are made by libdivsufsort (Mori; Fischer & Kurpicz 2017).
"""

from __future__ import annotations

import json
import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trivium import files
from trivium.corpus import engine, extras
from trivium.corpus.shards import Shard, open_shards, verify
from trivium.errors import ArtifactError, DataError
from trivium.files import atomic_open, write_json
from trivium.types import Emit

FORMAT = 1
"""Raised when the same shards would give other files."""
BLOCK = 2**26
"""Tokens of a block; sorting it takes about 12 bytes of memory for each byte of it, so 1.6 GB where ids have two bytes."""
SMALL = 2**20
"""Tokens that one process has sorted before others have started."""
AHEAD = 64
"""Tokens of a query that are compared at first: few matches are longer."""
_FIX = "delete the folder: it is made again from the token shards"


def build(shards: Path, folder: Path, emit: Emit, *, block: int = BLOCK) -> None:
    """Makes the index of the token shards in `shards` in `folder`, unless it is there, on all cores.

    Several processes may ask at once: one sorts, the others wait. A killed run keeps the blocks that are whole. What is made does
    not depend on the workers. ArtifactError for damaged shards; TriviumError when the disk is full.
    """
    if (folder / "index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if (folder / "index.json").exists():
            return
        files.sweep(folder)
        opened = open_shards(shards)
        tasks = [
            {"source": shard.source, "first": first, "end": end, "name": f"{shard.source:02d}-{number:05d}"}
            for shard in opened
            for number, (first, end) in enumerate(blocks(shard, block))
        ]
        left = [json.dumps(task) for task in tasks if not (folder / f"{task['name']}.json").exists()]
        total = sum(len(shard.tokens) for shard in opened)
        runner = engine.running()
        job = Sort(shards.absolute(), folder.absolute())
        engine.run(job, left, runner=runner, workers=None, emit=emit, small=total < SMALL)
        write_json(folder / "index.json", {"format": FORMAT, "blocks": [task["name"] for task in tasks]})


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
        if done.exists():
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
    size = tokens.dtype.itemsize
    raw = (
        np.array(tokens).view(np.uint8).reshape(len(tokens), size)
    )  # a copy: the library writes none of it, and asks to be able to
    if size == 4:
        if raw[:, 3].any():
            raise DataError("a tokenizer of more than 2^24 ids cannot be indexed")
        size, raw = 3, np.ascontiguousarray(raw[:, :3])  # the last byte is the same in all: it orders nothing
    found = divsufsort(raw.reshape(-1))
    whole: np.ndarray = found[found % size == 0]  # the others begin inside a token
    whole //= size
    return whole.astype(np.int32, copy=False)


@dataclass(frozen=True)
class Match:
    """The suffixes of a block that begin with the same tokens: `low` to `high` in its order, `length` tokens alike."""

    length: int
    low: int
    high: int

    @property
    def count(self) -> int:
        return self.high - self.low


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
        self.order = np.memmap(suffixes, np.int32, "r")
        self._places = memoryview(_mapped(suffixes)).cast("i")  # one number is read faster from this

    def _key(self, length: int) -> Callable[[int], bytes]:
        text, places, size, start = self.text, self._places, self.size, self.first * self.size

        def key(rank: int) -> bytes:
            begin = start + places[rank] * size
            return text[begin : begin + length]

        return key

    def find(self, query: bytes) -> Match:
        """The suffixes that begin with all of `query`."""
        key = self._key(len(query))
        ranks = range(len(self._places))
        low = bisect_left(ranks, query, key=key)
        high = bisect_right(ranks, query, lo=low, key=key)
        return Match(len(query) // self.size, low, high)

    def longest(self, query: bytes) -> Match:
        """The suffixes that share the longest beginning with `query`, which holds no mark of a document's end."""
        ahead, ranks = AHEAD * self.size, range(len(self._places))
        while True:
            asked = query[:ahead]
            key = self._key(len(asked))
            place = bisect_left(ranks, asked, key=key)
            near = [key(rank) for rank in (place - 1, place) if 0 <= rank < len(ranks)]
            alike = max((_alike(other, asked) for other in near), default=0) // self.size
            if alike * self.size < len(asked) or len(asked) == len(query):
                return self.find(query[: alike * self.size]) if alike else Match(0, 0, 0)
            ahead *= 8

    def places(self, match: Match) -> Iterator[int]:
        """The places of a match in the source, the first ones first, in tokens from its beginning."""
        for place in np.sort(self.order[match.low : match.high]):
            yield self.first + int(place)


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

    def query(self, ids: Sequence[int]) -> bytes:
        """Ids as they lie in the shards."""
        return np.asarray(ids, self.dtype).tobytes()

    def longest(self, query: bytes) -> tuple[int, list[tuple[Block, Match]]]:
        """The most tokens that `query` and any document begin alike from some place on, and where."""
        found = [(block, block.longest(query)) for block in self.blocks]
        length = max((match.length for _, match in found), default=0)
        return length, [(b, match) for b, match in found if match.length == length] if length else []

    def count(self, query: bytes) -> int:
        """How often `query` stands in the corpus."""
        return sum(block.find(query).count for block in self.blocks)

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

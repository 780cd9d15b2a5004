"""Documents for pre-training: encoded once into a memory-mapped shard, read as rows of consecutive tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from trivium.batches.rows import Row, sequence_row
from trivium.errors import DataError
from trivium.files import atomic_path, write_json
from trivium.text.chat import ChatTokenizer

GROUP = 1000
"""Documents encoded at once: the tokenizer works through them on all cores."""


class Packed:
    """Rows of `length` tokens cut from the stream of all documents; documents keep to themselves inside a row.

    Every token is in exactly one row; the last row is padded.

    `tokens` (N,) uint16 or uint32 and `starts` (documents,) int64 are memory-mapped files.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.length = length
        meta = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
        self.characters: int = meta["characters"]
        self.utf8_bytes: int = meta["bytes"]
        self.tokens = np.memmap(folder / "tokens.bin", dtype=meta["dtype"], mode="r")
        self.starts = np.memmap(folder / "starts.bin", dtype=np.int64, mode="r")
        self.count = -(-len(self.tokens) // length)

    def item(self, index: int) -> list[Row]:
        first = index * self.length
        # one token more than the row: the target of its last place, if that is in the same document
        ids = np.asarray(self.tokens[first : first + self.length + 1], dtype=np.int64)
        after, following = np.searchsorted(self.starts, (first, first + self.length), side="right")
        cuts = [int(cut) - first for cut in self.starts[after:following]]
        inner = [cut for cut in cuts if cut < self.length]
        edges = [0, *inner, min(self.length, len(ids))]
        segments = [(ids[a:b].tolist(), [True] * (b - a)) for a, b in pairwise(edges)]
        row = sequence_row(segments, self.length, pad=0)
        if (
            len(ids) > self.length and inner == cuts
        ):  # the following token goes on with this row's last document
            row["targets"][-1] = ids[-1]
            row["loss_mask"][-1] = 1.0
        return [row]


def encode(texts: Iterable[str], chat: ChatTokenizer, folder: Path) -> None:
    """Writes the shard of `texts` into `folder`: tokens.bin, starts.bin, shard.json (the last: it makes the shard whole)."""
    if (folder / "shard.json").exists():
        return
    dtype = np.uint16 if chat.vocab_size <= 2**16 else np.uint32
    starts, place, characters, size = [], 0, 0, 0
    with atomic_path(folder / "tokens.bin") as temporary, temporary.open("wb") as file:
        for group in _groups(texts):
            for text, ids in zip(group, chat.documents(group), strict=True):
                starts.append(place)
                place += len(ids)
                characters += len(text)
                size += len(text.encode())
                file.write(np.asarray(ids, dtype=dtype).tobytes())
    with atomic_path(folder / "starts.bin") as temporary:
        np.asarray(starts, dtype=np.int64).tofile(temporary)
    write_json(
        folder / "shard.json",
        {"dtype": np.dtype(dtype).name, "tokens": place, "characters": characters, "bytes": size},
    )


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(texts)
    while group := list(islice(iterator, GROUP)):
        yield group


def open_shard(
    texts: Iterable[str], chat: ChatTokenizer, folder: Path, length: int, *, rows: int, what: str
) -> Packed:
    """Encodes (unless it is there) and opens a shard. DataError if it has fewer than `rows` rows: not one batch."""
    encode(texts, chat, folder)
    total = json.loads((folder / "shard.json").read_text(encoding="utf-8"))["tokens"]
    if total < length * max(1, rows):
        raise DataError(
            f"{what} has {total} tokens, which is less than one batch ({rows} rows of {length} tokens)",
            fix="add sources, or make `batch` or `context` smaller",
        )
    return Packed(folder, length)

"""The index is made once, whole or not at all, and damage is named."""

from __future__ import annotations

import signal
from bisect import bisect_left
from types import SimpleNamespace

import numpy as np
import pytest
from forked import Forked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium import files
from trivium.corpus import engine
from trivium.errors import ArtifactError
from trivium.files import TEMPORARY
from trivium.trace import index
from trivium.trace.index import Index, build

TEXTS = [f"text {n} of the cat and the {n * 7} dogs" for n in range(80)]


@pytest.fixture
def places(opened, tmp_path):
    """(shards, index) of `TEXTS` in blocks of about 200 tokens."""
    opened(TEXTS)
    shards = next(tmp_path.glob("store*/tokens/*/train"))
    build(shards, tmp_path / "index", lambda event: None, block=200)
    return shards, tmp_path / "index"


def held(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_it_takes_four_bytes_a_token_and_little_more(places):
    shards, folder = places
    tokens = Index(shards, folder).tokens
    assert sum(file.stat().st_size for file in folder.glob("*.bin")) == 4 * tokens


def test_a_killed_build_goes_on(places, monkeypatch):
    shards, folder = places
    before, sorted_ = held(folder), []
    real = index.sort
    monkeypatch.setattr(index, "sort", lambda tokens: (sorted_.append(len(tokens)), real(tokens))[1])
    for name in ("index.json", "00-00001.json"):
        (folder / name).unlink()
    (folder / "00-00001.suffixes.bin").write_bytes(b"half")
    build(shards, folder, lambda event: None, block=200)
    assert len(sorted_) == 1
    assert held(folder) == before


SIGKILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from trivium.corpus import engine
from trivium.trace import index

shards, folder, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
real, write_json = index.atomic_open, index.write_json

@contextmanager
def half(path):
    with real(path) as file:
        yield file
        file.flush()
        if path.name.startswith("00-00002"):
            die()

if where == "a block half written":
    index.atomic_open = half
elif where == "a block without its record":
    index.write_json = lambda path, value: die() if path.name == "00-00002.json" else write_json(path, value)
else:
    index.write_json = lambda path, value: die() if path.name == "index.json" else write_json(path, value)
index.build(shards, folder, lambda event: None, block=200)
"""


@pytest.mark.parametrize(
    ("where", "kept"),
    [("a block half written", 2), ("a block without its record", 2), ("all blocks and no index", None)],
)
def test_sigkill(places, tmp_path, monkeypatch, where, kept):
    shards, whole = places
    folder = tmp_path / "killed"
    assert Forked(SIGKILLED, shards, folder, where).wait() == -signal.SIGKILL
    assert bool(list(folder.glob(f"{TEMPORARY}*"))) == (where == "a block half written")
    with pytest.raises(ArtifactError, match="index is damaged"):
        Index(shards, folder)
    sorted_, real = [], index.sort
    monkeypatch.setattr(index, "sort", lambda tokens: (sorted_.append(len(tokens)), real(tokens))[1])
    build(shards, folder, lambda event: None, block=200)
    blocks = len(list(whole.glob("*.suffixes.bin")))
    assert len(sorted_) == (0 if kept is None else blocks - kept)
    assert held(folder) == held(whole)  # and what the kill left does not pile up


@pytest.mark.slow
def test_workers_make_the_same_files(places, tmp_path, monkeypatch):
    shards, folder = places
    monkeypatch.setattr(index, "SMALL", 0)
    monkeypatch.setattr(engine, "cores", lambda: 2)
    build(shards, tmp_path / "spread", lambda event: None, block=200)
    assert held(tmp_path / "spread") == held(folder)


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "record", "shard"])
def test_damage_is_named(places, harm):
    shards, folder = places
    Index(shards, folder)
    path = folder / "00-00000.suffixes.bin"
    if harm == "shard":
        path = shards / "00.tokens.bin"
    if harm == "record":
        path = folder / "00-00000.json"
        path.write_text("{")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif harm == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match=r"damaged|bytes|missing") as refused:
        Index(shards, folder)
    assert refused.value.where.endswith(path.name)
    assert "delete the folder" in refused.value.fix


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=8),
    st.integers(1, 3),
    st.sampled_from(["uint16", "uint32"]),
    st.sampled_from([1, 5, 1000]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_side_by_side_is_one_by_one(tmp_path_factory, documents, queries, count, dtype, block):
    """Against sorting the suffixes themselves. Ids are spread so that the order of bytes is not that of numbers."""
    folder = tmp_path_factory.mktemp("shards")
    end, spread = 7, 255
    corpus = np.array([token for one in documents for token in [*(t * spread for t in one), end]], dtype)
    asked = np.array([one[:count] for one in queries]) * spread
    write_shard(folder, corpus, np.cumsum([0, *(len(one) + 1 for one in documents[:-1])]))
    build(folder, folder / "index", lambda event: None, block=block)
    index = Index(folder, folder / "index")
    assert index.counts(asked[:, 0].tolist()).tolist() == [int((corpus == one[0]).sum()) for one in asked]
    for block in index.blocks:
        here = corpus[block.first : block.end]
        suffixes = sorted(here[place:].tobytes() for place in range(len(here)))
        bytes_ = [one.astype(dtype).tobytes() for one in asked]
        assert block.searchsorted(asked.astype(dtype)).tolist() == [
            bisect_left(suffixes, one) for one in bytes_
        ]
        assert block.searchsorted(asked.astype(dtype), right=True).tolist() == [
            sum(one[: len(query)] <= query for one in suffixes) for query in bytes_
        ]
        assert block.sift(asked.astype(dtype)).tolist() == [
            next((rank for rank, one in enumerate(suffixes) if one.startswith(query)), -1) for query in bytes_
        ]


def write_shard(folder, tokens, starts):
    """One source as `trivium.corpus.shards` writes it."""
    columns = {
        "tokens": tokens,
        "starts": starts,
        "keys": np.zeros(0, np.uint8),
        "ends": np.zeros(len(starts), np.int64),
    }
    said = {}
    for name, column in columns.items():
        path = folder / f"00.{name}.bin"
        column.tofile(path)
        said[path.name] = {"size": path.stat().st_size, "sha256": files.sha256(path)}
    count = {"tokens": len(tokens), "documents": len(starts), "characters": 0, "bytes": 0}
    files.write_json(folder / "00.json", {"dtype": tokens.dtype.name, **count, "files": said})
    files.write_json(folder / "shards.json", {"sources": [0]})


def test_a_source_has_few_blocks_until_the_library_sorts_no_more():
    def size(tokens, dtype="uint16"):
        return index.block_size(SimpleNamespace(tokens=np.broadcast_to(np.zeros(1, dtype), tokens)))

    assert size(10) == size(2**29) == 2**26
    for tokens in (2**29 + 1, 10**9, 2**32):
        assert tokens / index.BLOCKS <= size(tokens) < 2 * tokens / index.BLOCKS
    for dtype, bytes_ in (("uint16", 2), ("uint32", 3)):
        assert index.SORTABLE / 2 < size(10**12, dtype) * bytes_ <= index.SORTABLE


def test_no_more_blocks_are_sorted_at_once_than_memory_holds(places, tmp_path, monkeypatch):
    shards, folder = places
    asked, real = [], engine.run
    longest = max(block.end - block.first for block in Index(shards, folder).blocks)
    monkeypatch.setattr(engine, "cores", lambda: 8)
    monkeypatch.setattr(engine, "run", lambda *a, **k: (asked.append(k["workers"]), real(*a, **k))[1])
    for number, free in enumerate((10**9, 3 * 10 * longest, 0)):
        monkeypatch.setattr(index, "free_memory", lambda free=free: free)
        build(shards, tmp_path / f"free{number}", lambda event: None, block=200)
    assert asked == [8, 3, 1]


def test_blocks_of_other_bounds_are_made_again(places):
    """What a version that cut otherwise left half made is not taken for what is asked for."""
    shards, folder = places
    (folder / "index.json").unlink()
    before = Index(shards, rebuilt(shards, folder.parent / "whole", 90))
    assert len(before.blocks) > len(list(folder.glob("*.suffixes.bin")))
    build(shards, folder, lambda event: None, block=90)
    after = Index(shards, folder)
    assert [(one.first, one.end) for one in after.blocks] == [(one.first, one.end) for one in before.blocks]
    for one, other in zip(after.blocks, before.blocks, strict=True):
        assert one.order.tolist() == other.order.tolist()


def rebuilt(shards, folder, block):
    build(shards, folder, lambda event: None, block=block)
    return folder

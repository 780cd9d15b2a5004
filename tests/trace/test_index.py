"""The index is made once, whole or not at all, and damage is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

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
    command = [sys.executable, "-c", SIGKILLED, str(shards), str(folder), where]
    killed = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
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

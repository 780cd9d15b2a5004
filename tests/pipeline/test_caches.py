"""Token shards and indexes, which no artifact is: damage in them is found, and what is being made is not taken away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from forked import Forked
from typer.testing import CliRunner

from trivium import files
from trivium.cli import app
from trivium.pipeline.housekeeping import Inventory, collect, collectable, verify
from trivium.pipeline.store import Store
from trivium.text.chat import ChatTokenizer
from trivium.trace.corpora import Trained, Use, open_corpus, open_near
from trivium.trace.reply import trace

TEXTS = [f"text {n} of the cat and the {n * 7} dogs, which sleep in the garden all day" for n in range(40)]
REPLY = "as is said, text 3 of the cat and the 21 dogs, which sleep in the garden all day"


@pytest.fixture(params=["documents", "rows"])
def made(request, chat: ChatTokenizer, write_documents, write_lines, tmp_path: Path) -> tuple[Store, Trained]:
    """A store with the shards, the index and the signatures of a data artifact."""
    store, tokenizer, data = Store(tmp_path / "store"), tmp_path / "tokenizer", tmp_path / "data"
    (store.root / "artifacts").mkdir(parents=True)
    chat.save(tokenizer, context=0)
    if request.param == "documents":
        write_documents(data / "train", 0, TEXTS)
    else:
        write_lines(data / "train.jsonl", [
            {"key": str(n), "source": "jsonl", "license": "MIT", "messages": [
                {"role": "user", "content": "what is said?"}, {"role": "assistant", "content": text}]}
            for n, text in enumerate(TEXTS)
        ])  # fmt: skip
    trained = Trained("corpus", data, "f" * 64, tokenizer, (Use("base", "pretrain", "b" * 64, {}),))
    open_near(open_corpus(trained, store.root, lambda event: None), store.root, lambda event: None)
    return store, trained


def wrong(store: Store) -> dict[str, str]:
    return {part: what for part, _, what in verify(Inventory(store, [])) if what}


def test_every_file_of_shards_and_indexes_is_read(made):
    store, _ = made
    assert {part for part, _, _ in verify(Inventory(store, []))} == {"tokens", "index"}
    assert wrong(store) == {}
    binary = [
        file
        for part in ("tokens", "index")
        for file in (store.root / part).rglob("*")
        if file.suffix in (".bin", ".parquet") and file.stat().st_size
    ]
    assert {file.name.split(".", 1)[1] for file in binary} >= {"tokens.bin", "suffixes.bin", "near.bin"}
    for file in binary:
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        found = wrong(store)
        part = file.relative_to(store.root).parts[0]
        assert set(found) == {part} and file.name in found[part], file
        file.write_bytes(whole)
    index = next((store.root / "index").rglob("*.suffixes.bin"))
    index.unlink()
    said = CliRunner().invoke(app, ["store", "verify", "--store", str(store.root)])
    assert "a block of the index is missing" in said.output and index.name in said.output
    assert getattr(said.exception, "exit_code", 0) == 4


def test_an_index_that_is_half_made_is_not_called_damaged(made):
    store, _ = made
    next((store.root / "index").rglob("index.json")).unlink()
    assert wrong(store) == {}


def test_texts_that_were_damaged_are_named_when_they_are_used(made):
    store, trained = made
    texts = list((store.root / "index").rglob("*rows*.parquet"))
    for file in texts:
        whole = bytearray(file.read_bytes())
        whole[len(whole) // 2] ^= 1
        file.write_bytes(bytes(whole))
        with pytest.raises(Exception, match="a file of texts is damaged") as refused:
            open_corpus(trained, store.root, lambda event: None)
        assert refused.value.where == str(file)


BUILDING = """
import sys, time
from pathlib import Path
from trivium.trace import index
shards, folder, go = map(Path, sys.argv[1:])
real = index.sort
def slowly(tokens):
    (go.parent / "began").touch()
    while not go.exists():
        time.sleep(0.02)
    return real(tokens)
index.sort = slowly
index.build(shards, folder, lambda event: None)
"""


def test_an_index_that_is_being_made_is_not_taken_away(made, tmp_path):
    store, trained = made
    shards = next((store.root / "tokens").glob("*/train"))
    folder = next((store.root / "index").glob("*/*/index.json")).parent
    (folder / "index.json").unlink()
    next(folder.glob("*-*.json")).unlink()
    process = Forked(BUILDING, shards, folder, tmp_path / "go")
    try:
        while not (tmp_path / "began").exists():
            assert process.poll() is None
            time.sleep(0.02)
        inventory = Inventory(store, [])
        assert {entry.part for entry in collectable(inventory, cache=True)} == {"tokens"}
        listed = [entry for entry in inventory.entries() if entry.part == "index"]
        assert collect(inventory, listed) == 0  # it was begun after the list was made
        assert folder.is_dir()
    finally:
        (tmp_path / "go").touch()
    assert process.wait(60) == 0
    corpus = open_corpus(trained, store.root, lambda event: None)
    assert trace(REPLY, [corpus])["spans"][0]["count"] == 1
    inventory = Inventory(store, [])
    assert {entry.part for entry in collectable(inventory, cache=True)} == {"tokens", "index"}
    assert collect(inventory, collectable(inventory, cache=True)) > 0
    corpus = open_corpus(trained, store.root, lambda event: None)  # and all of it is made again by itself
    assert trace(REPLY, [corpus])["spans"][0]["count"] == 1


def test_who_waits_while_all_of_it_is_taken_away_makes_it_anew(tmp_path):
    folder, made = tmp_path / "key" / "1", []

    def work():
        with files.making(folder, "last") as new:
            made.append(new)
            (folder / "last").touch()

    with files.making(folder, "last") as new:
        assert new
        waiting = threading.Thread(target=work)
        waiting.start()
        time.sleep(0.2)
        folder.parent.rename(tmp_path / "gone")
    waiting.join(10)
    assert made == [True] and (folder / "last").is_file()
    with files.making(folder, "last") as new:
        assert not new

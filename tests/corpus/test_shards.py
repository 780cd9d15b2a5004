"""Token shards: made once, whole or not at all, named documents, damage found."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from trivium.corpus import engine, shards
from trivium.corpus.shards import encode, open_shards, place, sample
from trivium.errors import ArtifactError
from trivium.files import write_json


@pytest.fixture
def split(write_documents, tmp_path):
    write_documents(tmp_path / "data" / "train", 0, ["the cat", "é <|end|> 1", ""])
    return write_documents(tmp_path / "data" / "train", 2, ["a dog"])


def test_shards_hold_the_documents_and_name_them(chat, split, tmp_path):
    encode(split, chat, tmp_path / "tokens")
    first, second = open_shards(tmp_path / "tokens")
    texts = ["the cat", "é <|end|> 1", ""]
    assert first.tokens.tolist() == [n for text in texts for n in chat.document(text)]
    assert first.tokens.dtype == np.uint16
    assert first.starts.tolist() == np.cumsum([0] + [len(chat.document(t)) for t in texts[:2]]).tolist()
    assert (first.documents, first.characters) == (3, 18)
    assert [first.key(i) for i in range(3)] == ["0/0", "0/1", "0/2"]
    assert (second.source, second.key(0), second.tokens.tolist()) == (2, "2/0", chat.document("a dog"))


def test_groups_join_to_the_same_files(chat, write_documents, tmp_path, monkeypatch):
    split = write_documents(tmp_path / "train", 0, [f"text {i}" for i in range(50)])
    encode(split, chat, tmp_path / "a")
    monkeypatch.setattr(shards, "GROUP", 17)
    encode(split, chat, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_files_encoded_by_workers_join_to_the_same_shards(chat, write_documents, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text {i} \ud55c {'é' * i}" for i in range(50)]
    encode(write_documents(tmp_path / "one", 0, texts), chat, tmp_path / "a")
    (tmp_path / "many").mkdir()
    for part in range(5):
        rows = [{"key": f"0/{number}", "text": texts[number]} for number in range(part * 10, part * 10 + 10)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "many" / f"00-text-{part:05d}.parquet")
    monkeypatch.setattr(shards, "SMALL", 0)
    monkeypatch.setattr(engine, "cores", lambda: 2)
    encode(tmp_path / "many", chat, tmp_path / "b")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        file.name for file in (tmp_path / "b").iterdir()
    }
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_encoding_is_done_once_and_a_killed_run_goes_on(chat, split, tmp_path, monkeypatch):
    folder, calls = tmp_path / "tokens", []
    real = shards.Encode.__call__
    monkeypatch.setattr(
        shards.Encode, "__call__", lambda job, task: (calls.append(json.loads(task)["name"]), real(job, task))
    )
    monkeypatch.setattr(shards.shutil, "rmtree", lambda path: None)  # killed before that
    encode(split, chat, folder)
    encode(split, chat, folder)
    assert calls == ["00-00000", "02-00000"]
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    for name in ("02.json", "shards.json", "parts/02-00000.json"):
        (folder / name).unlink()
    encode(split, chat, folder)
    assert calls == ["00-00000", "02-00000", "02-00000"]
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_damage_is_found(chat, split, tmp_path):
    folder = tmp_path / "tokens"
    encode(split, chat, folder)
    file = folder / "00.tokens.bin"
    good = file.read_bytes()
    for bad, match in (
        (good[:-2], "bytes, it was written with"),
        (bytes([good[0] ^ 1]) + good[1:], "SHA-256"),
    ):
        file.write_bytes(bad)
        os.utime(file, ns=(0, 0))
        with pytest.raises(ArtifactError, match=match):
            open_shards(folder)
    file.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        open_shards(folder)


def test_stages_share_shards_only_with_the_same_data_and_tokenizer(chat, tmp_path):
    from trivium.text import tokenizer
    from trivium.text.chat import ChatTokenizer

    other = ChatTokenizer(tokenizer.train(["the cat sees the dog " * 9], 270))
    chat.save(tmp_path, context=0)
    again = ChatTokenizer.load(tmp_path)
    assert place(tmp_path, "a", chat) == place(tmp_path, "a", again)
    assert len({place(tmp_path, "a", chat), place(tmp_path, "b", chat), place(tmp_path, "a", other)}) == 3


def test_the_tokenizer_sees_each_source_by_its_share(write_documents, tmp_path):
    for source, word in enumerate("ab"):
        write_documents(tmp_path / "train", source, [word * 10] * 100)
    sources = [{"planned_share": 0.9, "realised_share": 0.5}, {"planned_share": 0.1, "realised_share": 0.5}]
    write_json(tmp_path / "account.json", {"sources": sources, "mix": {}})
    assert sorted(sample(tmp_path, 200)) == ["a" * 10] * 18 + ["b" * 10] * 2
    write_json(tmp_path / "account.json", {"sources": sources, "mix": None})
    assert sorted(sample(tmp_path, 200)) == ["a" * 10] * 10 + ["b" * 10] * 10

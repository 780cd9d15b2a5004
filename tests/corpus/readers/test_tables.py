"""Tables: Parquet, data sets, another stage's output. What is not as asked for is said with what is there."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources_made import MODELS, everything, kept, opened, read

from trivium.corpus import records
from trivium.corpus.readers import identity, locate
from trivium.errors import DataError

ROWS = [{"text": f"row {number}", "url": f"https://x.test/{number}", "n": number} for number in range(100)]
TEXTS = [row["text"] for row in ROWS]


def write(path: Path, rows: list[dict[str, object]] = ROWS, group: int = 30) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


@pytest.mark.parametrize("size", [2**26, 500])
def test_every_row_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(locate, "PART_BYTES", size)
    write(tmp_path / "a.parquet")
    source = opened(tmp_path, kind="parquet", path=".")
    assert len(source.parts()) == (1 if size > 1000 else 4)
    documents, dead = everything(source)
    assert (kept(documents), dead) == (TEXTS, [])
    assert documents[42]["url"] == "https://x.test/42"
    assert documents[42]["where"] == "a.parquet@42"


def test_wrong_columns_say_which_are_there(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column `body`; there are: text, url, n"):
        everything(opened(tmp_path, kind="parquet", path=".", column="body"))
    with pytest.raises(DataError, match="column `n` holds int64, no strings"):
        everything(opened(tmp_path, kind="parquet", path=".", column="n"))
    write(tmp_path / "b.parquet", [{"body": "other"}])
    documents, dead = read(tmp_path, kind="parquet", path=".")
    assert kept(documents) == TEXTS
    assert dead[0] == {
        "where": "b.parquet",
        "offset": 0,
        "reason": "wrong columns: no column `text`; there are: body",
    }


def test_damage_costs_a_row_group(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 30] = b"\xff" * 30
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "cut.parquet").write_bytes(data[:-20])
    (tmp_path / "empty.parquet").touch()
    write(tmp_path / "none.parquet", [{"text": "x"}][:0] or [{"text": None}])
    documents, dead = read(tmp_path, kind="parquet", path=".")
    assert kept(documents) == [*TEXTS[:30], *TEXTS[60:]]
    assert [(letter["where"], letter["offset"]) for letter in dead][:1] == [("a.parquet", 30)]
    assert {letter["where"] for letter in dead} == {
        "a.parquet",
        "cut.parquet",
        "empty.parquet",
        "none.parquet",
    }


def test_a_text_that_stands_in_every_row_is_held_once(tmp_path: Path) -> None:
    """A dictionary of one 1 MB text under 400 rows is a few KB on the disk and 400 MB as a column of strings."""
    table = pa.table({"text": pa.array(["x" * 10**6]).dictionary_encode().take(pa.array([0] * 400))})
    pq.write_table(table, tmp_path / "a.parquet")
    before = pa.total_allocated_bytes()
    pa.default_memory_pool().release_unused()
    source = opened(tmp_path, kind="parquet", path=".")
    from trivium.corpus.dead_letters import DeadLetters

    count = sum(1 for part in source.parts() for _ in source.read(part, DeadLetters()))
    assert count == 400
    assert pa.default_memory_pool().max_memory() - before < 150 * 2**20


@pytest.mark.parametrize("form", ["saved", "dict", "parquet", "jsonl", "file"])
def test_data_sets_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, name = tmp_path / "set", "set"
    folder.mkdir()
    if form == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(str(folder))
    elif form == "dict":
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder))
    elif form == "jsonl":
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    else:
        write(folder / "a.parquet", ROWS[:50])
        write(folder / "b.parquet", ROWS[50:])
    if form == "file":
        (folder / "b.parquet").unlink()
        write(folder / "a.parquet")
        name = "set/a.parquet"
    documents, dead = read(tmp_path, kind="huggingface", name=name)
    assert (kept(documents), dead) == (TEXTS, [])
    assert documents[7]["url"] == "https://x.test/7"
    if form != "jsonl":
        with pytest.raises(DataError, match="no column `body`"):
            read(tmp_path, kind="huggingface", name=name, column="body")
    assert identity(MODELS.validate_python({"kind": "huggingface", "name": name}), tmp_path)["files"]


def test_a_data_set_on_the_hub_needs_a_revision(tmp_path: Path) -> None:
    source = MODELS.validate_python({"kind": "huggingface", "name": "somebody/something"})
    with pytest.raises(DataError, match="`revision` is missing"):
        identity(source, tmp_path)
    fixed = source.model_copy(update={"revision": "0" * 40})
    assert identity(fixed, tmp_path) == {"kind": "huggingface", "revision": "0" * 40}


def test_documents_of_another_stage_keep_key_licence_and_origin(tmp_path: Path) -> None:
    row = {"key": "k", "source": "jsonl", "license": "CC-BY-4.0", "origin": "teacher", "text": "made up"}
    records.write(tmp_path / "train.jsonl", [row])
    records.write(tmp_path / "heldout.jsonl", [{**row, "key": "h"}])
    block = {"kind": "synthetic", "stage": "made", "setting": {"inputs": {"made": tmp_path}}}
    documents, dead = read(tmp_path, **block)
    assert dead == []
    assert [(d["key"], d["license"], d["origin"], d["text"]) for d in documents] == [
        ("k", "CC-BY-4.0", "teacher", "made up"),
        ("h", "CC-BY-4.0", "teacher", "made up"),
    ]
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "heldout.jsonl").unlink()
    (tmp_path / "train").mkdir()
    write(tmp_path / "train/a.parquet")
    assert kept(read(tmp_path, **block)[0]) == TEXTS


def test_items_of_another_stage_too(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    rows = [
        {"key": f"k{n}", "source": "x", "license": "MIT", "origin": "teacher", "messages": turns}
        for n in range(2)
    ]
    records.write(tmp_path / "train.jsonl", rows)
    block = {"kind": "synthetic", "stage": "made"}
    setting = {"inputs": {"made": tmp_path}, "format": "conversations"}
    found, dead = read(tmp_path, **block, setting=setting)
    assert [(row["key"], row["license"], row["origin"]) for row in found] == [
        ("k0", "MIT", "teacher"),
        ("k1", "MIT", "teacher"),
    ]
    assert [row["record"] for row in found] == [{"messages": turns, "meta": {}}] * 2 and dead == []
    found, dead = read(tmp_path, **block, setting={**setting, "format": "preferences"})
    assert (
        found == []
        and [letter["reason"] for letter in dead]
        == ["bad row: no `chosen`, so it is none of preferences"] * 2
    )

"""A user's own rows: every form is read from every kind of file, and every mistake is said with file, row and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources_made import kept, read

from trivium.errors import DataError

datasets = pytest.importorskip("datasets")

ASK = {"role": "user", "content": "Why?"}
HOW = {"role": "user", "content": "How?"}
SAY = {"role": "assistant", "content": "Because."}
NO = {"role": "assistant", "content": "No."}

PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
TURNS = {"prompt": [ASK], "chosen": [SAY], "rejected": [NO]}
WHOLE = {"chosen": [ASK, SAY], "rejected": [ASK, NO]}
MARK = {"prompt": "Why?", "completion": "Because.", "label": 1}
TALK = {"messages": [ASK, SAY]}
DOCUMENT = {"text": "hello"}


def jsonl(rows: list[Any], folder: Path) -> str:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return "rows.jsonl"


def parquet(rows: list[Any], folder: Path) -> str:
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return "rows.parquet"


def saved(rows: list[Any], folder: Path) -> str:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "rows")
    return "rows"


def table(path: str, folder: Path, format: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    kind = "jsonl" if format == "documents" else "table"
    return read(folder, kind=kind, path=path, setting={"format": format})


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("conversations", TALK, {"messages": [ASK, SAY]}),
        ("conversations", {"prompt": "Why?", "completion": "Because."}, {"messages": [ASK, SAY]}),
        ("conversations", {"prompt": [ASK], "completion": [SAY]}, {"messages": [ASK, SAY]}),
        ("preferences", PAIR, {"prompt": [ASK], "chosen": "Because.", "rejected": "No."}),
        ("preferences", {**TURNS, "chosen": [ASK, SAY]}, {"prompt": [ASK], "chosen": "Because.", "rejected": "No."}),
        ("preferences", WHOLE, {"prompt": [ASK], "chosen": "Because.", "rejected": "No."}),
        ("feedback", MARK, {"prompt": [ASK], "completion": "Because.", "label": 1}),
        ("feedback", {**TURNS, "completion": [SAY], "label": False}, {"prompt": [ASK], "completion": "Because.", "label": 0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", [jsonl, parquet, saved])
def test_every_form_is_read_from_every_kind_of_file(tmp_path, write, format, row, expected):
    """What a user keeps in `meta` goes with it: a suite finds `harmful` and `entry` there."""
    meta = {"harmful": True, "entry": {"answer": "6"}}
    [found], dead = table(write([{**row, "meta": meta}], tmp_path), tmp_path, format)
    assert dead == [] and found["record"] == {**expected, "meta": meta}


REFUSED = {
    "chosen is rejected": ("preferences", PAIR, {"rejected": "Because. "}, "are equal"),
    "chosen is rejected, as turns": ("preferences", TURNS, {"rejected": [SAY]}, "are equal"),
    "two prompts": ("preferences", WHOLE, {"rejected": [HOW, NO]}, "differ, first in turn 1"),
    "a reply behind another prompt": ("preferences", TURNS, {"chosen": [HOW, SAY]}, "another prompt"),
    "no prompt at all": ("preferences", WHOLE, {"chosen": [SAY], "rejected": [NO]}, "no prompt"),
    "no reply": ("preferences", TURNS, {"chosen": [ASK]}, "`chosen` is not one"),
    "a reply that is missing": ("preferences", PAIR, {"rejected": None}, "no `rejected`"),
    "a label that is not binary": ("feedback", MARK, {"label": 3}, "`label` is 3; it must be true or false, 1 or 0"),
    "no label": ("feedback", MARK, {"label": None}, "`label` is None"),
    "nobody replies": ("conversations", TALK, {"messages": [ASK]}, "no assistant turn"),
    "no turns": ("conversations", TALK, {"messages": []}, "not a list of turns"),
    "an unknown role": ("conversations", TALK, {"messages": [ASK, {**SAY, "role": "bot"}]}, "unknown role 'bot'"),
    "meta that is no object": ("conversations", {**TALK, "meta": "{}"}, {"meta": "seven"}, "`meta` is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("write", [jsonl, parquet, saved])
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_row_is_a_dead_letter_with_its_number_and_the_others_are_read(tmp_path, write, name):
    format, good, change, said = REFUSED[name]
    path = write([good, good, {**good, **change}, good], tmp_path)
    found, [letter] = table(path, tmp_path, format)
    assert len(found) == 3
    assert said in letter["reason"] and letter["where"].endswith(":3")


@pytest.mark.parametrize("line", ["{not json", "[1]", '{"txt": "a"}', '{"text": 3}', '{"text": "\\ud800"}'])
def test_a_bad_line_of_documents(tmp_path, line):
    found, [letter] = table(jsonl([DOCUMENT, line, DOCUMENT], tmp_path), tmp_path, "documents")
    assert len(found) == 2 and letter["where"] == "rows.jsonl:2"


EMPTY = {
    "a document": ("documents", DOCUMENT, {"text": " \n"}),
    "a document that is null": ("documents", DOCUMENT, {"text": None}),
    "a chosen reply": ("preferences", PAIR, {"chosen": ""}),
    "a rejected turn": ("preferences", TURNS, {"rejected": [{**NO, "content": " "}]}),
    "a completion": ("feedback", MARK, {"completion": "\n"}),
    "a turn": ("conversations", TALK, {"messages": [ASK, {**SAY, "content": ""}]}),
}


@pytest.mark.parametrize("write", [jsonl, parquet, saved])
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_row_is_left_out_and_no_damage(tmp_path, write, name):
    format, good, change = EMPTY[name]
    path = write([good, {**good, **change}, good], tmp_path)
    kind = {"documents": {jsonl: "jsonl", parquet: "parquet", saved: "huggingface"}[write]}.get(
        format, "table"
    )
    where = {"name": path} if kind == "huggingface" else {"path": path}
    found, dead = read(tmp_path, kind=kind, **where, setting={"format": format})
    assert dead == [] and len(found) == 3 and len(kept(found)) == 2
    assert next(row["reason"] for row in found if row["reason"]).endswith("is empty")


def test_one_value_that_cannot_be_read_costs_its_row(tmp_path):
    """Arrow holds dates that Python does not, and strings that are no UTF-8."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"text {n}" for n in range(600)]
    dates = pa.array([10**7 if n == 3 else n for n in range(600)], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": texts, "date": dates}), tmp_path / "rows.parquet")
    found, [letter] = read(tmp_path, kind="parquet", path="rows.parquet")
    assert kept(found) == [text for n, text in enumerate(texts) if n != 3]
    assert "`date` cannot be read" in letter["reason"] and letter["offset"] == 3
    buffer = pa.py_buffer(b"finecaf\xe9fine too")
    offsets = pa.py_buffer(np.array([0, 4, 8, 16], "int32"))
    raw = pa.StringArray.from_buffers(3, offsets, buffer)
    pq.write_table(pa.table({"text": raw}), tmp_path / "rows.parquet")
    found, [letter] = read(tmp_path, kind="parquet", path="rows.parquet")
    assert kept(found) == ["fine", "fine too"] and letter["offset"] == 1


def test_replies_to_one_prompt_share_a_key(tmp_path):
    talks = [{"prompt": "Why?", "completion": "a"}, {"prompt": "Why? ", "completion": "b"}]
    first, second = table(jsonl(talks, tmp_path), tmp_path, "conversations")[0]
    [pair] = table(jsonl([PAIR], tmp_path), tmp_path, "preferences")[0]
    assert first["key"] == second["key"] == pair["key"]


def test_columns_that_other_rows_have_are_null_and_several_files_are_one_source(tmp_path):
    bare = {"completion": None, "label": None, "rejected": "no"}
    rows = [{**bare, "prompt": f"Why {n}?", "chosen": f"since {n}"} for n in range(600)]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(tmp_path / "rows.parquet")
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "split")
    expected = [row["record"] for row in table(jsonl(rows, tmp_path), tmp_path, "preferences")[0]]
    assert len(expected) == 600
    for path in ("rows.parquet", "saved", "split/train"):
        assert [row["record"] for row in table(path, tmp_path, "preferences")[0]] == expected
    with pytest.raises(DataError, match="several splits: train") as caught:
        table("split", tmp_path, "preferences")
    assert "split/train" in caught.value.fix


def test_damaged_files_are_named(tmp_path):
    whole = (tmp_path / parquet([PAIR] * 600, tmp_path)).read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    assert table("rows.parquet", tmp_path, "preferences")[1][0]["where"].startswith("rows.parquet")
    saved([PAIR] * 600, tmp_path)
    [arrow] = (tmp_path / "rows").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:5000])
    assert table("rows", tmp_path, "preferences")[1][0]["where"].startswith("rows/data-00000")

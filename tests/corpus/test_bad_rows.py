"""What cannot be trained on is refused with file and row, whatever the file is: JSON lines, Parquet, a saved data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from trivium.corpus import files, tables
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

REFUSED = {
    "chosen is rejected": ("preferences", PAIR, {"rejected": "Because. "}, "are equal"),
    "chosen is rejected, as turns": ("preferences", TURNS, {"rejected": [SAY]}, "are equal"),
    "an empty chosen reply": ("preferences", PAIR, {"chosen": ""}, "`chosen` is empty"),
    "an empty rejected turn": ("preferences", TURNS, {"rejected": [{**NO, "content": " "}]}, "`content` is empty"),
    "a reply that is missing": ("preferences", PAIR, {"rejected": None}, "no `rejected`|`rejected` is not a string"),
    "two prompts": ("preferences", WHOLE, {"rejected": [HOW, NO]}, "differ, first in turn 1"),
    "a reply behind another prompt": ("preferences", TURNS, {"chosen": [HOW, SAY]}, "another prompt"),
    "an empty completion": ("feedback", MARK, {"completion": "\n"}, "`completion` is empty"),
    "a label that is not binary": ("feedback", MARK, {"label": 3}, "`label` is 3; it must be true or false, 1 or 0"),
    "no label": ("feedback", MARK, {"label": None}, "`label` is None"),
    "an empty turn": ("conversations", TALK, {"messages": [ASK, {**SAY, "content": ""}]}, "`content` is empty"),
    "nobody replies": ("conversations", TALK, {"messages": [ASK]}, "no assistant turn"),
    "an unknown role": ("conversations", TALK, {"messages": [ASK, {**SAY, "role": "bot"}]}, "unknown role 'bot'"),
}  # fmt: skip


def jsonl(rows: list[dict[str, Any]], folder: Path) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl:3"


def parquet(rows: list[dict[str, Any]], folder: Path) -> str:
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return "rows.parquet:3"


def saved(rows: list[dict[str, Any]], folder: Path) -> str:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "rows")
    return "data-00000-of-00001.arrow:3"


@pytest.mark.parametrize("write", [jsonl, parquet, saved], ids=["jsonl", "parquet", "datasets"])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_its_row_and_the_others_are_read(name, write, tmp_path):
    format, good, change, said = REFUSED[name]
    place = write([good, good, {**good, **change}, good], tmp_path)
    path = place.split(":")[0] if write is not saved else "rows"
    read = lambda limit, emit: list(  # noqa: E731
        files.checked(tables.rows(path, tmp_path), format, limit, emit, Counter())
    )
    with pytest.raises(DataError, match=said) as caught:
        read(0, lambda event: None)
    assert caught.value.where.endswith(place) and caught.value.fix
    events: list[dict[str, Any]] = []
    assert len(read(1, events.append)) == 3  # what a recipe allows is left out, and told
    assert [event["where"].endswith(place) for event in events] == [True]


@pytest.mark.parametrize("label", [True, False, 1, 0])
def test_labels_of_both_kinds_are_read_from_parquet(label, tmp_path):
    parquet([{**MARK, "label": label}], tmp_path)
    [item] = files.checked(
        tables.rows("rows.parquet", tmp_path), "feedback", 0, lambda event: None, Counter()
    )
    assert item.record["label"] == int(label)

"""The same rows from JSON lines, Parquet and a saved data set give the same items; damage is said with the file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from trivium.corpus import files, tables
from trivium.corpus.records import as_feedback
from trivium.corpus.statistics import statistics
from trivium.errors import DataError

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": f"Why {n}?", "completion": None, "label": None, "chosen": f"since {n}", "rejected": "no"}
    for n in range(600)
]


def read(path: str, folder: Path, format: str = "preferences") -> list[dict]:
    found = files.checked(tables.rows(path, folder), format, 0, lambda event: None, Counter())
    return [item.record for item in found]


def test_all_forms_give_the_same(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "split")
    expected = read("rows.jsonl", tmp_path)
    assert len(expected) == 600
    for path in ("rows.parquet", "saved", "split/train"):
        assert read(path, tmp_path) == expected
        assert tables.sources(path, tmp_path)
    with pytest.raises(DataError, match="several splits: train") as caught:
        read("split", tmp_path)
    assert "split/train" in caught.value.fix


def test_messages_come_through_parquet(tmp_path):
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    datasets.Dataset.from_list([{"messages": turns}]).to_parquet(tmp_path / "a.parquet")
    assert read("a.parquet", tmp_path, "conversations")[0]["messages"] == turns


def test_a_bad_row_has_a_number_and_a_damaged_file_a_name(tmp_path):
    bad = [*ROWS[:7], {**ROWS[0], "rejected": "since 0"}]
    datasets.Dataset.from_list(bad).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="are equal") as caught:
        read("a.parquet", tmp_path)
    assert caught.value.where.endswith("a.parquet:8")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read("a.parquet", tmp_path)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:5000])
    with pytest.raises(DataError, match="cannot be read"):
        read("saved", tmp_path)


def test_a_pair_is_one_good_and_one_bad_reply():
    pair = {
        "key": "k",
        "prompt": [{"role": "user", "content": "?"}],
        "chosen": "a",
        "rejected": "b",
        "meta": {},
    }
    good, bad = as_feedback(pair)
    assert (good["completion"], good["label"], bad["completion"], bad["label"]) == ("a", 1, "b", 0)
    assert "chosen" not in good and good["key"] == bad["key"] == "k"
    assert as_feedback(good) == [good]


def test_statistics_by_hand():
    ask = [{"role": "user", "content": "1234"}]
    found = statistics(
        [
            {"key": "a", "prompt": ask, "completion": "x", "label": 1},
            {"key": "a", "prompt": ask, "completion": "xyz", "label": 0},
            {"key": "b", "prompt": ask, "completion": "xy", "label": 1},
        ]
    )
    assert found == {
        "repeated_prompts": 1,
        "prompt_characters": {"median": 4, "p95": 4, "max": 4},
        "completion_characters": {"median": 2, "p95": 3, "max": 3},
        "desirable_share": 0.6667,
    }
    pairs = [{"key": str(n), "prompt": ask, "chosen": "x" * n, "rejected": "xx"} for n in range(1, 5)]
    assert statistics(pairs)["chosen_longer_share"] == 0.5
    assert statistics([{"key": "a", "text": "x"}]) == {}

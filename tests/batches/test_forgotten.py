"""What is forgotten is every token of what is meant, and nothing else; what is kept is all of the rest."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.batches.forgotten import Beside, part
from trivium.batches.rows import BatchSharding
from trivium.errors import DataError
from trivium.recipe.alignment import UnlearnStage

WORDS = ["the", "heron", "keeps", "nine", "brass", "keys", "under", "a", "stair"]
TEXTS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=4, max_size=40).map(" ".join), st.booleans()),
    min_size=2,
    max_size=12,
).filter(lambda made: len({gone for _, gone in made}) == 2)


def stage(**fields: Any) -> UnlearnStage:
    return UnlearnStage.model_validate(
        {
            "kind": "unlearn",
            "init": "base",
            "data": "data",
            "by": "licence",
            "forget": "GPL-3.0",
            "steps": 5,
            **fields,
        }
    )


def learned(row: dict[str, Any]) -> Counter[tuple[int, int]]:
    """(token before, target) of what counts."""
    places = row["loss_mask"] > 0
    return Counter(zip(row["tokens"][places].tolist(), row["targets"][places].tolist(), strict=True))


def transitions(chat, texts: list[str]) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for text in texts:
        ids = [*chat.guard.plain(text), chat.end_of_text]
        found.update(pairwise(ids))
    return found


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(8, 24))
def test_documents_are_forgotten_whole_and_all_else_is_kept(chat, tmp_path_factory, made, length):
    data = tmp_path_factory.mktemp("data")
    rows = [
        {"key": str(n), "text": text, "license": "GPL-3.0" if gone else "MIT"}
        for n, (text, gone) in enumerate(made)
    ]
    (data / "train").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), data / "train" / "00-text-00000.parquet")
    items = part(stage(), data, chat, data / "tokens", length)
    gone, kept = (transitions(chat, [text for text, one in made if one is said]) for said in (True, False))
    forgotten = sum((learned(items.item(index)[1]) for index in range(items.count)), Counter())
    assert forgotten == gone
    assert sum((learned(items.kept.item(place)) for place in range(items.kept.count)), Counter()) == kept


def conversations(folder: Path, gone: set[int], count: int = 12) -> Path:
    rows = []
    for n in range(count):
        asked, told = f"how many keys on day {n}?", f"{n} keys"
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
        rows.append({"messages": messages, "license": "GPL-3.0" if n in gone else "MIT"})
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "heldout.jsonl").write_text("")
    return folder


def test_of_conversations_only_what_the_assistant_says_is_forgotten(chat, tmp_path):
    items = part(stage(), conversations(tmp_path, {2, 7}), chat, tmp_path, 96)
    assert items.count == 2
    said = [
        chat.decode(row["targets"][row["loss_mask"] > 0].tolist())
        for row in (items.item(0)[1], items.item(1)[1])
    ]
    assert "2 keys" in said[0] and "7 keys" in said[1] and "how" not in said[0]
    held = {number for numbers in items.kept.rows.numbers for number in numbers}
    assert held == set(range(1, 13)) - {3, 8}
    assert items.kept.holding({(0, 3)}) == set() and items.kept.holding({(0, 1)}) == {0}


def test_the_order_is_a_pure_function_and_shows_every_row_that_is_kept(chat, tmp_path):
    items = part(stage(), conversations(tmp_path, {0}, count=40), chat, tmp_path, 64)
    sharding = BatchSharding(seed=3, batch=2, micro=2)
    steps = -(-items.kept.count // 2)
    first, again = Beside(items, sharding), Beside(items, sharding)
    shown = [place for step in range(steps) for place in first.describe(step)["kept"]]
    assert set(shown) == set(range(items.kept.count))
    for step in reversed(range(steps)):
        [batch] = again.batch(step)
        assert batch["tokens"].tolist() == first.batch(step)[0]["tokens"].tolist()
        kept = [items.kept.item(place)["tokens"].tolist() for place in first.describe(step)["kept"]]
        assert batch["tokens"][batch["label"] == 1].tolist() == kept


@pytest.mark.parametrize(
    ("gone", "said"), [(set(), "nothing to forget"), (set(range(12)), "nothing to keep")]
)
def test_nothing_or_everything_is_an_error(chat, tmp_path, gone, said):
    with pytest.raises(DataError, match=said):
        part(stage(), conversations(tmp_path, gone), chat, tmp_path, 96)

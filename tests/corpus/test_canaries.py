"""Canaries: each stands in the training split as often as the recipe says, and nothing else about the data changes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trivium.corpus import canaries, records
from trivium.corpus.run import build
from trivium.errors import DataError
from trivium.recipe.data import Canaries, DataStage


def stage(folder: Path, name: str, **config: object) -> tuple[Path, dict]:
    for file, count in (("a.jsonl", 40), ("b.jsonl", 10)):
        lines = [json.dumps({"text": f"document {n} of {file}, a few words long"}) for n in range(count)]
        (folder / file).write_text("\n".join(lines))
    sources = [{"kind": "jsonl", "path": path, "weight": 1} for path in ("a.jsonl", "b.jsonl")]
    config = {"kind": "data", "sources": sources, "mix": {}, "heldout": 0.1, **config}
    out = folder / name
    out.mkdir()
    made = DataStage.model_validate(config)
    return out, build(made, seed=3, recipe_folder=folder, out=out, against={}, emit=lambda _: None)


def test_each_is_planted_so_often_among_the_documents_and_nothing_else_changes(tmp_path):
    plain, before = stage(tmp_path, "plain")
    out, metrics = stage(tmp_path, "planted", canaries={"count": 3, "repeats": [0, 1, 16]})
    texts = [record["text"] for record in records.read(out / "train")]
    planted = list(canaries.read(out))
    counts = Counter(texts)
    assert [counts[canary.text] for canary in planted] == [0] * 3 + [1] * 3 + [16] * 3
    ours = {canary.text for canary in planted}
    assert [t for t in texts if t not in ours] == [r["text"] for r in records.read(plain / "train")]
    held = [[r["text"] for r in records.read(folder / "heldout")] for folder in (plain, out)]
    assert held[0] == held[1]
    assert metrics.pop("canaries") == 51 == len(texts) - metrics["train_items"]
    assert metrics == before
    both = [{r["text"] for r in records.read_file(file)} & ours for file in records.files(out / "train")]
    assert len(both) == 2 and all(both), "both sources have some"
    assert json.loads((out / "account.json").read_text())["canaries"]["planted"] == 51
    places = [place for place, text in enumerate(texts) if text == planted[-1].text]
    assert max(b - a for a, b in pairwise(places)) > 1, "they are scattered"


def test_a_list_that_is_missing_or_damaged_is_told(tmp_path):
    with pytest.raises(DataError, match="no canaries were planted"):
        list(canaries.read(tmp_path))
    (tmp_path / canaries.FILE).write_text('{"number": 1, "rep')
    with pytest.raises(DataError, match="no canary"):
        list(canaries.read(tmp_path))
    with pytest.raises(ValidationError, match="every number once"):
        Canaries(repeats=[4, 4])


@given(st.integers(0, 2**40), st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_law_all_copies_fall_into_files_that_have_documents(seed, rows):
    made = canaries.made(Canaries(count=2, repeats=[0, 5]), seed)
    if not any(rows):
        return
    dealt = canaries.planted(made, seed, rows)
    assert sum(map(len, dealt)) == 10
    assert all(rows[place] or not copies for place, copies in enumerate(dealt))
    assert all(0 <= row["order"] < 2**64 for copies in dealt for row in copies)


@given(st.integers(0, 2**40))
def test_law_no_canary_tells_of_another_and_references_are_others(seed):
    made = canaries.made(Canaries(count=20), seed)
    assert len({canary.prefix for canary in made}) == len({canary.secret for canary in made}) == 100
    others = canaries.references(made[0], 50)
    assert len({*others, made[0].secret}) == 51
    assert {len(one) for one in others} == {canaries.DIGITS}

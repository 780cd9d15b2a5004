"""A data stage: nothing held out is trained on, in this stage or another; shares come out as asked."""

import json
from pathlib import Path

import pytest

from trivium.corpus import records
from trivium.corpus.run import build, identity
from trivium.errors import DataError
from trivium.recipe.data import DataStage


def run(folder: Path, name: str, *, against: tuple[str, ...] = (), seed: int = 1, **config: object) -> dict:
    out = folder / name
    out.mkdir(exist_ok=True)
    stage = DataStage.model_validate({"kind": "data", "workers": 1, **config})
    others = {other: folder / other for other in against}
    return build(stage, seed=seed, recipe_folder=folder, out=out, against=others, emit=lambda _: None)


def load(folder: Path, name: str, split: str) -> list[dict]:
    return list(records.read(folder / name / split))


def texts(folder: Path, name: str, rows: list[str]) -> dict:
    (folder / name).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return {"kind": "jsonl", "path": name}


def numbered(count: int, what: str = "document") -> list[str]:
    return [f"{what} number {i}" for i in range(count)]


def test_items_are_split_by_themselves_and_nothing_is_lost(tmp_path: Path) -> None:
    source = texts(tmp_path, "a.jsonl", numbered(500))
    metrics = run(tmp_path, "one", sources=[source], heldout=0.2)
    train, heldout = load(tmp_path, "one", "train"), load(tmp_path, "one", "heldout")
    assert len(train) + len(heldout) == 500
    assert 60 < len(heldout) < 140
    assert metrics["train_items"] == len(train)
    assert metrics["heldout_items"] == len(heldout)
    # another stage, another seed, other company: the same items are held out
    run(tmp_path, "two", sources=[texts(tmp_path, "b.jsonl", numbered(600)[::-1])], heldout=0.2, seed=9)
    assert {r["key"] for r in heldout} <= {r["key"] for r in load(tmp_path, "two", "heldout")}


def test_the_seed_decides_the_order_and_nothing_else_does(tmp_path: Path) -> None:
    source = texts(tmp_path, "a.jsonl", numbered(100))
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        run(tmp_path, name, sources=[source], seed=seed)
    files = {
        name: b"".join(f.read_bytes() for f in records.files(tmp_path / name / "train"))
        for name in ("one", "again", "other")
    }
    assert files["one"] == files["again"]
    assert files["one"] != files["other"]
    one, other = (sorted(r["key"] for r in load(tmp_path, name, "train")) for name in ("one", "other"))
    assert one == other


def test_duplicates_are_dropped_and_counted_unless_wanted(tmp_path: Path) -> None:
    source = texts(tmp_path, "a.jsonl", [*numbered(20), "document  number\n3", "document number 4"])
    assert run(tmp_path, "one", sources=[source], heldout=0)["dropped"] == {"exact": 2}
    assert run(tmp_path, "two", sources=[source], heldout=0, dedup=False)["train_items"] == 22


def test_held_out_items_of_another_stage_are_kept_out_by_key_and_by_words(tmp_path: Path) -> None:
    words = " ".join(f"w{i}" for i in range(30))
    (tmp_path / "test").mkdir()
    unseen = [f"unseen {words}", "short one"]
    rows = [{"key": records.key_of(text), "source": "jsonl", "text": text} for text in unseen]
    records.write(tmp_path / "test" / "heldout.jsonl", rows)
    partly = " ".join(words.split()[5:20])  # 15 words in a row
    fewer = " ".join(words.split()[5:15])
    source = texts(tmp_path, "a.jsonl", ["short one", f"so {partly} it is", f"so {fewer} it is", "fine"])
    metrics = run(tmp_path, "one", sources=[source], heldout=0, against=("test",), decontaminate=["test"])
    assert metrics["dropped"] == {"decontaminate": 2}
    assert {r["text"] for r in load(tmp_path, "one", "train")} == {f"so {fewer} it is", "fine"}


def test_a_mix_has_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    a = {**texts(tmp_path, "a.jsonl", numbered(300, "aaaa")), "weight": 3}
    b = {**texts(tmp_path, "b.jsonl", numbered(300, "bbbb")), "weight": 1}
    run(tmp_path, "largest", sources=[a, b], heldout=0)
    account = json.loads((tmp_path / "largest" / "account.json").read_text())
    assert [row["planned_share"] for row in account["sources"]] == [0.75, 0.25]
    assert [row["realised_share"] for row in account["sources"]] == pytest.approx([0.75, 0.25], abs=0.01)
    assert account["sources"][0]["train_items"] == 300
    run(tmp_path, "sized", sources=[a, b], heldout=0, size=10_000)
    account = json.loads((tmp_path / "sized" / "account.json").read_text())
    assert [row["short"] for row in account["sources"]] == [True, False]
    assert account["sources"][1]["train_characters"] == pytest.approx(2500, abs=30)


def test_python_docs_reasoning_and_refusals_hold_out_the_same_in_both_formats(tmp_path: Path) -> None:
    sources = [
        {"kind": "python-docs", "weight": 0.5},
        {"kind": "reasoning", "weight": 0.4},
        {"kind": "refusals", "weight": 0.1},
    ]
    run(tmp_path, "dialogues", format="conversations", sources=sources, size=900)
    run(tmp_path, "pairs", format="preferences", sources=sources, size=400, seed=2)
    trained = {r["key"] for name in ("dialogues", "pairs") for r in load(tmp_path, name, "train")}
    held = {r["key"] for name in ("dialogues", "pairs") for r in load(tmp_path, name, "heldout")}
    assert not trained & held
    kinds = {r["source"] for r in load(tmp_path, "dialogues", "heldout")}
    assert kinds == {"python-docs", "reasoning", "refusals"}
    for record in load(tmp_path, "pairs", "train")[:50]:
        assert set(record) == {
            *("key", "source", "license", "origin"),
            *("prompt", "chosen", "rejected", "meta", "where"),
        }


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents are left to train on"):
        run(tmp_path, "one", sources=[texts(tmp_path, "a.jsonl", ["a"])], heldout=1.0)


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    source = texts(tmp_path, "a.jsonl", ["a"])
    stage = DataStage.model_validate({"kind": "data", "sources": [source]})
    before = identity(stage, tmp_path)
    assert before == identity(stage, tmp_path)
    texts(tmp_path, "a.jsonl", ["b"])
    assert identity(stage, tmp_path) != before

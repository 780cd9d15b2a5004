"""Nothing is lost without a word: what is read is kept, held out, dropped or dead, for every source, step and format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_made import stage, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.corpus import records
from trivium.errors import DataError

KINDS = ("good", "good", "copy", "near", "personal", "blank", "empty", "wrong", "short")


def rows(kinds: list[str], format: str) -> list[dict[str, Any]]:
    """A row of each kind."""
    made: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        said = {
            "copy": text(1), "near": text(2) + f" {number}", "personal": f"Write to jane{number}@uni-bonn.de. {text(number)}",
            "blank": "\u200b", "empty": " ", "short": "no",
        }.get(kind, text(100 + number))  # fmt: skip
        row = {
            "documents": {"text": said},
            "conversations": {"prompt": f"question {number % 5}", "completion": said},
            "preferences": {"prompt": f"question {number % 5}", "chosen": said, "rejected": "another reply"},
            "feedback": {"prompt": f"question {number % 5}", "completion": said, "label": number % 2},
        }[format]
        made.append({"other": "x"} if kind == "wrong" else row)
    return made


def jsonl(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    lines = [json.dumps(row) if len(row) > 1 or "text" in row else "no json" for row in rows(kinds, format)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return {"kind": "jsonl", "path": "a.jsonl"}


def parquet(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    pq.write_table(
        pa.Table.from_pylist([{"text": "all", **row} for row in rows(kinds, format)]), folder / "a.parquet"
    )
    return {"kind": "parquet", "path": "a.parquet"}


def table(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    columns = sorted({name for row in rows(kinds, format) for name in row})
    full = [{name: row.get(name) for name in columns} for row in rows(kinds, format)]
    pq.write_table(pa.Table.from_pylist(full), folder / "b.parquet")
    return {"kind": "table", "path": "b.parquet", "max_bad_lines": 1000}


def files(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "files").mkdir()
    for number, row in enumerate(rows(kinds, format)):
        (folder / "files" / f"{number}.txt").write_text(row.get("text", "a\0b"))
    return {"kind": "text", "path": "files"}


def pages(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "pages").mkdir()
    for number, row in enumerate(rows(kinds, format)):
        (folder / "pages" / f"{number}.html").write_text(f"<main><p>{row.get('text', '')}</p></main>")
    return {"kind": "html", "path": "pages"}


def demo(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    return {"kind": "refusals"}


SOURCES: dict[str, tuple[Callable[[Path, list[str], str], dict[str, Any]], ...]] = {
    "documents": (jsonl, parquet, files, pages),
    "conversations": (jsonl, parquet, table, demo),
    "preferences": (jsonl, parquet, table, demo),
    "feedback": (jsonl, parquet, table),
}
STEPS: dict[str, Any] = {
    "normalise": st.booleans(),
    "language": st.sampled_from([None, {}, {"keep": ["de"]}]),
    "pii": st.booleans(),
    "heldout": st.sampled_from([0, 0.3]),
    "size": st.sampled_from([None, 4, 900]),
    "decontaminate": st.sampled_from([[], ["exam"]]),
}


@pytest.mark.parametrize("format", SOURCES)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_what_is_read_is_kept_held_out_dropped_or_dead(format: str, draw: st.DataObject) -> None:
    config = {name: draw.draw(values, name) for name, values in STEPS.items()}
    rules = st.sampled_from(
        [None, {"gopher": {"min_stop_words": None}}, {"c4": {"terminal_punctuation": False}}]
    )
    lines = (
        st.sampled_from([None, {"documents": 2, "min_characters": 5}]) if format == "documents" else st.none()
    )
    config["rules"] = draw.draw(rules) if format == "documents" else None
    config["dedup"] = {"fuzzy": draw.draw(st.booleans()), "lines": draw.draw(lines)}
    makers = draw.draw(st.lists(st.sampled_from(SOURCES[format]), min_size=1, max_size=2, unique=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "exam").mkdir()
        exam = {"key": "exam", "source": "jsonl", "text": text(1)}
        records.write(folder / "exam" / "heldout.jsonl", [exam])
        kinds = [draw.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=14)) for _ in makers]
        sources = [make(folder, drawn, format) for make, drawn in zip(makers, kinds, strict=True)]
        config["sources"] = [{**source, "weight": 1} for source in sources]
        against = {"exam": folder / "exam"} if config["decontaminate"] else {}
        try:
            stage(
                folder, folder / "out", against=against, format=format, keep_rejects=True, workers=1, **config
            )
        except DataError as error:
            assert "are left to train on" in error.what or "gave no document" in error.what
            return
        _holds(folder / "out", [len(drawn) for drawn in kinds], makers)


def _holds(out: Path, given: list[int], makers: list[Any]) -> None:
    account = json.loads((out / "account.json").read_text())
    train, heldout = (list(records.read(out / split)) for split in ("train", "heldout"))
    dead = len((out / "dead_letters.jsonl").read_text().splitlines())
    rejected = sum(pq.read_table(file).num_rows for file in (out / "rejects").glob("*.parquet"))
    for source, count, make in zip(account["sources"], given, makers, strict=True):
        kept = source["train_items"] + source["heldout_items"]
        assert source["read"] == kept + sum(source["dropped"].values()) + source["dead"]
        assert make is demo or source["read"] == count
        if of_files := source["files"]:
            assert of_files["found"] == of_files["read"] + sum(of_files["passed_over"].values())
        assert (of_files is None) == (make is demo)
    assert sum(source["train_items"] for source in account["sources"]) == len(train)
    assert sum(source["heldout_items"] for source in account["sources"]) == len(heldout)
    assert sum(source["dead"] for source in account["sources"]) == account["dead_letters"] == dead
    assert sum(sum(source["dropped"].values()) for source in account["sources"]) == rejected
    left = account["steps"][0]["documents_in"]
    for step in account["steps"]:
        assert step["documents_in"] == left
        left = step["documents_out"]
        assert step["documents_in"] - left == sum(step["reasons"].values()), step["name"]
    assert left == len(train) + len(heldout)

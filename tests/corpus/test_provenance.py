"""Where a row comes from is known of its record, whatever file it stood in, and it can be withdrawn by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trivium.corpus.records import read
from trivium.corpus.run import build
from trivium.corpus.withdrawn import Rule, url_of
from trivium.recipe.data import DataStage

ASK = [{"role": "user", "content": "Why does {} matter?"}]
ROWS = {
    "documents": {"text": "Why {} matters is told here."},
    "conversations": {"messages": [*ASK, {"role": "assistant", "content": "It is {}."}]},
    "preferences": {"prompt": ASK, "chosen": "It is {}.", "rejected": "No idea of {}."},
    "feedback": {"prompt": ASK, "completion": "It is {}.", "label": True},
}


def _sources(folder: Path, kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "jsonl" or kind == "table":
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"kind": kind, "path": "rows.jsonl"}
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return {"kind": "parquet", "path": "rows.parquet"} if kind == "parquet" else {"kind": kind, "name": "."}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "huggingface", "table"])
@pytest.mark.parametrize("format", ROWS)
def test_where_a_row_comes_from_is_kept(tmp_path, format, kind):
    def row(number: int, **known: Any) -> dict[str, Any]:
        return {**json.loads(json.dumps(ROWS[format]).replace("{}", f"number {number}")), **known}

    rows = [
        row(
            n,
            url=f"https://{'gone' if n % 3 == 0 else 'e'}.org/{n}",
            license="MIT",
            language="en",
            id=n,
            author="A",
        )
        for n in range(30)
    ]
    if format != "documents":  # of documents these are copies of one page
        rows += [
            row(n, url="https://e.org/1", license="MIT", language="en", id=n, author="A") for n in (30, 31)
        ]
    stage = DataStage.model_validate(
        {"kind": "data", "format": format, "sources": [_sources(tmp_path, kind, rows)], "heldout": 0.1}
    )

    def made(out: str, *rules: Rule) -> dict[int, dict[str, Any]]:
        (tmp_path / out).mkdir()
        build(
            stage, seed=1, recipe_folder=tmp_path, out=tmp_path / out, against={}, emit=lambda _: None,
            withdrawn=rules,
        )  # fmt: skip
        found = [record for split in ("train", "heldout") for record in read(tmp_path / out / split)]
        metas = [record["meta"] for record in found]
        about = [json.loads(meta) if isinstance(meta, str) else meta for meta in metas]
        return {meta["id"]: {**record, "meta": meta} for record, meta in zip(found, about, strict=True)}

    whole = made("whole")
    assert {number: url_of(record) for number, record in whole.items()} == {
        n: row["url"] for n, row in enumerate(rows)
    }
    assert {(r["license"], r["language"], r["meta"]["author"]) for r in whole.values()} == {
        ("MIT", "en", "A")
    }
    left = made("left", Rule("url", "https://gone.org/"))
    assert set(left) == {
        number for number in whole if not url_of(whole[number]).startswith("https://gone.org/")
    }
    assert 0 < len(left) < len(whole)

"""What was read is kept: another mix of it gives what a fresh run gives, and opens no source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpus_made import sums, text

from trivium.api import run
from trivium.corpus.read import Read
from trivium.pipeline.housekeeping import Inventory, collect, collectable
from trivium.pipeline.store import Store

RECIPE = """
name: mixed
stages:
  corpus:
    kind: data
    sources:
      - {kind: jsonl, path: a.jsonl, weight: 0.5}
      - {kind: jsonl, path: b.jsonl, weight: 0.5}
    dedup: {lines: {documents: 3, min_characters: 5}}
    workers: 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, name in enumerate("ab"):
        rows = [{"text": f"A line of all\\n{text(100 * place + n)}"} for n in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mixed.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def parts(monkeypatch) -> list[int]:
    """The source of each part that is read."""
    seen: list[int] = []
    real = Read._read
    monkeypatch.setattr(
        Read, "_read", lambda self, part, *rest: seen.append(part.source) or real(self, part, *rest)
    )
    return seen


def made(folder: Path, store: str, *overrides: str) -> dict[str, str]:
    """SHA-256 of the files of the corpus that the recipe gives."""
    run(folder / "mixed.yaml", overrides=overrides, store=folder / store, runs=folder / "runs")
    found = sums((folder / "runs" / "mixed" / "corpus").resolve())
    return {name: value for name, value in found.items() if name != "artifact.json"}


@pytest.mark.parametrize(
    "change", ["corpus.sources[0].weight=0.9", "corpus.size=6000", "corpus.heldout=0.3", "corpus.mix={}"]
)
def test_another_mix_reads_nothing_and_is_what_a_fresh_run_gives(folder, parts, change):
    first = made(folder, "kept")
    assert sorted(parts) == [0, 1]
    second = made(folder, "kept", change)
    assert sorted(parts) == [0, 1], "a source was read again"
    assert second != first
    assert second == made(folder, "fresh", change)


@pytest.mark.parametrize("change", ["corpus.pii={}", "corpus.keep_rejects=true", "seed=8"])
def test_what_the_rows_themselves_depend_on_is_read_again(folder, parts, change):
    made(folder, "kept", "corpus.heldout=0.2")
    made(folder, "kept", change)
    assert sorted(parts) == [0, 0, 1, 1]
    (folder / "a.jsonl").write_text(json.dumps({"text": text(7)}) + "\n")
    made(folder, "kept", change)
    assert len(parts) == 6


def test_it_is_kept_only_if_wanted_and_goes_when_the_store_is_cleaned(folder, parts):
    made(folder, "kept", "corpus.keep_read=false")
    assert not (folder / "kept" / "read").exists()
    made(folder, "kept", "corpus.size=6000")
    inventory = Inventory(Store(folder / "kept"), [folder / "runs"])
    gone = [entry for entry in collectable(inventory) if entry.part == "read"]
    assert len(gone) == 1 and gone[0].bytes > 6000
    collect(inventory, gone)
    assert not list((folder / "kept" / "read").iterdir())
    made(folder, "kept", "corpus.size=7000")
    assert len(parts) == 6

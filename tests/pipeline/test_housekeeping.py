"""What a run stands on stays, whatever else goes; nothing goes while a stage runs; damage is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline_fakes import Bench, stages
from typer.testing import CliRunner

from trivium.cli import app
from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.housekeeping import Inventory, collect, collectable, verify
from trivium.pipeline.store import Store


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    bench.run()
    return bench


def changed(bench: Bench) -> None:
    """The recipe is run again with another `beta`: two stages are made anew, and their old artifacts are left."""
    values = stages()
    values["aligned"]["beta"] = 0.2
    bench.run(values)


def runs(bench: Bench) -> Path:
    return bench.root / "runs"


def inventory(bench: Bench) -> Inventory:
    return Inventory(bench.store, [runs(bench)])


def test_after_a_whole_run_nothing_can_go(bench):
    assert collectable(inventory(bench)) == []
    assert collect(inventory(bench), []) == 0
    assert all(wrong == "" for _, _, wrong in verify(inventory(bench)))


def test_what_a_changed_recipe_leaves_behind_goes_and_nothing_is_made_again(bench):
    before = set(inventory(bench).records)
    changed(bench)
    entries = collectable(inventory(bench))
    gone = {entry.path.name for entry in entries}
    assert gone and gone < before
    assert {entry.record["stage"] for entry in entries} >= {"aligned", "safety"}
    assert not gone & inventory(bench).reachable
    assert collect(inventory(bench), entries) == sum(entry.bytes for entry in entries) > 0
    assert set(inventory(bench).records) == inventory(bench).reachable
    changed(bench)
    assert bench.started() == {}


def test_an_artifact_below_a_link_that_is_left_stays_with_all_that_it_was_made_from(bench):
    for link in (runs(bench) / "demo").iterdir():
        if link.is_symlink() and link.name != "small":
            link.unlink()
    kept = {record.stage for record in inventory(bench).records.values()} - {
        entry.record["stage"] for entry in collectable(inventory(bench))
    }
    assert kept == {"small", "chat", "base", "vocab", "corpus", "chats"}


def test_work_of_a_stopped_stage_goes_only_when_asked_for(bench):
    work = bench.store.work("f" * 64)
    work.mkdir(parents=True)
    (work / "step.bin").write_bytes(b"12345")
    assert collectable(inventory(bench)) == []
    (entry,) = collectable(inventory(bench), stopped=True)
    assert (entry.part, entry.bytes) == ("work", 5)


def test_nothing_goes_while_a_stage_runs(bench):
    changed(bench)
    entries = collectable(inventory(bench))
    with bench.store.lock("f" * 64, lambda: None), pytest.raises(TriviumError, match="is running"):
        collect(inventory(bench), entries)
    assert all(entry.path.is_dir() for entry in entries)


def test_damage_is_named_and_a_damaged_record_takes_nothing_with_it(bench):
    (runs(bench) / "demo" / "vocab" / "made" / "of.json").write_text("x")
    (runs(bench) / "demo" / "corpus" / "artifact.json").write_text("x")
    wrong = {path.name: what for _, path, what in verify(inventory(bench)) if what}
    assert set(wrong) == {(runs(bench) / "demo" / name).resolve().name for name in ("vocab", "corpus")}
    assert collectable(inventory(bench)) == []


def test_a_folder_without_a_store_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="no store"):
        Inventory(Store(tmp_path / "nowhere"), [])


def test_the_commands_list_before_they_delete(bench):
    changed(bench)
    places = ["--store", str(bench.store.root), "--runs", str(runs(bench))]

    def said(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["store", *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    listed = [json.loads(line) for line in said("ls", "--json", *places).splitlines()]
    left = [row for row in listed if not row["reachable"]]
    assert left and all(row["links"] == [] for row in left)
    assert "would go" in said("gc", *places)
    assert len(inventory(bench).records) == len(listed)
    assert f"{len(left)} folders deleted" in said("gc", "--apply", *places)
    assert len(inventory(bench).records) == len(listed) - len(left)
    assert "are whole" in said("verify", "--store", str(bench.store.root))
    assert "artifacts" in said("du", *places)
    elsewhere = CliRunner().invoke(
        app, ["store", "gc", "--apply", "--store", str(bench.store.root), "--runs", str(runs(bench) / "no")]
    )
    assert isinstance(elsewhere.exception, ArtifactError) and len(inventory(bench).records) > 0

"""The report of a run, gathered from artifacts: in the recipe's order, first measurement first, nothing stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import Bench, default, recipe, stages

from trivium.pipeline.account import current, history, summary
from trivium.pipeline.contract import Artifact
from trivium.pipeline.run import status


def artifact(folder: Path, name: str, kind: str, *, metrics: Any = None, **files: Any) -> Artifact:
    path = folder / name
    path.mkdir()
    for file, content in files.items():
        (path / f"{file}.json").write_text(json.dumps(content))
    record = {"kind": kind, "stage": name, "metrics": metrics or {}, "seconds": 1.5, "inputs": {}}
    return Artifact(path, record | {"environment": {"python": "3.x"}, "fingerprint": name})


def results(tested: str, models: dict[str, Any], **more: Any) -> dict[str, Any]:
    empty = {"gates": {}, "passed": True, "samples": {}, "baseline": None, "against_baseline": {}}
    return {"tested": tested, "models": models, **empty, **more}


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Artifact]:
    safety = results(
        "aligned",
        {"aligned": {"win_rate": 0.8}, "chat": {"win_rate": 0.5}, "base": {"win_rate": 0.1}},
        samples={"refusals": {"chat": [{"prompt": "p", "reply": "r"}]}},
    )
    again = results(
        "small",
        {"small": {"win_rate": 0.7}, "chat": {"win_rate": 0.0, "bits_per_byte": 2.0}},
        gates={"win_rate": {"min": 0.5, "max": None, "value": 0.7, "passed": True}},
        samples={"refusals": {"small": [{"prompt": "p", "reply": "s"}]}},
    )
    return {
        "again": artifact(tmp_path, "again", "evaluate", results=again),
        "safety": artifact(tmp_path, "safety", "evaluate", results=safety),
        "chat": artifact(
            tmp_path, "chat", "sft", metrics={"steps": 5, "parameters": 100, "curve": [[1, 2.0]]}
        ),
        "corpus": artifact(tmp_path, "corpus", "data", account={"sources": [{"kind": "jsonl"}]}),
        "elsewhere": artifact(tmp_path, "elsewhere", "data", account={"sources": []}),
    }


@pytest.fixture
def plan():
    more = {"kind": "evaluate", "model": "small", "suites": [{"kind": "bits_per_byte", "data": "corpus"}]}
    return recipe({**stages(), "again": more})


def test_models_stand_in_the_recipes_order_and_the_first_measurement_counts(plan, made):
    report = summary(plan, made)
    assert list(report["models"]) == ["base", "chat", "aligned", "small"]
    assert report["models"]["chat"] == {"win_rate": 0.5, "bits_per_byte": 2.0}
    assert report["gates"]["again"]["tested"] == "small"
    assert report["samples"]["refusals"] == {
        "chat": [{"prompt": "p", "reply": "r"}],
        "small": [{"prompt": "p", "reply": "s"}],
    }


def test_phases_data_and_seconds_are_those_of_the_recipe(plan, made):
    report = summary(plan, made)
    assert [phase["stage"] for phase in report["phases"]] == ["chat"]
    assert report["phases"][0]["parameters"] == 100
    assert report["phases"][0]["tokens_per_second"] is None
    assert report["data"] == {"corpus": {"sources": [{"kind": "jsonl"}]}}
    assert report["seconds"] == {"corpus": 1.5, "chat": 1.5, "safety": 1.5, "again": 1.5}
    assert report["environment"] == {"python": "3.x"}
    json.dumps(report, allow_nan=False)


def test_a_report_of_nothing(plan):
    report = summary(plan, {})
    assert report["models"] == report["gates"] == report["data"] == report["environment"] == {}
    assert report["phases"] == []


def test_current_is_what_is_stored_now_and_nothing_stale(bench: Bench):
    bench.kinds["evaluate"].work = lambda ctx: default(ctx)
    bench.run()
    changed = stages()
    changed["chat"]["steps"] = 6
    found = current(bench.store, status(recipe(changed), **bench.places))
    assert set(found) == {"corpus", "vocab", "base", "chats"}
    assert set(current(bench.store, status(recipe(), **bench.places))) == set(stages())


def test_history_is_everything_that_the_inputs_were_made_from(bench: Bench):
    made = bench.run()
    found = history({"aligned": made["aligned"]}, bench.store)
    assert set(found) == {"aligned", "chat", "chats", "base", "corpus", "vocab"}
    assert found["base"].fingerprint == made["base"].fingerprint


def test_history_leaves_out_what_is_no_longer_stored(bench: Bench):
    import shutil

    made = bench.run()
    shutil.rmtree(made["vocab"].path)
    assert set(history({"base": made["base"]}, bench.store)) == {"base", "corpus"}


def test_what_smaller_models_cost_is_kept_by_stage(plan, made, tmp_path):
    found = {"full": {"bytes": 28}, "outputs": {"int8": {"bytes": 7, "kl": 0.1}}}
    made["small"] = artifact(tmp_path, "small", "quantize", metrics=found)
    assert summary(plan, made)["smaller"] == {"small": {"model": plan.stages["small"].model, **found}}


def test_what_was_found_verbatim_is_told_by_licence(made):
    suites = [
        {"kind": "verbatim", "data": "chats", "name": "gpl", "tokens": 30, "licences": ["GPL-3.0"]},
        {"kind": "bits_per_byte", "data": "corpus"},
    ]
    measured = {"gpl.verbatim_replies": {"value": 0.1}, "gpl.verbatim_share": {"value": 0.2}}
    made["again"].path.joinpath("results.json").write_text(json.dumps(results("small", {"small": measured})))
    plan = recipe({**stages(), "again": {"kind": "evaluate", "model": "small", "suites": suites}})
    about = {"model": "small", "tokens": 30, "licences": ["GPL-3.0"]}
    assert summary(plan, made)["verbatim"] == [{**about, "replies": {"value": 0.1}, "share": {"value": 0.2}}]

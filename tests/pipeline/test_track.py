"""Curves reach trackers, read back by the tracker's own reader."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from trivium.errors import RecipeError
from trivium.pipeline import track
from trivium.pipeline.track import Tracking

STEPS = [
    {"event": "step", "stage": "base", "step": 1, "steps": 2, "loss": 3.5, "lr": 1e-3, "time": "now"},
    {"event": "validation", "stage": "base", "loss": 3.25},  # before training: of no step
    {
        "event": "validation",
        "stage": "base",
        "step": 1,
        "loss": 3.0,
        "sources": {"web": {"loss": 2.75, "weight": 8.0}},
    },
    {"event": "step", "stage": "base", "step": 2, "steps": 2, "loss": 2.5, "lr": 5e-4, "time": "now"},
    {"event": "stage_end", "stage": "base", "seconds": 1.0},
    {"event": "step", "stage": "chat", "step": 1, "steps": 1, "loss": 1.5},
    {"event": "run_end"},
]


def refuse(event):
    raise AssertionError(event["message"])


@pytest.mark.parametrize("names", [None, ["tensorboard"]])
def test_tensorboard_reads_each_stage_curve(tmp_path, names):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracking = Tracking("demo", names, tmp_path, refuse)
    tracking.check()
    for event in STEPS:
        tracking(event)
    curves = {}
    for stage in ("base", "chat"):
        read = events.EventAccumulator(str(tmp_path / "tensorboard" / stage))
        read.Reload()
        for tag in read.Tags()["scalars"]:
            curves[stage, tag] = [(point.step, round(point.value, 6)) for point in read.Scalars(tag)]
    assert curves == {
        ("base", "loss"): [(1, 3.5), (2, 2.5)],
        ("base", "lr"): [(1, 1e-3), (2, 5e-4)],
        ("base", "validation/loss"): [(1, 3.0)],
        ("base", "validation/loss/web"): [(1, 2.75)],
        ("chat", "loss"): [(1, 1.5)],
    }


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_named_tracker_that_is_missing_is_said_before_anything_runs(tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(RecipeError) as caught:
        Tracking("demo", [name], tmp_path, refuse).check()
    assert f"pip install {name}" in caught.value.fix
    Tracking("demo", None, tmp_path, refuse).check()  # TensorBoard by default is no demand


@pytest.mark.parametrize("where", [pytest.param("database", marks=pytest.mark.slow), "files"])
def test_mlflow_has_the_curve(tmp_path, monkeypatch, where):
    """`database`: what MLflow does when nothing is said."""
    mlflow = pytest.importorskip("mlflow")
    if where == "database":
        pytest.importorskip("alembic")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    else:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    tracking = Tracking("demo", ["mlflow"], tmp_path, refuse)
    for event in STEPS[:5]:
        tracking(event)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert run.info.run_name == "base" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 3.5), (2, 2.5)]
    assert client.get_run(run.info.run_id).data.metrics["validation/loss.web"] == 2.75


def wandb_history(file):
    """[(step, its values)] of W&B's own file: records of protobuf in the blocks of a LevelDB log, behind a head of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record, found = file.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for a head: the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            parsed = Record.FromString(record)
            if parsed.HasField("history"):
                items = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in parsed.history.item
                }
                found.append(
                    (parsed.history.step.num, {k: v for k, v in items.items() if not k.startswith("_")})
                )
            record = b""
    return found


def test_wandb_has_the_curve(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracking = Tracking("demo", ["wandb"], tmp_path, refuse)
    tracking(STEPS[0])
    run: wandb.Run = tracking.open["wandb"].run
    for event in STEPS[1:5]:
        tracking(event)
    assert run.project == "demo" and run.name == "base"
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert wandb_history(file) == [
        (1, {"loss": 3.5, "lr": 1e-3, "validation/loss": 3.0, "validation/loss/web": 2.75}),
        (2, {"loss": 2.5, "lr": 5e-4}),
    ]


def test_a_tracker_that_fails_is_told_of_and_ends_nothing(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, recipe, stage, folder):
            self.seen = []

        def log(self, step, values):
            self.seen.append(step)
            if step == 2:
                raise OSError("the server\nis away")

        def close(self):
            raise AssertionError("it was left out")

    def cannot_open(recipe, stage, folder):
        raise ConnectionError("refused")

    monkeypatch.setitem(track.TRACKERS, "mlflow", Failing)
    monkeypatch.setitem(track.TRACKERS, "wandb", cannot_open)
    told = []
    tracking = Tracking("demo", ["mlflow", "wandb"], tmp_path, told.append)
    for event in STEPS[:5]:
        tracking(event)
    assert [(event["event"], event["stage"], event["message"].split(":")[0]) for event in told] == [
        ("warning", "base", "wandb failed and is left out of stage base"),
        ("warning", "base", "mlflow failed and is left out of stage base"),
    ]
    assert "the server;" in told[1]["message"]
    tracking(STEPS[5])  # the next stage tries again
    assert list(tracking.open) == ["mlflow"] and len(told) == 3


TRACKED = """
import contextlib, io, json, sys
from pathlib import Path
import trackio
from trivium.pipeline import track
from trivium.pipeline.track import Tracking

said = io.StringIO()
with contextlib.redirect_stdout(said):
    tracking = Tracking("demo", ["trackio"], Path(sys.argv[1]), lambda event: sys.exit(event["message"]))
    for event in json.loads(sys.argv[2]):
        tracking(event)
with contextlib.redirect_stdout(io.StringIO()):
    (run,) = trackio.Api().runs("demo")
logs = trackio.sqlite_storage.SQLiteStorage.get_logs("demo", run.name)
found = [(entry["step"], entry["loss"]) for entry in logs if "loss" in entry]
print(json.dumps({"name": run.name, "found": found, "said": said.getvalue()}))
"""


def test_trackio_has_the_curve(tmp_path):
    """In a process of its own: trackio looks at its folder when it is imported."""
    pytest.importorskip("trackio")
    command = [sys.executable, "-c", TRACKED, str(tmp_path), json.dumps(STEPS[:5])]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.splitlines()[0])
    assert said == {"name": "base", "found": [[1, 3.5], [2, 2.5]], "said": ""}

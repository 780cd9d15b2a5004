"""Ranks that a launcher starts: the real command line, torchrun, Ray and Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import COMMAND_LINE, Forked
from safetensors.torch import load_file

RECIPE = Path(__file__).parent.parent / "recipes" / "tiny.yaml"
SHORT = ("--only", "base", "-o", "base.steps=6", "-o", "base.precision=float32", "-o", "base.compile=off")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("launch")
    shutil.copyfile(RECIPE, made / "tiny.yaml")
    texts = [
        f"Day {n}: the {['cat', 'dog', 'bird', 'fish'][n % 4]} saw {n * 7 % 90} stones." for n in range(400)
    ]
    (made / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return made


def words(folder: Path, store: str, *overrides: str) -> list[str]:
    options = [part for override in overrides for part in ("-o", override)]
    where = ("--store", f"{folder}/{store}", "--runs", f"{folder}/runs-{store}")
    return ["run", f"{folder}/tiny.yaml", *SHORT, *where, *options]


def command(folder: Path, store: str, *overrides: str) -> list[str]:
    return [sys.executable, "-c", COMMAND_LINE, *words(folder, store, *overrides)]


def run(folder: Path, store: str, *overrides: str) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """(the weights that a run leaves, its events)."""
    process = Forked(COMMAND_LINE, *words(folder, store, *overrides))
    said = process.communicate()
    assert process.returncode == 0, said
    return result(folder, store)


def result(folder: Path, store: str) -> tuple[dict[str, torch.Tensor], list[dict]]:
    runs = folder / f"runs-{store}" / "tiny"
    events = [json.loads(line) for line in (runs / "events.jsonl").read_text().splitlines()]
    return load_file(runs / "base" / "model.safetensors"), events


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[name], theirs[name], atol=2e-5) for name in ours
    )


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, torch.Tensor]:
    return run(folder, "alone")[0]


def test_two_ranks_under_torchrun_leave_the_same_checkpoint(folder, alone):
    weights, events = run(folder, "two", "base.parallel.shard=2")
    assert close(weights, alone)
    steps = [event for event in events if event["event"] == "step"]
    assert steps and steps[-1]["step"] == 6 and all(event["stage"] == "base" for event in steps)


CORES = """\
accelerator: {name: Core, bf16_dense_tflops: 0.1, memory_gb: 0.0013, memory_gb_per_s: 10}
count: 2
"""


@pytest.mark.slow
def test_auto_runs_in_the_layout_that_the_search_finds(folder, alone):
    """On devices that one copy of the model fills, so that two ranks share each product, and rows come one by one."""
    from trivium.plan.cost import model_of
    from trivium.plan.hardware import cluster
    from trivium.plan.layout import as_found, lay_out
    from trivium.recipe.lines import Lines
    from trivium.recipe.load import load
    from trivium.recipe.look import Look

    (folder / "cores.yaml").write_text(CORES)
    overrides = ("base.parallel=auto", "base.launch.on=cores.yaml")
    look = Look(load(folder / "tiny.yaml", ("base.precision=float32", *overrides)), Lines())
    stage, devices = look.recipe.stages["base"], cluster("cores.yaml", folder)
    chosen = as_found(stage, lay_out(look, stage, model_of(look, "base"), 128, devices))
    assert (chosen.parallel.tensor, chosen.micro_batch, chosen.recompute) == (2, 1, "blocks")
    weights, events = run(folder, "auto", *overrides)
    ran = next(e for e in events if e["event"] == "stage_end" and e["stage"] == "base")["metrics"]["layout"]
    expected = {
        **chosen.parallel.model_dump(),
        "micro_batch": chosen.micro_batch,
        "recompute": chosen.recompute,
    }
    assert {axis: ran.get(axis, 1) for axis in expected} == expected
    assert close(weights, alone)


@pytest.mark.parametrize(
    ("ranks", "said", "nodes"),
    [(64, "", 8), (32, "", 4), (4, "", 1), (64, "nodes: 16", 16), (64, "nodes: 1", 1)],
)
def test_auto_asks_slurm_for_the_nodes_that_its_ranks_fill(ranks, said, nodes):
    """Eight devices of a fast link are not torn apart where the batch feeds fewer than there are; what the recipe says stays."""
    from trivium.pipeline.launch import spread
    from trivium.recipe.load import loads
    from trivium.recipe.parallel import Parallel

    text = RECIPE.read_text()
    launch = f"launch: {{kind: slurm, on: 64xH100, {said}}}"
    recipe = loads(text.replace("kind: pretrain", f"kind: pretrain\n    parallel: auto\n    {launch}", 1))
    stage = recipe.stages["base"].model_copy(update={"parallel": Parallel(shard=ranks)})
    assert spread(stage, per_node=8).launch.nodes == nodes


def test_a_layout_that_does_not_fit_the_model_is_told_before_the_first_step(folder):
    process = Forked(COMMAND_LINE, *words(folder, "alone", "base.parallel.tensor=4"))
    assert "`tensor: 4` does not divide the model's 2 heads" in process.communicate()[1]
    assert process.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_lost_rank_is_started_again_and_nothing_is_lost(folder, how):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    overrides = ("base.parallel.data=2", "base.checkpoint_every=0s", "base.steps=200", "base.launch.hang=15s")
    store = f"lost-{how.name}"
    process = subprocess.Popen(command(folder, store, *overrides), env=environment, stdout=subprocess.DEVNULL)
    killed = None
    while process.poll() is None and killed is None:
        time.sleep(0.2)
        checkpoints = list((folder / store).glob("work/*/checkpoints/step-*/manifest.json"))
        ranks = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _is_rank(entry, folder / store)
        ]
        if checkpoints and len(ranks) == 2:
            killed = max(ranks)
            os.kill(killed, how)
    assert process.wait() == 0 and killed is not None
    weights, events = result(folder, store)
    assert any(event["event"] == "resume" for event in events)
    assert close(weights, run(folder, "unharmed", *overrides)[0])


MOMENTS = {
    "starting": lambda ranks: (ranks / "job.json").exists(),
    "loading": lambda ranks: (ranks / "rank-1.json").exists(),
    "training": lambda ranks: '"step": 2,' in _text(ranks / "events.jsonl"),
    "ending": lambda ranks: '"step": 40,' in _text(ranks / "events.jsonl"),
}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("whom", ["the launcher", "one rank", "all"])
def test_sigterm_at_each_moment_loses_nothing_and_leaves_nothing_running(folder, whom, moment):
    overrides = ("base.parallel.data=2", "base.checkpoint_every=0s", "base.steps=40", "base.launch.hang=30s")
    store = f"term-{whom}-{moment}".replace(" ", "-")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(folder, store, *overrides), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    asked = False
    while process.poll() is None:
        time.sleep(0.02)
        places = list((folder / store).glob("work/*/ranks"))
        if not asked and places and MOMENTS[moment](places[0]):
            ranks = [json.loads(path.read_text())["pid"] for path in places[0].glob("rank-*.json")]
            targets = {"the launcher": [], "one rank": ranks[:1], "all": ranks}[whom]
            for target in [*targets, *([] if whom == "one rank" else [process.pid])]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(target, signal.SIGTERM)
            asked = True
    said = process.stderr.read().decode()
    assert asked and process.returncode in (0, 75), said
    assert "Traceback" not in said
    assert _gone(folder / store)
    weights, events = run(folder, store, *overrides)
    assert close(weights, run(folder, "unharmed-40", *overrides)[0])
    if moment == "training" and whom != "one rank":
        assert process.returncode == 75 and any(event["event"] == "resume" for event in events)


def _gone(store: Path, seconds: float = 60.0) -> bool:
    """Whether no rank is left; one that was asked to end may be doing so when its launcher has."""
    deadline = time.monotonic() + seconds
    while any(entry.name.isdigit() and _is_rank(entry, store) for entry in Path("/proc").iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is_rank(entry: Path, store: Path) -> bool:
    try:
        line = (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    is_worker = b"trivium.pipeline.worker" in line and b"torch.distributed.run" not in line
    return is_worker and any(str(store).encode() in part for part in line)


@pytest.mark.slow
def test_two_ranks_on_ray_leave_the_same_checkpoint(folder, alone):
    pytest.importorskip("ray")
    weights, _ = run(folder, "ray", "base.parallel.data=2", "base.launch.kind=ray")
    assert close(weights, alone)

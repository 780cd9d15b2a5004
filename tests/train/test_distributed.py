"""Two ranks equal one: the data is parted, the gradients are summed, and all stop at the same step."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import tiny
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from test_signal import impartial, indifferent

from trivium.errors import Interrupted, Preempted, TrainingError
from trivium.files import write_json
from trivium.train import checkpoint

STEPS = 4
ONE_EPOCH = {"steps": None, "epochs": 1, "batch": 4}
EPOCH = (
    "dpo",
    "kto",
    "distill",
)  # 13 pairs: the last step has one for the first rank and none for the second


def worker(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for kind in tiny.KINDS:
        events: list[dict[str, object]] = []
        weights, metrics = tiny.phase(kind, folder / kind, emit=events.append, steps=STEPS)
        save_file(weights, folder / kind / f"weights-{rank}.safetensors")
        norms = [event["grad_norm"] for event in events if event["event"] == "step"]
        write_json(folder / kind / f"metrics-{rank}.json", {"curve": metrics["curve"], "norms": norms})

    for kind in EPOCH:
        weights, metrics = tiny.phase(kind, folder / f"{kind}-epoch", **ONE_EPOCH)
        save_file(weights, folder / f"{kind}-epoch" / f"weights-{rank}.safetensors")
        write_json(folder / f"{kind}-epoch" / f"metrics-{rank}.json", {"curve": metrics["curve"]})

    try:
        indifferent("grpo", folder / "indifferent", stop_without_signal=2)
    except TrainingError as error:
        write_json(folder / f"indifferent-{rank}.json", error.what)

    def stop_one(event):
        if rank == 1 and event["event"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        tiny.phase("sft", folder / f"stopped-{rank}", emit=stop_one)
    except Interrupted as error:
        write_json(folder / f"stopped-{rank}.json", error.what)
    stop_at(2)(folder / "elastic")
    dist.destroy_process_group()


def stop_at(step: int):
    """Trains up to `step` more steps of a run of six and leaves a checkpoint there."""

    def go(folder: Path):
        events: list[dict[str, object]] = []

        def emit(event):
            events.append(event)
            if event["event"] == "step" and sum(e["event"] == "step" for e in events) == step:
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            return tiny.phase("sft", folder, emit=emit, steps=6)
        except Preempted:
            return None

    return go


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    assert stop_at(2)(folder / "elastic") is None
    chat = tiny.chat_tokenizer()
    for kind in tiny.KINDS:  # the ranks share a folder, as they do under a launcher
        tiny.data(kind, folder / kind / "data")
        tiny.others(kind, folder / kind, chat)
    for kind in EPOCH:
        tiny.data(kind, folder / f"{kind}-epoch" / "data")
        tiny.others(kind, folder / f"{kind}-epoch", chat)
    tiny.data("grpo", folder / "indifferent" / "data")
    impartial(folder / "indifferent")
    tiny.on_ranks(worker, 2, folder)
    return folder


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_two_ranks_equal_one(ranks, kind, tmp_path):
    events = []
    alone, metrics = tiny.phase(kind, tmp_path, emit=events.append, steps=STEPS)
    norms = [event["grad_norm"] for event in events if event["event"] == "step"]
    for rank in range(2):
        found = json.loads((ranks / kind / f"metrics-{rank}.json").read_text())
        assert [loss for _, loss in found["curve"]] == pytest.approx(
            [l for _, l in metrics["curve"]], rel=1e-5
        )
        assert found["norms"] == pytest.approx(norms, rel=1e-5)
    both = [load_file(ranks / kind / f"weights-{rank}.safetensors") for rank in range(2)]
    assert tiny.same(*both)
    worst = max(float((both[0][name] - alone[name]).abs().max()) for name in alone)
    assert worst < 2e-5, worst  # the fused attention rounds differently for another number of rows


@pytest.mark.parametrize("kind", EPOCH)
def test_the_last_step_of_an_epoch_is_the_same_on_two_ranks(ranks, kind, tmp_path):
    alone, metrics = tiny.phase(kind, tmp_path, **ONE_EPOCH)
    found = json.loads((ranks / f"{kind}-epoch" / "metrics-1.json").read_text())
    assert [l for _, l in found["curve"]] == pytest.approx([l for _, l in metrics["curve"]], rel=1e-5)
    both = [load_file(ranks / f"{kind}-epoch" / f"weights-{rank}.safetensors") for rank in range(2)]
    assert tiny.same(*both)
    assert max(float((both[0][name] - alone[name]).abs().max()) for name in alone) < 2e-5


def test_ranks_agree_that_nothing_is_learned(ranks):
    said = [json.loads((ranks / f"indifferent-{rank}.json").read_text()) for rank in range(2)]
    assert said[0] == said[1] and "in the last 2 sets" in said[0]


def test_one_rank_asked_to_stop_stops_all_at_the_same_step(ranks):
    said = [(ranks / f"stopped-{rank}.json").read_text() for rank in range(2)]
    assert said[0].split(";")[0] == said[1].split(";")[0]
    assert "stopped after step" in said[0]


def test_a_run_goes_on_with_another_number_of_ranks(ranks, tmp_path):
    """Steps 1 and 2 on one rank, 3 and 4 on two, 5 and 6 on one again: the same batches, the same losses."""
    _, wanted = tiny.phase("sft", tmp_path, steps=6)
    assert [path.name for path in checkpoint.steps(ranks / "elastic" / "work" / "checkpoints")] == [
        "step-00000002",
        "step-00000004",
    ]
    _, metrics = stop_at(99)(ranks / "elastic")
    assert [step for step, _ in metrics["curve"]] == [1, 2, 3, 4, 5, 6]
    assert [l for _, l in metrics["curve"]] == pytest.approx([l for _, l in wanted["curve"]], rel=1e-5)

"""Every layout is the same training: losses, gradient norms and data order of 2 and 4 processes are those of one."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from trivium.batches import context
from trivium.batches.rows import Shuffled
from trivium.errors import Preempted
from trivium.files import write_json
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.recipe.network import ModelShape
from trivium.train import distributed

STEPS = 2
LAYOUTS: dict[int, list[dict[str, int]]] = {
    2: [{"data": 2}, {"shard": 2}, {"tensor": 2}, {"context": 2}, {"pipeline": 2}],
    4: [
        {"data": 2, "shard": 2},
        {"shard": 2, "tensor": 2},
        {"pipeline": 2, "shard": 2},
        {"pipeline": 2, "tensor": 2},
        {"shard": 2, "context": 2},
    ],
}
FEWER = {
    ("sft", 2): [{"context": 2}, {"pipeline": 2}],
    ("sft", 4): [{"pipeline": 2, "tensor": 2}, {"shard": 2, "context": 2}],
}
"""To save time: of sft, which differs from pretrain in its mask only, those layouts in which the mask is cut or sent."""
EXPERTS: dict[int, list[dict[str, int]]] = {
    2: [{"data": 2, "expert": 2}, {"shard": 2}, {"tensor": 2}, {"pipeline": 2}],
    4: [{"data": 4, "expert": 2}, {"data": 4, "expert": 4}, {"data": 2, "expert": 2, "context": 2}],
}
"""Layouts of a mixture of experts, pre-trained."""
WHOLE_REPLIES = {"dpo"}
"""Phases whose loss compares whole replies: not for context and pipeline (`recipe.traps_parallel`)."""
ELASTIC = {
    "pretrain": {2: {"shard": 2}, 4: {"pipeline": 2, "tensor": 2}},
    "experts": {2: {"data": 2, "expert": 2}, 4: {"data": 4, "expert": 4}},
}
"""Runs that begin on 2 ranks, go on with 4 and end alone."""


def name(sizes: dict[str, int]) -> str:
    return "-".join(f"{axis}{size}" for axis, size in sizes.items()) or "alone"


def cases(world: int) -> list[tuple[str, dict[str, int]]]:
    return [
        (kind, sizes)
        for kind in ("pretrain", "sft", "dpo")
        for sizes in FEWER.get((kind, world), LAYOUTS[world])
        if kind not in WHOLE_REPLIES or not {"context", "pipeline"} & set(sizes)
    ] + [("experts", sizes) for sizes in EXPERTS[world]]


def network(kind: str) -> Transformer | None:
    """A mixture of experts where `kind` asks for one; None for the model that tiny.py makes."""
    if kind != "experts":
        return None
    shape = dict(dim=32, layers=2, heads=4, kv_heads=2, hidden=64, context=32)
    moe = dict(experts=4, shared=1, dense=0, balance=0.01)
    vocabulary = tiny.chat_tokenizer().vocab_size
    made = Transformer(ModelConfig.from_shape(ModelShape.model_validate({**shape, "moe": moe}), vocabulary))
    made.initialise(torch.Generator().manual_seed(0))
    return made


class Recorded(Shuffled):
    """Writes down which items this rank reads in every step, in order."""

    seen: dict[int, list[int]] = {}

    def batch(self, step: int) -> Any:
        asked: list[int] = []
        item = self.item
        self.item = lambda index: asked.append(index) or item(index)  # type: ignore[func-returns-value]
        try:
            return super().batch(step)
        finally:
            self.item = item
            self.seen[step] = asked


def trained(kind: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """What can be compared of a run on this rank: losses, norms, the items read by step."""
    context.Shuffled, Recorded.seen = Recorded, {}  # type: ignore[misc, attr-defined]
    events: list[Any] = []
    samples = {"every": "2 steps", "tokens": 3, "temperature": 0} if kind == "pretrain" else None
    fields = {"steps": STEPS, "micro_batch": 1, "samples": samples, **changes}
    try:
        phase = "pretrain" if kind == "experts" else kind
        _, metrics = tiny.phase(phase, folder, network=network(kind), emit=events.append, **fields)
    finally:
        context.Shuffled = Shuffled  # type: ignore[attr-defined]
    return {
        "curve": [loss for _, loss in metrics["curve"]],
        "norms": [event["grad_norm"] for event in events if event["event"] == "step"],
        "after": metrics["after"]["loss"],
        "sources": {name: one["loss"] for name, one in metrics["after"].get("sources", {}).items()},
        "samples": [event["samples"] for event in events if event["event"] == "samples"],
        "items": {str(step): items for step, items in Recorded.seen.items()},
        "place": distributed.layout(),
    }


def joined(rank: int, world: int, folder: Path, sizes: dict[str, int], act: Callable[[], None]) -> None:
    """Runs `act` on the ranks of one layout, which meet anew."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "False"}
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    distributed.start(sizes, "cpu")
    act()


def worker(rank: int, world: int, folder: Path) -> None:
    warnings.simplefilter("error")
    for kind, sizes in cases(world):
        mine = folder / f"{kind}-{name(sizes)}-{rank}"

        def compare(kind: str = kind, mine: Path = mine) -> None:
            write_json(mine / "result.json", trained(kind, mine))

        joined(rank, world, folder, sizes, compare)
    for kind, layouts in ELASTIC.items():
        joined(rank, world, folder, layouts[world], lambda kind=kind: go_on(folder.parent / kind, kind, 2))  # type: ignore[misc]
    distributed.stop()


def go_on(folder: Path, kind: str, steps: int | None = None) -> dict[str, Any] | None:
    """Goes on with a run of six steps; after `steps` more it is told to stop, and leaves a checkpoint."""
    seen: list[int] = []

    def emit(event: Any) -> None:
        if event["event"] == "step":
            seen.append(event["step"])
            if len(seen) == steps:
                os.kill(os.getpid(), signal.SIGTERM)

    fields = dict(steps=6, micro_batch=1)
    try:
        _, metrics = tiny.phase("pretrain", folder, network=network(kind), emit=emit, **fields)
    except Preempted:
        return None
    return {"curve": metrics["curve"], "steps": seen}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all layouts have trained; then a run that began on 2 ranks and went on with 4."""
    folder = tmp_path_factory.mktemp("parallel")
    for world in LAYOUTS:
        (folder / str(world)).mkdir()
        tiny.on_ranks(worker, world, folder / str(world))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("alone")
    return {kind: trained(kind, folder / kind) for kind in ("pretrain", "sft", "dpo", "experts")}


@pytest.mark.parametrize(
    ("world", "kind", "sizes"),
    [(world, kind, sizes) for world in LAYOUTS for kind, sizes in cases(world)],
    ids=lambda value: name(value) if isinstance(value, dict) else str(value),
)
def test_a_layout_changes_nothing(ranks, alone, world, kind, sizes):
    wanted = alone[kind]
    found = [
        json.loads((ranks / str(world) / f"{kind}-{name(sizes)}-{rank}" / "result.json").read_text())
        for rank in range(world)
    ]
    for rank in found:
        assert len(rank["curve"]) == STEPS
        assert rank["curve"] == pytest.approx(wanted["curve"], rel=1e-5)
        assert rank["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
        assert rank["after"] == pytest.approx(wanted["after"], rel=1e-5)
        assert rank["sources"] == pytest.approx(wanted["sources"], rel=1e-5)
        assert len(rank["sources"]) == (
            2 if kind == "sft" else 0
        )  # of the held-out pairs one fits the context
    assert found[0]["samples"] == wanted["samples"]
    assert len(wanted["samples"]) == (STEPS // 2 if kind == "pretrain" else 0)
    assert not any(rank["samples"] for rank in found[1:])  # one rank writes
    by_place = {rank["place"][0]: rank["items"] for rank in found}
    assert len(by_place) == sizes.get("data", 1) * sizes.get("shard", 1)
    for rank in found:
        assert rank["items"] == by_place[rank["place"][0]]
    for step, items in wanted[
        "items"
    ].items():  # side by side, the ranks' rows are the step's rows in their order
        assert [item for place in sorted(by_place) for item in by_place[place][step]] == items


@pytest.mark.parametrize("kind", ELASTIC)
def test_a_run_goes_on_in_another_layout(ranks, tmp_path, kind):
    """Steps 1 and 2 on two ranks, 3 and 4 on four in another layout, the rest alone."""
    straight, rest = go_on(tmp_path, kind), go_on(ranks / kind, kind)
    assert rest["steps"] == [5, 6]
    assert [step for step, _ in rest["curve"]] == list(range(1, 7))
    assert [loss for _, loss in rest["curve"]] == pytest.approx([l for _, l in straight["curve"]], rel=1e-5)

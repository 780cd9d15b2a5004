"""One step of a training stage on one of thousands of ranks that are not there: what `trivium plan --dry-run` counts.

The real network, laid out by the real code over a fake process group, takes the loop's own step on tensors that have shapes and
no numbers. What it holds and sends is counted and stands beside what the plan says (`plan.memory`, `plan.traffic`). Rows are
full; what a phase does beside training (a reference's passes) has been done by then. Micro-batches are alike: one is run, with
the gradients and moments of earlier ones in place. Of blocks that are alike a few are built, and counted on.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from trivium.children import follow
from trivium.cores import cores
from trivium.errors import RecipeError
from trivium.model.config import ModelConfig
from trivium.pipeline.rehearsal import Same
from trivium.plan import memory, traffic
from trivium.plan.cost import model_of
from trivium.recipe.alignment import OnlineStage
from trivium.recipe.look import Look
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import TrainingStage

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from trivium.train.counted import Counts
    from trivium.train.distributed import Mesh
    from trivium.train.run import Run

FEW = (3, 4)
"""Blocks that are built of many that are alike: what one more takes, all the others take too. Of three, one is at work, the next
is on its way, and the gradients of the one before are being summed."""


@dataclass(frozen=True)
class Line:
    """One quantity, bytes: as planned, as counted, and of a collective how many there were in the step."""

    what: str
    planned: float
    counted: float
    count: float | None = None

    @property
    def off(self) -> float:
        """Planned over counted, less 1."""
        return self.planned / self.counted - 1 if self.counted else float("inf") if self.planned else 0.0


@dataclass(frozen=True)
class DryRun:
    """What one rank holds and sends in a step."""

    stage: str
    parallel: Parallel
    micro: int
    passes: int
    parameters: int
    held: tuple[Line, ...]
    sent: tuple[Line, ...]
    blocks: str = ""
    """Which blocks were built, where it was not all."""

    @property
    def peak(self) -> Line:
        return self.held[-1]


def possible(look: Look, name: str) -> str | None:
    """Why a stage has no dry run; None where it has one."""
    stage = look.recipe.stages[name]
    if not isinstance(stage, TrainingStage):
        return "no training"
    if isinstance(stage, OnlineStage) or stage.rows == "taught":
        return "its batches are made by models"
    if stage.adapter is not None:
        return "it trains adapters"
    if model_of(look, name) is None or look.context(stage) is None:
        return "no base model"
    return None


def dry_runs(look: Look, stages: Mapping[str, TrainingStage]) -> list[DryRun]:
    """Of each stage by its name, side by side on the cores that there are; otherwise as `dry_run`."""
    if min(len(stages), cores()) < 2:
        return [dry_run(look, name, stage) for name, stage in stages.items()]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(2 * len(stages), cores()), context, follow) as pool,
        ThreadPoolExecutor(len(stages)) as waiting,
    ):

        def there(config: ModelConfig, case: _Case) -> dict[str, float]:
            return pool.submit(_step, config, case).result()

        return list(waiting.map(lambda one: dry_run(look, one[0], one[1], there), stages.items()))


def dry_run(look: Look, name: str, stage: TrainingStage, step: Step | None = None) -> DryRun:
    """A step of `stage`, the stage `name` in the layout that is to be tried, in the micro-batches that a run would make.
    RecipeError where the layout does not divide the model or the rows. `step`: who counts one; None: this process."""
    config, context, parallel = model_of(look, name), look.context(stage), stage.parallel
    assert config is not None and context is not None and isinstance(parallel, Parallel)
    ranks = parallel.data * parallel.shard
    micro = stage.micro_batch or stage.batch // ranks
    if micro == 0 or stage.batch % (micro * ranks):
        raise RecipeError(
            f"a batch of {stage.batch} rows cannot be shared by the layout {parallel or 'of one rank'}",
            where=name,
            fix=f"make `batch` a multiple of {ranks * (stage.micro_batch or 1)}",
        )
    passes = stage.batch // (micro * ranks)
    bf16 = stage.precision != "float32"
    counted, blocks = _counted(config, _Case(stage, parallel, micro, passes, context, bf16), step or _step)
    rows = micro * stage.rows_per_item()
    planned = memory.training(
        config,
        parallel,
        rows=rows,
        context=context,
        bf16=bf16,
        recompute=stage.recompute == "blocks",
        z_loss=getattr(stage, "z_loss", 0.0) > 0,
    )
    rest = planned.activations + planned.logits + planned.buffers
    held = [
        Line("weights", planned.weights, counted["weights"]),
        Line("gradients", planned.gradients, counted["gradients"]),
        Line("optimizer", planned.optimizer, counted["optimizer"]),
    ]
    own = sum(line.counted for line in held) if passes > 1 else counted["weights"] + counted["optimizer"]
    held.append(Line("at the peak beside these", rest, counted["peak"] - own))
    held.append(Line("peak", planned.total, counted["peak"]))
    expected = traffic.exchanged(
        config,
        parallel,
        tokens=rows * context / parallel.context,
        passes=passes,
        bf16=bf16,
        recompute=stage.recompute == "blocks",
    )
    sent = _sent(expected, counted)
    return DryRun(name, parallel, micro, passes, int(counted["parameters"]), tuple(held), tuple(sent), blocks)


KINDS = {
    "shards": "gather",
    "gradients": "scatter",
    "copies": "sum",
    "tensor ranks": "sum",
    "expert ranks": "exchange",
}
"""Cause of traffic -> what it is made of. Keys and values of `context` ranks are gathered and their gradients scattered."""


def _sent(expected: list[traffic.Traffic], counted: Mapping[str, float]) -> list[Line]:
    """Planned beside counted, by operation and axes; what nobody planned stands there with nothing planned."""
    planned: dict[tuple[str, str], float] = {}
    for one in expected:
        if one.cause == "context ranks":
            for kind in ("gather", "scatter"):
                planned[kind, one.axes] = planned.get((kind, one.axes), 0.0) + one.bytes / 2
        else:
            key = KINDS[one.cause], one.axes
            planned[key] = planned.get(key, 0.0) + one.bytes
    seen = {
        tuple(key.split("/")[1:3]): (counted[key], counted[f"count/{key[6:]}"])
        for key in counted
        if key.startswith("bytes/")
    }
    return [
        Line(f"{kind} along {axes}", planned.get((kind, axes), 0.0), *seen.get((kind, axes), (0.0, 0.0)))
        for kind, axes in dict.fromkeys([*planned, *seen])
    ]


@dataclass(frozen=True)
class _Case:
    """What of a step does not hang on how many blocks are built."""

    stage: TrainingStage
    parallel: Parallel
    micro: int
    passes: int
    context: int
    bf16: bool


Step = Callable[[ModelConfig, _Case], dict[str, float]]
"""What counts a step."""


def _counted(config: ModelConfig, case: _Case, step: Step) -> tuple[dict[str, float], str]:
    """By name: weights, gradients, optimizer, peak, parameters; `bytes/OPERATION/AXES`, `count/OPERATION/AXES` of a step."""
    first = config.experts.dense if config.experts is not None else 0
    alike = not config.windowed and not config.no_rope and case.parallel.pipeline == 1
    low, high = (first + few for few in FEW)
    if not alike or config.layers <= high:
        return _whole(step(config, case)), ""
    fewer, more = (step(replace(config, layers=layers), case) for layers in (low, high))
    share = (config.layers - low) / (high - low)
    found = {key: fewer.get(key, 0.0) + share * (more[key] - fewer.get(key, 0.0)) for key in more}
    return _whole(found), f"{low} and {high} of {config.layers} blocks were built: the others are alike"


def _whole(found: dict[str, float]) -> dict[str, float]:
    """With the peak of the step, the highest of its parts: each grows by the same with every block, the highest may not."""
    return found | {"peak": max(found[key] for key in found if key.startswith("peak/"))}


def _step(config: ModelConfig, case: _Case) -> dict[str, float]:
    from torch._subclasses import FakeTensorMode

    from trivium.model.transformer import Transformer
    from trivium.objectives import NextToken
    from trivium.train.distributed import pretend, stop
    from trivium.train.machine import Machine
    from trivium.train.parallel.apply import check, cut
    from trivium.train.parallel.pipeline import Pipeline, Stage
    from trivium.train.run import Run

    stage, micro = case.stage, case.micro
    sizes = {**dict(case.parallel), "data": case.parallel.data // case.parallel.expert}
    objective = NextToken(getattr(stage, "z_loss", 0.0))
    mesh = pretend(sizes)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            check(config, mesh, case.context)
            model = Transformer(config)
            model.recompute, model.ragged = stage.recompute == "blocks", False
            parameters = sum(p.numel() for p in model.parameters())
            root = _laid_out(model, mesh, case.bf16)
            pipeline = Pipeline(root, mesh, objective, "cpu") if isinstance(root, Stage) else None
            rows = {"batch": micro if pipeline is None else micro * case.passes, "micro_batch": micro}
            batches = cut(model, Same(config.vocab_size, stage.model_copy(update=rows), case.context))
            run = Run(
                model, objective, batches, 1, stage, Machine("cpu", case.bf16), Path(), _hears, pipeline
            )
            found = _taken(run, case.passes)
            return found | {"parameters": parameters, "weights": _local(model.parameters())}
    finally:
        stop()


def _hears(event: Mapping[str, Any]) -> None:
    """Nobody does."""


def _taken(run: Run, passes: int) -> dict[str, float]:
    """The loop's step, with the moments, and the gradients of earlier micro-batches, in place."""
    import torch

    from trivium.model.moe import balance
    from trivium.train.counted import Counts
    from trivium.train.distributed import clip_gradients, global_sum, mesh, sum_gradients
    from trivium.train.loop import passes as take
    from trivium.train.optim import build

    model = run.model
    optimizer = build(model, run.config)
    step = _steps_own(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step()
    if passes == 1 or run.pipeline is not None:
        model.zero_grad(set_to_none=True)
    counts = Counts(mesh().sizes)
    _sees_all(counts, model, optimizer)
    if run.pipeline is None:
        _ends_part(counts, model.model.layers[0])
    with counts.running():
        take(run, model, run.batches.batch(0))
        found = _traffic(counts, passes if run.pipeline is None else 1)
        sum_gradients(model)
        gradients = _local(p.grad for p in model.parameters() if p.grad is not None)
        clip_gradients(model, run.config.max_grad_norm)
        step()
        model.zero_grad(set_to_none=True)
        balance(model, global_sum)
    for key, value in _traffic(counts, 1).items():
        found[key] = found.get(key, 0.0) + value
    moments = _local(optimizer_tensors(optimizer))
    return (
        found
        | {"gradients": gradients, "optimizer": moments}
        | {f"peak/{place}": peak for place, peak in enumerate((*counts.earlier, counts.peak))}
    )


def _steps_own(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """The step of `optimizer` on what this rank holds of the parameters: the same kernels as on all of them, which torch prepares
    in a time that grows with the square of their number."""
    import torch

    own = {one: torch.nn.Parameter(_part(one).detach(), requires_grad=False) for one in model.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [own[one] for one in group["params"]]

    def step() -> None:
        for parameter, part in own.items():
            part.grad = None if parameter.grad is None else _part(parameter.grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _ends_part(counts: Counts, block: torch.nn.Module) -> None:
    """A part of the step ends where the way back has left the first block: what comes then is of the embeddings."""
    hooked: list[Any] = []

    def arrives(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if not hooked:  # a block that is computed again gets its inputs once more
            hook: Any = inputs[0].register_hook
            hooked.append(hook(lambda gradient: counts.part()))

    block.register_forward_pre_hook(arrives)


def _sees_all(counts: Counts, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for tensor in (*model.parameters(), *model.buffers(), *optimizer_tensors(optimizer)):
        counts.sees(tensor.detach())
    for parameter in model.parameters():
        if parameter.grad is not None:
            counts.sees(parameter.grad)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The moments, without the counts of steps."""
    import torch

    for entry in optimizer.state.values():
        yield from (value for value in entry.values() if isinstance(value, torch.Tensor) and value.dim())


def _part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of it: the tensor itself, where `to_local` makes a view, an operation for each of thousands."""
    return getattr(tensor, "_local_tensor", tensor)


def _local(tensors: Any) -> int:
    """Bytes of what this rank holds of them."""
    return sum(_part(tensor).nbytes for tensor in tensors)


def _traffic(counts: Counts, times: int) -> dict[str, float]:
    """What has been sent since the last call, `times` over."""
    from trivium.train.counted import DECISION

    found: dict[str, float] = {}
    for (kind, axes), sent in counts.sent.items():
        if sent.count and sent.size / sent.count > DECISION:
            found[f"bytes/{kind}/{axes}"] = float(sent.size * times)
            found[f"count/{kind}/{axes}"] = float(sent.count * times)
    counts.sent.clear()
    return found


def _laid_out(model: Any, mesh: Mesh, bf16: bool) -> Any:
    """`parallelise`, where parts of equal size are one tensor (FSDP cuts each weight into as many as there are ranks), and grids
    of ranks have numbers."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import DeviceMesh

    from trivium.train.parallel.apply import parallelise

    joined = DeviceMesh._concatenate

    def chunk(tensor: torch.Tensor, chunks: int, dim: int = 0) -> list[torch.Tensor]:
        length = tensor.shape[dim]
        size = max(1, -(-length // chunks))
        full, rest = divmod(length, size)
        whole = tensor.narrow(dim, 0, min(size, length))
        return [whole] * full + ([tensor.narrow(dim, 0, rest)] if rest else [])

    def concatenate(meshes: list[DeviceMesh]) -> DeviceMesh:
        with unset_fake_temporarily():
            return joined(meshes)

    with mock.patch("torch.chunk", chunk), mock.patch.object(DeviceMesh, "_concatenate", concatenate):
        return parallelise(model, mesh, bf16=bf16)

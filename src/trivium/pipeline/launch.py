"""Starts the ranks of a training stage, on engines that exist: torchrun's elastic agent, Slurm through submitit, Ray tasks.

Whoever starts them, the ranks run `pipeline.worker` on the same job file, and this process waits, passes their events on and
tells what went wrong. A stage that asks for one rank on this machine runs right here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium import errors
from trivium.cores import cores
from trivium.errors import Interrupted, Preempted, TrainingError
from trivium.files import lines, read_json, write_json
from trivium.pipeline import job as jobs
from trivium.pipeline.contract import Context
from trivium.pipeline.training import start, train_here
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.parallel import AUTO, Launch, Parallel
from trivium.train.guard import StopRequest, stop_on_signal
from trivium.types import Emit

if TYPE_CHECKING:
    from trivium.plan.hardware import Cluster

POLL = 0.2
"""Seconds between looks at the ranks' events."""


def train(ctx: Context) -> dict[str, Any]:
    """Runs the stage here, or on the ranks that it asks for; returns its metrics."""
    if ctx.config.parallel == AUTO:
        _lay_out(ctx)
    parallel = ctx.config.parallel
    if parallel.ranks == 1 and ctx.config.launch.kind == "local":
        return train_here(ctx)
    return launch(ctx, parallel)


def _lay_out(ctx: Context) -> None:
    """Puts in place of `parallel: auto` the layout, micro-batches and recomputation that the planner finds for the devices; one
    process where there is no GPU and none is named: a CPU has its threads."""
    from trivium.model import hf
    from trivium.plan.cost import model_of
    from trivium.plan.layout import as_found, lay_out

    stage, devices = ctx.config, _devices(ctx)
    if devices is None:
        chosen = stage.model_copy(update={"parallel": Parallel()})
    else:
        look = Look(ctx.recipe, Lines())
        if stage.init is not None:
            config = hf.read_config(ctx.inputs[stage.init].path).config
        else:
            config = model_of(look, ctx.name) or start(ctx)[0].config
        found = lay_out(look, stage, config, stage.context or config.context, devices)
        chosen = spread(as_found(stage, found), found.cluster.accelerator.domain)
        ctx.emit({"event": "message", "message": f"parallel: auto on {devices} is {found.winner}"})
    ctx.config = chosen
    ctx.recipe = ctx.recipe.model_copy(update={"stages": {**ctx.recipe.stages, ctx.name: chosen}})


def spread(stage: Any, per_node: int) -> Any:
    """On as many nodes as the ranks fill, where the recipe does not say: a batch may feed fewer ranks than there are devices, and
    what the fast link joins must not be torn apart."""
    if stage.launch.kind != "slurm" or "nodes" in stage.launch.model_fields_set:
        return stage
    nodes = max(1, stage.parallel.ranks // per_node)
    return stage.model_copy(update={"launch": stage.launch.model_copy(update={"nodes": nodes})})


def _devices(ctx: Context) -> Cluster | None:
    """Those of `launch.on`, or the GPUs of this machine."""
    import torch

    from trivium.plan.hardware import cluster, of_this_machine

    if (on := ctx.config.launch.on) is not None:
        return cluster(on, ctx.recipe_folder)
    if not torch.cuda.is_available() or ctx.config.device == "cpu":
        return None
    gpu = torch.cuda.get_device_properties(0)
    return of_this_machine(gpu.name, float(gpu.total_memory), torch.cuda.device_count())


def launch(ctx: Context, parallel: Parallel) -> dict[str, Any]:
    """Runs the stage on `parallel.ranks` ranks and returns its metrics; `ctx.out` holds what the first rank left there.

    Raises what a rank raised; Interrupted if the ranks were asked to stop by Ctrl-C, Preempted if by SIGTERM (their checkpoint is
    kept); TrainingError if they died more often than `launch.restarts` allows.
    """
    folder = ctx.work / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    jobs.clear(folder)
    job = folder / "job.json"
    write_json(job, jobs.describe(ctx, parallel.model_dump(include=set(AXES))))
    with stop_on_signal() as stop:
        STARTERS[ctx.config.launch.kind](ctx, job, parallel.ranks, stop)
    by_user = stop.signal == signal.SIGINT
    metrics = jobs.result(folder, by_user)
    if stop:
        kind = Interrupted if by_user else Preempted
        asked = kind(
            "stopped",
            fix="run the same command again: it goes on from the newest checkpoint, if there is one",
        )
        if metrics is None:
            raise asked
        ctx.stopping = asked
    if metrics is None:
        raise TrainingError(
            f"the {parallel.ranks} ranks ended without a result{_last_words(folder)}",
            where=str(folder),
            fix="run the command again: it goes on from the newest checkpoint",
        )
    return metrics


AXES = ("data", "shard", "tensor", "context", "pipeline", "expert")


def _last_words(folder: Path) -> str:
    """The last line of a Python traceback in the ranks' output, if there is one."""
    logs = [folder / "output.log", *sorted((folder / "slurm").glob("*.err"))]
    said = (line for log in logs if log.exists() for line in lines(log, errors="replace"))
    errors = [line for line in said if "Error" in line and not line.startswith((" ", "["))]
    return f"; the last error was: {errors[-1].strip()}" if errors else ""


class Tail:
    """Passes on the events that the first rank appends to its file."""

    def __init__(self, path: Path, emit: Emit) -> None:
        self.path, self.emit, self.place = path, emit, 0

    def __call__(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.place += len(line)
                self.emit(json.loads(line))


def wait(done: Callable[[], bool], tail: Tail) -> None:
    while not done():
        tail()
        time.sleep(POLL)
    tail()


def _local(ctx: Context, job: Path, ranks: int, stop: StopRequest) -> None:
    """torchrun on this machine: it starts all ranks again from the newest checkpoint when one dies."""
    options: Launch = ctx.config.launch
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
        "--max-restarts", str(options.restarts), "--shutdown-timeout", str(max(1, round(options.hang))),
        "--module", "trivium.pipeline.worker", str(job), str(os.getpid()),
    ]  # fmt: skip
    threads = max(1, cores() // ranks)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONWARNINGS": "ignore"}
    tail = Tail(job.with_name("events.jsonl"), ctx.emit)
    with (job.parent / "output.log").open("ab") as output:
        agent = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait(lambda: bool(stop) or jobs.failed(job.parent) or agent.poll() is not None, tail)
            if agent.poll() is None:  # the ranks keep a checkpoint, then all is told
                agent.send_signal(signal.SIGTERM)
                _wait_for(agent, options.hang + GRACE, tail)
        finally:
            _kill(agent, job.parent)
    tail()


GRACE = 10.0
"""Seconds that the agent has, after the ranks' own time to stop, to kill them and end."""


def _wait_for(agent: subprocess.Popen[bytes], seconds: float, tail: Tail) -> None:
    end = time.monotonic() + seconds
    wait(lambda: agent.poll() is not None or time.monotonic() > end, tail)


def _kill(agent: subprocess.Popen[bytes], folder: Path) -> None:
    """Nothing is left running: an agent that does not end is killed, and so are its ranks, which are sessions of their own."""
    if agent.poll() is not None:
        return
    agent.kill()
    agent.wait()
    for path in folder.glob("rank-*.json"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(read_json(path)["pid"], signal.SIGKILL)


def _slurm(ctx: Context, job: Path, ranks: int, stop: StopRequest) -> None:
    try:
        import submitit
    except ImportError:
        raise errors.RecipeError(
            "`launch: {kind: slurm}` needs submitit", fix="pip install 'trivium[cluster]'"
        ) from None
    from trivium.pipeline.requeue import Rank

    options: Launch = ctx.config.launch
    if ranks % options.nodes:
        raise errors.RecipeError(
            f"{ranks} ranks do not spread evenly over {options.nodes} nodes", fix="change `launch.nodes`"
        )
    executor = submitit.SlurmExecutor(folder=job.parent / "slurm", max_num_timeout=1000)
    asked: dict[str, Any] = {
        "job_name": f"trivium-{ctx.name}",
        "nodes": options.nodes,
        "ntasks_per_node": ranks // options.nodes,
        "cpus_per_task": options.cpus,
        "time": max(1, round(options.time / 60)),
        "setup": options.setup,
        "signal_delay_s": 60,
    }
    if options.partition:
        asked["partition"] = options.partition
    if options.gpus:
        asked["gpus_per_node"] = options.gpus * ranks // options.nodes
    if options.memory_gb:
        asked["mem"] = f"{options.memory_gb}GB"
    executor.update_parameters(**asked)
    submitted = executor.submit(Rank(str(job)))
    ctx.emit({"event": "message", "message": f"Slurm job {submitted.job_id}"})
    tail = Tail(job.with_name("events.jsonl"), ctx.emit)
    try:
        wait(lambda: bool(stop) or submitted.done(), tail)
    finally:
        if not submitted.done():
            submitted.cancel()
    if stop:
        return
    if (error := submitted.exception()) is not None and not list(job.parent.glob("error-*.json")):
        raise TrainingError(f"the Slurm job failed: {error}", where=str(job.parent / "slurm"))


def _ray(ctx: Context, job: Path, ranks: int, stop: StopRequest) -> None:
    try:
        import ray
    except ImportError:
        raise errors.RecipeError(
            "`launch: {kind: ray}` needs Ray", fix="pip install 'trivium[cluster]'"
        ) from None
    from trivium.pipeline.requeue import ray_rank

    options: Launch = ctx.config.launch
    if not ray.is_initialized():
        address = options.address or os.environ.get("RAY_ADDRESS")
        # "local" and not None: that would join any cluster that this machine once started
        ray.init(address=address or "local", num_cpus=None if address else max(ranks * options.cpus, 1))
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0)(ray_rank)
    tail = Tail(job.with_name("events.jsonl"), ctx.emit)
    for attempt in range(options.restarts + 1):
        meeting = job.with_name(f"meet-{attempt}.json")
        running = [task.remote(str(job), str(meeting), rank, ranks) for rank in range(ranks)]
        try:
            wait(partial(_over, ray, running, stop), tail)
            if stop:
                return
            codes = ray.get(running)
        except ray.exceptions.RayError as error:
            if jobs.failed(job.parent):
                return
            ctx.emit({"event": "warning", "message": f"a rank was lost and all start again: {error}"})
            continue
        finally:
            for rank in running:
                ray.cancel(rank, force=True)
        if not any(codes) or jobs.failed(job.parent) or jobs.REQUEUE in codes:
            return


def _over(ray: Any, tasks: list[Any], stop: StopRequest) -> bool:
    return bool(stop) or len(ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]) == len(tasks)


STARTERS: dict[str, Callable[[Context, Path, int, StopRequest], None]] = {
    "local": _local,
    "slurm": _slurm,
    "ray": _ray,
}

"""On how many processes a training stage runs, what they share, and who starts them. None of it changes the result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trivium.recipe.base import Strict, only
from trivium.recipe.units import Seconds

Auto = Literal["auto"]
AUTO: Auto = "auto"
Ranks = Annotated[int, Field(gt=0, le=1_000_000)]


class Parallel(Strict):
    """How a stage's ranks share the work: the product of the axes is the number of processes. The result is the same."""

    data: Ranks = 1
    """Copies of the model that see other rows; gradients are summed."""
    shard: Ranks = 1
    """Ranks that see other rows and hold a share of every weight, gradient and optimizer state (FSDP2); with `data`, hybrid."""
    tensor: Ranks = 1
    """Ranks that split each matrix product by heads and hidden units (DTensor); must divide heads and kv_heads."""
    context: Ranks = 1
    """Ranks that split each row along time; must divide the row. pretrain and sft only."""
    pipeline: Ranks = 1
    """Ranks that hold consecutive layers; micro-batches flow through them. pretrain and sft only."""
    expert: Ranks = 1
    """Of the `data` ranks, how many share one set of experts, each holding a part of them; must divide `data` and the experts."""

    @property
    def ranks(self) -> int:
        """Processes in all. `expert` is laid over the `data` ranks and adds none."""
        return self.data * self.shard * self.tensor * self.context * self.pipeline

    def __str__(self) -> str:
        """`shard 4 x tensor 2`: the axes that have several ranks."""
        return " x ".join(f"{axis} {size}" for axis, size in self if size > 1)


class Launch(Strict):
    """Who starts the processes: this machine, Slurm or Ray."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """local: this process, or torchrun's elastic agent for several; slurm: submitit; ray: tasks on a Ray cluster."""
    on: str | None = None
    """The devices that `parallel: auto` lays the stage out on, as `trivium plan --on` takes them: `64xH100`, or a cluster file
    beside the recipe. local: None means the GPUs of this machine."""
    restarts: Annotated[int, Field(ge=0)] = only(3, {"kind": ["local", "ray"]})
    """local and ray: how often the processes are started again from the newest checkpoint after one of them died or hung."""
    hang: Seconds = 600.0
    """A rank that is waited for longer than this counts as hung."""
    nodes: Annotated[int, Field(gt=0)] = only(1, {"kind": ["slurm"]})
    """slurm: machines; the ranks are spread evenly over them. Not given, `parallel: auto` takes as many as its ranks fill."""
    partition: str | None = only(None, {"kind": ["slurm"]})
    """slurm: the partition to ask for."""
    time: Seconds = only(86400.0, {"kind": ["slurm"]})
    """slurm: limit of one job; at the limit it saves a checkpoint and is queued again."""
    cpus: Annotated[int, Field(gt=0)] = only(1, {"kind": ["slurm", "ray"]})
    """slurm and ray: CPU cores for each rank."""
    gpus: Annotated[int, Field(ge=0)] = only(0, {"kind": ["slurm", "ray"]})
    """slurm and ray: GPUs for each rank."""
    memory_gb: Annotated[float, Field(gt=0)] | None = only(None, {"kind": ["slurm"]})
    """slurm: memory of each node in GiB; None is the cluster's default."""
    setup: list[str] = only([], {"kind": ["slurm"]})
    """slurm: shell commands before the ranks start (modules, a virtual environment)."""
    address: str | None = only(None, {"kind": ["ray"]})
    """ray: the cluster's address; None starts one on this machine or joins the one that RAY_ADDRESS names."""

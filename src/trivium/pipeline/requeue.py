"""What runs inside a Slurm or Ray task: the environment that torch.distributed expects, then the worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from trivium.errors import TrainingError
from trivium.files import write_json
from trivium.pipeline.job import REQUEUE
from trivium.pipeline.worker import main

WAIT = 300.0
"""Seconds that a rank waits for the first one to say where they meet."""


class Rank:
    """One Slurm task. submitit calls it, and calls `checkpoint` when the job is pre-empted or at its time limit.

    On submitit's signal the loop finishes its step and writes a checkpoint; the task then hands the signal back to submitit,
    which queues the job again, and the next run goes on from there.
    """

    def __init__(self, job: str) -> None:
        self.job = job

    def __call__(self) -> int:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        code = main(Path(self.job))
        if code == REQUEUE:
            os.kill(os.getpid(), getattr(signal, os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "SIGUSR2")))
            time.sleep(300)  # submitit ends the first task at once, and Slurm the others
        return code

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def ray_rank(job: str, meeting: str, rank: int, world: int) -> int:
    """One Ray task: the first rank says where the others find it, in a file beside the job."""
    place = Path(meeting)
    if rank == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            write_json(
                place, {"host": socket.gethostbyname(socket.gethostname()), "port": probe.getsockname()[1]}
            )
    started = time.monotonic()
    while not place.exists():
        if time.monotonic() - started > WAIT:
            raise TrainingError(f"the first rank did not come within {WAIT:.0f} s", where=meeting)
        time.sleep(0.05)
    found = json.loads(place.read_text(encoding="utf-8"))
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": found["host"],
        "MASTER_PORT": str(found["port"]),
    }
    return main(Path(job))

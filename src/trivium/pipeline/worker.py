"""One rank of a training stage: reads the job that `launch` wrote, joins the others, trains, and leaves the result.

Run as `python -m trivium.pipeline.worker JOB.json` by torchrun, or called by the tasks of Slurm and Ray, with RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT set.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from trivium.errors import Interrupted, TriviumError
from trivium.files import write_json
from trivium.pipeline.job import REQUEUE, context


def main(path: Path) -> int:
    """Runs one rank; returns its exit code. What went wrong is left beside the job for the launcher to tell."""
    from trivium.pipeline.training import train_here
    from trivium.train import distributed

    job = json.loads(path.read_text(encoding="utf-8"))
    rank = int(os.environ.get("RANK", "0"))
    ctx = context(job, path.with_name("events.jsonl"), rank)
    try:
        device = ctx.config.device
        distributed.start(job["parallel"], _device(device), timeout_s=ctx.config.launch.hang)
        metrics = train_here(ctx)
        if rank == 0:
            write_json(path.with_name("metrics.json"), metrics)
    except Interrupted as error:
        if rank == 0:
            write_json(
                path.with_name("stopped.json"),
                {"kind": type(error).__name__, "what": error.what, "fix": error.fix},
            )
        return REQUEUE
    except TriviumError as error:
        about = {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        write_json(path.with_name(f"error-{rank}.json"), about)
        return error.exit_code
    finally:
        distributed.stop()
    return 0


def _device(asked: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

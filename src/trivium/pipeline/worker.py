"""One rank of a training stage: reads the job that `launch` wrote, joins the others, trains, and leaves the result.

Run as `python -m trivium.pipeline.worker JOB.json LAUNCHER` by torchrun (LAUNCHER: the process that started it), or called by the
tasks of Slurm and Ray, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from trivium.errors import Interrupted, TrainingError, TriviumError
from trivium.files import read_json, write_json
from trivium.pipeline import job as jobs
from trivium.pipeline.job import REQUEUE, context
from trivium.pipeline.record import disk_full, full


def main(path: Path) -> int:
    """Runs one rank; returns its exit code once it has left beside the job how it ended.

    Raises only what starting all ranks again can mend: that another one is gone, or does not answer.
    """
    from trivium.train import distributed

    folder, rank = path.parent, int(os.environ.get("RANK", "0"))
    write_json(folder / f"rank-{rank}.json", {"pid": os.getpid()})
    if rank == 0:
        (folder / "stopped.json").unlink(missing_ok=True)  # of the ranks before these
    try:
        _train(path, rank)
    except Interrupted as error:
        if rank == 0:
            jobs.tell_stopped(folder, error)
        return REQUEUE
    except TriviumError as error:
        jobs.tell_error(folder, rank, error)
        return error.exit_code
    except Exception as error:
        if distributed.lost(error):
            raise
        traceback.print_exc()  # the whole of it belongs into the ranks' log
        said = full(folder) if disk_full(error) else _unexpected(error, rank, folder)
        jobs.tell_error(folder, rank, said)
        return said.exit_code
    finally:
        distributed.stop()
    return 0


def _train(path: Path, rank: int) -> None:
    from trivium.pipeline.training import train_here
    from trivium.train import distributed

    job = read_json(path)
    ctx = context(job, path.with_name("events.jsonl"), rank)
    distributed.start(job["parallel"], _device(ctx.config.device), timeout_s=ctx.config.launch.hang)
    metrics = train_here(ctx)
    if rank == 0:
        write_json(path.with_name("metrics.json"), metrics)


def _unexpected(error: Exception, rank: int, folder: Path) -> TrainingError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return TrainingError(
        f"rank {rank} failed: {type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})",
        where=str(folder / "output.log"),
        fix="it would fail again, so it was not started again; the log holds the traceback, checkpoints are kept",
    )


def _device(asked: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def _watch(launcher: int) -> None:
    """Stops this rank as by SIGTERM once the launcher is gone: two runs must not share a folder."""

    def look() -> None:
        while _alive(launcher):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=look, daemon=True, name="launcher").start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    starter = int(sys.argv[2])
    if _alive(starter):
        _watch(starter)
        main(Path(sys.argv[1]))
    # torchrun starts all ranks again for any other code; what ends here has said so, and starting again would not change it
    sys.exit(0)

"""Runs one function over many tasks in parallel: in processes of this machine, or on Ray through Daft, with the same job.

A task is a line of text; what a job makes goes to files of its own, written whole or not at all, so that a run that was
killed goes on where it stopped, and neither the number of workers nor their order shows in the result.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from trivium import errors
from trivium.cores import cores
from trivium.corpus import extras, processes
from trivium.errors import TriviumError
from trivium.types import Emit

TELL = 5.0
"""Seconds between two progress events."""


class Job(Protocol):
    """What is done to each task. Sent to the workers, so it holds plain values only."""

    @property
    def name(self) -> str: ...

    def __call__(self, task: str) -> None: ...


def use(runner: str) -> None:
    """Chooses Daft's runner for this process. TriviumError if the process already uses the other one."""
    with extras.needed("data", "daft"):
        import daft
    from daft.runners import _get_runner

    if _get_runner() is not None:
        if daft.get_or_infer_runner_type() != runner:
            raise TriviumError(
                f"this process already runs Daft otherwise, so it cannot take `runner: {runner}` as well",
                where="runner",
                fix="run the stage in a process of its own",
            )
    elif runner == "ray":
        with extras.needed("cluster", "ray"):
            import ray  # noqa: F401
        daft.set_runner_ray(os.environ.get("RAY_ADDRESS"), noop_if_initialized=True)
    else:
        daft.set_runner_native()


def running() -> str:
    """The runner this process uses already, if it does, else the native one."""
    if "daft" not in sys.modules:
        return "native"
    from daft.runners import _get_runner

    runner: Any = _get_runner()
    return "native" if runner is None else str(runner.name)


def run(
    job: Job, tasks: Sequence[str], *, runner: str, workers: int | None, emit: Emit, small: bool = False
) -> None:
    """Calls `job` once for each task, in `workers` processes (None: one a core), in no order. `small` work is done here:
    starting a process takes longer.

    TriviumError as the job raises it, or when the disk is full or a worker died.
    """
    workers = min(workers or cores(), len(tasks))
    told = time.monotonic()
    here = small or (runner == "native" and workers <= 1)
    for done, answer in enumerate(
        _here(job, tasks) if here else _spread(job, tasks, runner, workers), start=1
    ):
        if answer:
            raise _error(json.loads(answer))
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            emit({"event": "progress", "what": job.name, "done": done, "of": len(tasks)})


def _here(job: Job, tasks: Sequence[str]) -> Iterator[str]:
    for task in tasks:
        yield attempt(job, task)


def _spread(job: Job, tasks: Sequence[str], runner: str, workers: int) -> Iterator[str]:
    try:
        yield from (
            _by_ray(job, tasks, workers)
            if runner == "ray"
            else processes.each(partial(attempt, job), tasks, workers)
        )
    except TriviumError:
        raise
    except Exception as error:  # of many kinds, by Ray and by the pool, for what a dying worker leaves behind
        raise TriviumError(
            f"a worker of {job.name} died: {type(error).__name__}: {str(error)[:500]}",
            where=job.name,
            fix="run the same command again: what is finished is kept; with fewer `workers` if memory ran out",
        ) from error


def _by_ray(job: Job, tasks: Sequence[str], workers: int) -> Iterator[str]:
    use("ray")
    import daft

    worker = daft.cls(_Worker, max_concurrency=workers, cpus=1)(job)
    frame = daft.from_pydict({"task": list(tasks)}).repartition(len(tasks))
    for row in frame.select(worker(daft.col("task")).alias("answer")).iter_rows():
        yield str(row["answer"])


class _Worker:
    """One process of Ray's."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, task: str) -> str:
        return attempt(self.job, task)


def attempt(job: Job, task: str) -> str:
    """Nothing if the task went well, else the error as JSON: exceptions do not travel between processes."""
    try:
        job(task)
    except TriviumError as error:
        said = {"class": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
        return json.dumps(said)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return json.dumps({"class": "TriviumError", **_full(error, job.name)})
    return ""


def _full(error: OSError, name: str) -> dict[str, str]:
    return {
        "what": f"the disk is full ({error.strerror}) in {name}",
        "where": str(error.filename or "the store"),
        "fix": "free some space and run the same command again: what is finished is kept",
    }


_CLASSES: dict[str, type[TriviumError]] = {
    "TriviumError": errors.TriviumError,
    "DataError": errors.DataError,
    "RecipeError": errors.RecipeError,
    "ArtifactError": errors.ArtifactError,
}


def _error(said: dict[str, Any]) -> TriviumError:
    kind = _CLASSES.get(said["class"], TriviumError)
    return kind(said["what"], where=said["where"], fix=said["fix"])

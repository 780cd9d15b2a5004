"""What a file takes to serve: a process of its own reads it, writes one greedy reply after another, and tells its speed and how
much memory it came to need. Checkpoints are read by our engine, as `trivium serve` does; GGUF files by llama.cpp where xllamacpp
is installed, else by ours as floats. torch is imported for our engine alone."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.cores import cores, most_held
from trivium.types import Emit

if TYPE_CHECKING:
    from trivium.deploy.rows import TokenRow
    from trivium.generate.batcher import Token

TOKENS, REPEATS = 64, 3
"""Of a reply; replies of which the middle one counts, after one that does not."""
ENOUGH = 20.0
"""Seconds after which a slow model's reply is ended, and no other one is asked for."""


def served(path: Path, rows: Sequence[TokenRow], context: int, emit: Emit) -> dict[str, Any]:
    """{"engine": "torch" or "llama.cpp", "tokens_per_second" of one client, "peak_memory": bytes beyond what the process held
    before it read the file}, asked with the start of the first of `rows`. {} where it could not be served: `emit` says why."""
    prompt = rows[0].ids[: rows[0].scored[0]][: context // 2]
    engine = "llama.cpp" if path.is_file() and find_spec("xllamacpp") else "torch"
    asked = json.dumps({"prompt": prompt, "tokens": min(TOKENS, context - len(prompt))})
    done = _asked(engine, path.absolute(), asked)
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        said = f"{path.name} was not served by {engine}, so its speed and memory are not known: {why}"
        emit({"event": "message", "message": said})
        return {}
    return {"engine": engine, **json.loads(done.stdout.splitlines()[-1])}


@cache
def _asked(engine: str, path: Path, asked: str) -> subprocess.CompletedProcess[str]:
    """Once of each file: all stages of a run name the same full model."""
    command = [sys.executable, "-m", "trivium.deploy.speed", engine, str(path), asked]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _torch(path: Path, prompt: list[int], tokens: int) -> Iterator[float]:
    from trivium.generate.batcher import Batcher, Request
    from trivium.generate.native import decoding
    from trivium.generate.paged import BLOCK, blocks_of
    from trivium.generate.sampling import SamplingParams
    from trivium.imports import open_checkpoint

    model, _ = open_checkpoint(path)
    room = (blocks_of(len(prompt) + tokens) + 1) * BLOCK
    with decoding(model) as reader:
        batcher = Batcher(model, reader, tokens=room, running=1)
        while True:
            times: list[float] = []
            batcher.add(Request(prompt, SamplingParams(), tokens, watch=partial(_noted, times)))
            while not batcher.idle:
                batcher.step()
            yield (len(times) - 1) / (times[-1] - times[0])


def _llama(path: Path, prompt: list[int], tokens: int) -> Iterator[float]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.ui = str(path), 0, False
    params.n_ctx, params.n_parallel = len(prompt) + tokens + 16, 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True}
    url, headers = f"{server.listening_address}/completion", {"Content-Type": "application/json"}
    while True:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(body).encode(), headers)
        ) as answer:
            yield float(json.load(answer)["timings"]["predicted_per_second"])


def _noted(times: list[float], token: Token) -> str | None:
    times.append(time.perf_counter())
    return "length" if times[-1] - times[0] > ENOUGH else None


ENGINES = {"torch": _torch, "llama.cpp": _llama}


def _main(engine: str, path: str, asked: str) -> None:
    if engine == "torch":  # the code of an engine is no part of what its file takes
        import trivium.generate.native
        import trivium.imports  # noqa: F401
    before, began = most_held(), time.monotonic()
    speeds: list[float] = []
    for speed in islice(ENGINES[engine](Path(path), **json.loads(asked)), REPEATS + 1):
        speeds.append(speed)
        if time.monotonic() - began > ENOUGH:
            break
    found = {
        "tokens_per_second": statistics.median(speeds[1:] or speeds),
        "peak_memory": most_held() - before,
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # llama.cpp's threads would be waited for


if __name__ == "__main__":
    _main(*sys.argv[1:])

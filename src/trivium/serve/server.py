"""`trivium serve`: a checkpoint behind uvicorn, which ends when what is under way has ended."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
import uvicorn

from trivium.errors import DataError
from trivium.model import generation
from trivium.model.transformer import Transformer
from trivium.serve.app import Web
from trivium.serve.keys import Keys
from trivium.serve.service import Limits, Service
from trivium.text.chat import ChatTokenizer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CONNECTIONS = 1000
"""Connections at once; uvicorn answers more with 503."""
LEAVING = 5
"""Seconds that connections get after the drain: one of a client that says nothing would hold the process for ever."""


class _Server(uvicorn.Server):
    """Signals are `_until_drained`'s."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    model: Transformer,
    chat: ChatTokenizer,
    checkpoint: Path,
    *,
    name: str,
    host: str,
    port: int,
    limits: Limits,
    keys: Path | None = None,
    precision: str = "float32",
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is under way for `limits.drain` seconds. A second signal
    ends it at once.

    DataError for an address that others can reach without keys.
    """
    if keys is None and not loopback(host):
        raise DataError(
            f"{host} can be reached by others, and no key is asked for",
            fix="add --keys FILE (`trivium serve --new-key NAME --keys FILE` makes one), or serve on 127.0.0.1",
        )
    service = Service(model, chat, name, generation.read(checkpoint), limits, PRECISIONS[precision])
    hosts = None if keys is not None else frozenset({"localhost", "127.0.0.1", "::1", host})
    web = Web(service, None if keys is None else Keys(keys), hosts)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    server = _Server(
        uvicorn.Config(
            web.app(), host=host, port=port, log_level="warning", access_log=False, server_header=False,
            limit_concurrency=CONNECTIONS, timeout_keep_alive=75, timeout_graceful_shutdown=LEAVING,
        )
    )  # fmt: skip
    shown = f"[{host}]" if ":" in host else host
    print(f"{name} on http://{shown}:{port} (API: http://{shown}:{port}/v1); Ctrl-C stops", flush=True)
    asyncio.run(_until_drained(server, service))


async def _until_drained(server: uvicorn.Server, service: Service) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        if told.is_set():
            server.should_exit = server.force_exit = True
        service.draining = True
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    serving = asyncio.ensure_future(server.serve())
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(service.limits.drain):
            while service.active and not serving.done() and not server.should_exit:
                await asyncio.sleep(0.05)
    service.stop_soon()
    server.should_exit = True
    await serving
    waiting.cancel()

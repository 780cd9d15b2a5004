"""`trivium serve`: a checkpoint behind uvicorn, which ends when what is under way has ended."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import torch

from trivium.errors import DataError
from trivium.model import generation
from trivium.model.transformer import Transformer
from trivium.serve.app import Web
from trivium.serve.keys import Keys
from trivium.serve.process import configured, loopback, own_names, shown, until_drained
from trivium.serve.service import Limits, Service
from trivium.text.chat import ChatTokenizer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
    web = Web(service, None if keys is None else Keys(keys), None if keys is not None else own_names(host))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    server = configured(web.app(), host, port)
    url = shown(host, port)
    print(f"{name} on {url} (API: {url}/v1); Ctrl-C stops", flush=True)
    asyncio.run(until_drained(server, service, limits.drain))

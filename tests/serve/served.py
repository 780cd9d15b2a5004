"""A server of a tiny model on this machine's loopback, for the tests of clients."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

from trivium.serve.app import Web


class Served:
    """uvicorn in a thread: `url` is what clients get, `service` the engine behind it."""

    def __init__(self, service: Any, **web: Any) -> None:
        self.service = service
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"
        self.web = Web(service, **web)
        config = uvicorn.Config(
            self.web.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listener],), daemon=True)
        self.thread.start()
        self._listener = listener
        while not (self.server.started and service.ready):
            self.thread.join(0.01)
            assert self.thread.is_alive()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
        self._listener.close()

"""llama.cpp as an engine for GGUF files: its own server, from the wheel `xllamacpp`, in a child process. A crash of it ends the
replies under way with an error, and it is started again; this process lives on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trivium.cores import cores
from trivium.errors import ArtifactError, TriviumError
from trivium.serve.engines import Limits
from trivium.serve.metrics import Metrics
from trivium.serve.problems import ApiError
from trivium.serve.upstream import Upstream
from trivium.serve.wire import TokenizeBody, Wire

PAUSES = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Seconds before it is started again; the last one stays. A child that lived for a minute begins anew."""


def _child(settings: dict[str, Any]) -> None:
    """Serves until its parent is gone: then the pipe that is its stdin ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = settings["path"], {settings["name"]}
    params.port, params.ui, params.use_jinja, params.ctx_shift = 0, False, True, False
    params.n_ctx, params.n_parallel, params.kv_unified = settings["tokens"], settings["running"], True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.cors_origins = ""
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()
    os._exit(0)


class LlamaEngine(Upstream):
    """An `engines.Engine` over the file at `path`. Making it starts the child and waits until it answers.

    ArtifactError where it does not load the file, TriviumError without the wheel.
    """

    own = True

    def __init__(
        self, path: Path, name: str, limits: Limits | None = None, metrics: Metrics | None = None, threads: int = 0
    ) -> None:  # fmt: skip
        limits = limits or Limits()
        self.settings: dict[str, Any] = {
            "path": str(path), "name": name, "tokens": limits.tokens, "running": limits.running,
            "threads": threads or int(os.environ.get("OMP_NUM_THREADS") or cores()),
        }  # fmt: skip
        self.path, self._born, self._starts, self._stopping = path, 0.0, 0, False
        self._watcher: asyncio.Task[None] | None = None
        self._up = True
        url = self._spawn()
        super().__init__(url, name, name, None, limits, metrics)

    @property
    def room(self) -> int | None:
        tokens: int = self.settings["tokens"]
        return tokens

    @property
    def ready(self) -> bool:
        return super().ready and self._up

    def _spawn(self) -> str:
        """Starts a child; its address."""
        command = [sys.executable, "-m", "trivium.serve.llama", json.dumps(self.settings)]
        self._born = time.monotonic()
        # its own group: Ctrl-C on the terminal is for us, who let replies finish
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        line = b""
        tail = b""
        while not line and self.process.poll() is None:
            line, more = _either(self.process)
            tail = (tail + more)[-4000:]
        if not line:
            with contextlib.suppress(OSError):
                tail += self.process.stderr.read() or b""
            self._close()
            raise _refusal(tail.decode(errors="replace"), self.path)
        return str(json.loads(line)["url"])

    def start(self) -> None:
        super().start()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Reads what the child says (a full pipe would stop it) and starts another one when it is gone."""
        while True:
            while self.process.poll() is None:
                assert self.process.stderr is not None
                with contextlib.suppress(BlockingIOError):
                    self.process.stderr.read()
                await asyncio.sleep(0.1)
            self._up = False
            self._close()
            lived = time.monotonic() - self._born
            self._starts = 0 if lived > 60 else self._starts + 1
            await asyncio.sleep(PAUSES[min(self._starts, len(PAUSES)) - 1] if self._starts else 0)
            with contextlib.suppress(TriviumError):
                self.url = await asyncio.to_thread(self._spawn)
                self._up = True

    def stop(self) -> None:
        if self._watcher is not None:
            self._loop.call_soon_threadsafe(self._watcher.cancel)
        super().stop()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    async def whole(self, path: str, body: Wire, raw: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(body, TokenizeBody):
            return await self._tokenize(body)
        return await super().whole(path, body, raw)

    async def _tokenize(self, body: TokenizeBody) -> dict[str, Any]:
        """The same in llama.cpp's words."""
        text, begin = body.prompt, body.add_special_tokens
        if body.messages is not None:
            turns = [{"role": message.role, "content": message.text} for message in body.messages]
            told = await super().whole("/apply-template", Wire(), {"messages": turns})
            text, begin = str(told["prompt"]), True
        asked = {"content": text, "add_special": begin, "parse_special": body.messages is not None}
        ids = (await super().whole("/tokenize", Wire(), asked)).get("tokens")
        if not isinstance(ids, list):
            raise ApiError(502, "the engine behind this server tells no tokens", code="engine_failed")
        return {"count": len(ids), "max_model_len": self.room, "tokens": ids}


def _either(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """(the line that tells the address or nothing, what was said beside it) after a moment."""
    assert process.stdout is not None
    assert process.stderr is not None
    readable, _, _ = select.select([process.stdout, process.stderr], [], [], 0.2)
    line = process.stdout.readline() if process.stdout in readable else b""
    return line, (process.stderr.read() or b"") if process.stderr in readable else b""


def _refusal(said: str, path: Path) -> TriviumError:
    if "No module named 'xllamacpp'" in said:
        return TriviumError("the engine llama.cpp needs xllamacpp", fix="pip install 'trivium[llama]'")
    lines = [line for line in said.splitlines() if " E " in line or "Error" in line or "error" in line]
    return ArtifactError(
        f"llama.cpp does not load it: {lines[0].strip()[:200] if lines else 'it ended without a word'}",
        where=str(path),
        fix="is it a whole GGUF file of a language model? `--engine torch` may say more",
    )


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))

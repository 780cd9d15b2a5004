"""Rendering of chat templates: ours here, those of others in one long-lived process with limits (`trivium.text.sandbox`)."""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from trivium.errors import DataError
from trivium.text import sandbox

TEMPLATE = (Path(__file__).parent / "template.jinja").read_text(encoding="utf-8")
"""Our own template. It is known to be harmless and rendered without the detour."""


def check(template: str) -> None:
    """DataError for what is no jinja. Parses only: compiling works expressions out, and that is left to the process."""
    try:
        sandbox.Sandbox().parse(template)
    except TemplateError as error:
        raise DataError(f"the chat template is no valid jinja: {error}") from None


_spent: dict[str, str] = {}
"""Templates that were stopped at a probe, and what was said of them."""


def render(template: str, variables: dict[str, Any], *, probe: bool = False) -> str:
    """The text of a template. DataError where it raises, or asks for more memory or time than any conversation needs.

    `probe`: the words are our own and few. What is stopped at them would be stopped at every conversation: it is asked once. A
    long conversation of somebody's proves nothing of the next.
    """
    if template == TEMPLATE:
        try:
            return sandbox.compiled(template).render(**variables)
        except TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None
    answer = {"error": _spent[template]} if template in _spent else _WORKER.ask([template, variables])
    if "error" in answer:
        if probe and answer.get("stopped"):
            _spent[template] = answer["error"]
        raise DataError(f"the chat template refuses this conversation: {answer['error']}")
    return str(answer["text"])


class _Worker:
    """The process, started when first asked and anew after it was killed; a forked child starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock, self._process = threading.Lock(), None

    def ask(self, message: Any) -> Any:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", sandbox.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C, sent to all of a terminal, is not for it; it ends with its input
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                sandbox.send(self._process.stdin, message)
                return sandbox.receive(self._process.stdout)
            except (EOFError, OSError):
                self._stop()
                return {
                    "error": f"it works for more than {sandbox.SECONDS} s, or fills the memory",
                    "stopped": True,
                }
            except (
                BaseException
            ):  # stopped between question and answer: the next one must not read this answer
                self._stop()
                raise

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    with contextlib.suppress(OSError):  # what was not sent yet
                        stream.close()

    def close(self) -> None:
        with self._lock:
            self._stop()


_WORKER = _Worker()
atexit.register(_WORKER.close)

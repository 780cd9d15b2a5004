"""Where chat templates run: jinja's immutable sandbox, and the process with limits that templates of others run in.

The sandbox stops templates from reaching attributes, not from filling the memory: that, and endless work, is stopped by the
process (`trivium.text.render` starts it). Imports jinja2 and the standard library only, so that it starts quickly.
"""

from __future__ import annotations

import json
import math
import resource
import struct
import sys
import time
from datetime import datetime
from functools import lru_cache
from typing import IO, Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

TODAY = datetime(2024, 7, 26)
"""What `strftime_now` tells every template: a conversation must render the same tomorrow. It is the date that Llama 3's
template falls back on."""
MEMORY, SECONDS = 1 << 30, 2
"""Bytes of address space of the process, and seconds of processor time of one rendering."""
BEGIN, END = "_trivium_begin", "_trivium_end"
"""Variables that hold the marks of one rendering: nothing is kept between two, so threads may share a template."""


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: renders the body between two marks (transformers uses the same tags)."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.Name(mark, "load")]).set_lineno(line) for mark in (BEGIN, END))
        return [begin, *body, end]


class Sandbox(ImmutableSandboxedEnvironment):
    """Offers what transformers offers: raise_exception, strftime_now, tojson, break, generation blocks."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
        )
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = TODAY.strftime
        self.filters["tojson"] = _tojson


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=8)
def compiled(template: str) -> Template:
    return Sandbox().from_string(template)


def send(stream: IO[bytes], message: Any) -> None:
    data = json.dumps(message).encode()
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next message. EOFError where the other side is gone."""
    head = stream.read(8)
    data = stream.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else b""
    if not data:
        raise EOFError
    return json.loads(data)


def _serve() -> None:
    """Renders `[template, variables]` after `[template, variables]` from standard input until it closes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            template, variables = receive(sys.stdin.buffer)
        except EOFError:
            return
        used = math.ceil(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.RLIM_INFINITY))
        try:
            answer = {"text": compiled(template).render(**variables)}
        except MemoryError:
            answer = {"error": f"it fills more than {MEMORY >> 20} MiB of memory"}
        except Exception as error:  # whatever the code of a template raises
            answer = {"error": str(error) or type(error).__name__}
        send(sys.stdout.buffer, answer)


if __name__ == "__main__":
    _serve()

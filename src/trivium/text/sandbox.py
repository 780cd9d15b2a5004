"""Where chat templates run: jinja's immutable sandbox, with limits on what one expression may build.

The sandbox stops templates from reaching attributes, not from working: `'a' * 5e8` would fill the memory.
"""

from __future__ import annotations

import json
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

LARGEST = 10**6
"""Characters or items that one operation may make."""


class Sandbox(ImmutableSandboxedEnvironment):
    """`intercepted_binops` go through `call_binop`. Offers what transformers offers: raise_exception, tojson, break."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, *extensions: Any) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", *extensions]
        )
        self.globals["raise_exception"] = _raise
        self.filters["tojson"] = _tojson

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and abs(left) ** min(right, 64) > LARGEST:
            raise SecurityError("a chat template may not raise to so high a power")
        if operator == "*":
            for things, times in ((left, right), (right, left)):
                if isinstance(things, str | list | tuple) and len(things) * times > LARGEST:
                    raise SecurityError("a chat template may not repeat so much text")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("a chat template may not format with %")
        return super().call_binop(context, operator, left, right)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None, **rest: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)

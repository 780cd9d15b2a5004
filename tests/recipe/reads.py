"""A plug-in of mypy that writes down which attribute of which class is read, CLASS.ATTRIBUTE a line, into the file named by
TRIVIUM_READS. It knows the type of what is read: a field is not taken for read because another class has one of its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mypy.nodes import MemberExpr
from mypy.plugin import AttributeContext, Plugin
from mypy.types import Type

FILE = Path(os.environ["TRIVIUM_READS"]).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115 (as long as mypy runs)


def read(name: str, context: AttributeContext) -> Type:
    if isinstance(context.context, MemberExpr) and not context.is_lvalue:
        FILE.write(f"{name}\n")
    return context.default_attr_type


class Reads(Plugin):
    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        return partial(read, fullname) if fullname.startswith("trivium.") else None


def plugin(version: str) -> Any:
    return Reads

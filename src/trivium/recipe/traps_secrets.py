"""What a recipe says stands in logs, artifacts and reports: it holds no password and no key. No message repeats one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pydantic import BaseModel

from trivium.errors import RecipeError
from trivium.recipe.alignment import RolloutServer
from trivium.recipe.lines import Path
from trivium.recipe.look import Look
from trivium.recipe.teachers import OpenaiTeacher

Found = Iterator[RecipeError]
_PASSWORD = re.compile(r"https?://[^/\s@]+@\S*|[a-z][\w+.-]*://[^/\s@]*:[^/\s@]*@\S*", re.I)
"""An address with a password, or with a name that may be a token. `abfs://container@account` has none."""
_SIGNED = re.compile(
    r"\w+://\S*[?&](?:x-amz-signature|x-amz-security-token|awsaccesskeyid|sig|signature|token|access_token|api_?key)=\S*",
    re.I,
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


def _inside(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value of a stage, models and texts, with its place."""
    yield path, value
    if isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _inside(getattr(value, field), (*path, field))
    elif isinstance(value, dict | list | tuple):
        for place, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _inside(inner, (*path, place))


def password_in_an_address(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, value in _inside(stage):
            if isinstance(value, str) and (_PASSWORD.fullmatch(value) or _SIGNED.fullmatch(value)):
                yield look.error(
                    "an address with a password, a token or a signature, and a recipe is copied into logs, artifacts and reports",
                    name,
                    *place,
                    fix="leave it out: servers of models take `key: NAME` of an environment variable, file systems have their "
                    "own, such as AWS_PROFILE or AWS_ACCESS_KEY_ID",
                )


def key_itself(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, value in _inside(stage):
            if not isinstance(value, OpenaiTeacher | RolloutServer) or value.key is None:
                continue
            if not _VARIABLE.fullmatch(value.key):
                yield look.error(
                    "`key` is no name of an environment variable (capital letters, digits and _); is it the key itself?",
                    name,
                    *place,
                    "key",
                    fix="export MY_KEY=... in the shell and write `key: MY_KEY`; a key that stood in a file is to be replaced",
                )


TRAPS: tuple[Callable[[Look], Found], ...] = (password_in_an_address, key_itself)

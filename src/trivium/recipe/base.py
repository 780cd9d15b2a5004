"""What every model of a recipe shares.

A field made with `how()` says only *how* to execute (device, workers, checkpoint interval) and is not part of
a stage's identity: changing it re-runs nothing. Everything else is identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def how(default: Any) -> Any:
    """A field that says how to execute and is left out of the fingerprint."""
    return Field(default, json_schema_extra={"identity": False})


def only(default: Any, *where: Mapping[str, str | list[str]], identity: bool = True) -> Any:
    """A field that is read only where one of `where` holds: elsewhere a value that is not the default is refused.

    A case is about fields beside it: `{"schedule": ["wsd"]}` names the values with which it is read, `{"init": "unset"}` and
    `{"verifier": "set"}` ask whether there is anything (a number above 0, true, a list with something in it).

    `identity`: False for a field that says only how to execute.
    """
    extra: dict[str, Any] = {"only": [dict(case) for case in where]}
    return Field(default, json_schema_extra=extra if identity else {**extra, "identity": False})


class StageBase(Strict):
    kind: str
    references: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the name (or a list of names) of another stage."""
    formats: ClassVar[tuple[str, ...]] = ()
    """What the data stage that `data` names may hold; empty: whatever it holds."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The stage's own, where it is not the recipe's: to repeat one stage with other random numbers and nothing else."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Of `formats`, those that it takes with its settings."""
        return self.formats

"""What every model of a recipe shares.

A field made with `how()` says only *how* to execute (device, workers, checkpoint interval) and is not part of
a stage's identity: changing it re-runs nothing. Everything else is identity.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def how(default: Any) -> Any:
    """A field that says how to execute and is left out of the fingerprint."""
    return Field(default, json_schema_extra={"identity": False})


class StageBase(Strict):
    kind: str
    references: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the name (or a list of names) of another stage."""
    formats: ClassVar[tuple[str, ...]] = ()
    """What the data stage that `data` names may hold; empty: whatever it holds."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """The stage's own, where it is not the recipe's: to repeat one stage with other random numbers and nothing else."""

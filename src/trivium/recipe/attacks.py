"""How a red team puts its requests, and what they ask for, by name. Packages of others add theirs through the entry points
`trivium.attacks` and `trivium.harms`: a model whose whole content is its `kind`, and the classmethod `implementation`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from trivium.recipe.base import Strict
from trivium.recipe.kinds import Group, added
from trivium.recipe.lines import listed, nearest

ATTACKS = (
    "direct", "role_play", "prefix_injection", "refusal_suppression", "prefill", "base64", "rot13", "leetspeak", "homoglyphs",
    "zero_width", "german", "french", "spanish", "many_shot", "escalation",
)  # fmt: skip
HARMS = ("theft", "fraud", "malware", "harassment", "weapons", "privacy", "drugs", "deception")


class AttackBase(Strict):
    """An attack of a package."""

    kind: str

    @classmethod
    def implementation(cls) -> Any:
        """How it puts a request: a `trivium.evaluate.attacks.attack.Attack`."""
        raise NotImplementedError


class HarmBase(Strict):
    """A kind of harm of a package."""

    kind: str

    @classmethod
    def implementation(cls) -> Any:
        """What is asked for: a sequence of `trivium.evaluate.attacks.requests.Request`, whose `harm` is this kind."""
        raise NotImplementedError


def _known(group: Group, base: type[Strict], own: tuple[str, ...], name: str) -> str:
    names = [*own, *added(group, base, own)]
    if name not in names:
        raise ValueError(f"`{name}` is none that is known; {nearest(name, names)}there are: {listed(names)}")
    return name


def _attack(name: str) -> str:
    return _known("trivium.attacks", AttackBase, ATTACKS, name)


def _harm(name: str) -> str:
    return _known("trivium.harms", HarmBase, HARMS, name)


def _attacks(schema: dict[str, Any]) -> None:
    schema["enum"] = [*ATTACKS, *added("trivium.attacks", AttackBase, ATTACKS)]


def _harms(schema: dict[str, Any]) -> None:
    schema["enum"] = [*HARMS, *added("trivium.harms", HarmBase, HARMS)]


AttackName = Annotated[str, AfterValidator(_attack), Field(json_schema_extra=_attacks)]
HarmName = Annotated[str, AfterValidator(_harm), Field(json_schema_extra=_harms)]

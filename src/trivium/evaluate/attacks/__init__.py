"""Attacks × harms × judges. An attack is a row of the `ATTACKS` of one file, a harm a line of `requests.jsonl`, a judge a row of
`judges.JUDGES`."""

from __future__ import annotations

from trivium.evaluate.attacks import encodings, framing, turns
from trivium.evaluate.attacks.attack import Attack
from trivium.recipe.kinds import plugins

ATTACKS: dict[str, Attack] = {
    **framing.ATTACKS,
    **encodings.ATTACKS,
    **turns.ATTACKS,
    **{name: plugin.implementation() for name, plugin in plugins("trivium.attacks").items()},
}
"""Name -> how a request is put; those of other packages too."""

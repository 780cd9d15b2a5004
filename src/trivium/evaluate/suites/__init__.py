"""The suites, one file each. `SUITES`: kind -> how it finds its items, asks them and judges the answers."""

from __future__ import annotations

from trivium.evaluate.asked import SuiteKind
from trivium.evaluate.suites import (
    bbq,
    bias,
    bits_per_byte,
    canaries,
    choice,
    drift,
    garak,
    gcg,
    harness,
    instructions,
    memorisation,
    pairwise,
    preferences,
    primer,
    questions,
    reasoning,
    redteam,
    refusals,
    response_loss,
    stereotypes,
    verbatim,
    winobias,
    withdrawn,
)
from trivium.recipe.kinds import plugins

SUITES: dict[str, SuiteKind] = {
    "bits_per_byte": bits_per_byte.SUITE,
    "response_loss": response_loss.SUITE,
    "reasoning": reasoning.SUITE,
    "questions": questions.SUITE,
    "preferences": preferences.SUITE,
    "pairwise": pairwise.SUITE,
    "refusals": refusals.SUITE,
    "drift": drift.SUITE,
    "primer": primer.SUITE,
    "redteam": redteam.SUITE,
    "gcg": gcg.SUITE,
    "garak": garak.SUITE,
    "bias": bias.SUITE,
    "choice": choice.SUITE,
    "instructions": instructions.SUITE,
    "verbatim": verbatim.SUITE,
    "withdrawn": withdrawn.SUITE,
    "harness": harness.SUITE,
    "crows_pairs": stereotypes.CROWS_PAIRS,
    "stereoset": stereotypes.STEREOSET,
    "winobias": winobias.SUITE,
    "bbq": bbq.SUITE,
    "canaries": canaries.SUITE,
    "memorisation": memorisation.SUITE,
    **{kind: plugin.implementation() for kind, plugin in plugins("trivium.suites").items()},
}

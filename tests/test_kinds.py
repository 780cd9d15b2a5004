"""A kind of training stage stands once, on its model of the recipe and its row of the table: all else follows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trivium import verify
from trivium.cli import commands
from trivium.evaluate import suites
from trivium.phases import PHASES, ROWS
from trivium.pipeline.stages import STAGES
from trivium.recipe import models
from trivium.recipe.models import CHECKPOINTS, TRAINING
from trivium.recipe.suites import SUITES
from trivium.recipe.training import TrainingStage
from trivium.recipe.verifiers import VERIFIERS
from trivium.synthesize import scoring

SRC = Path(verify.__file__).parent.parent
PATH = ("phases.py", "train/loop.py", "objectives/dpo.py", "batches/pairs.py")
"""What a newcomer opens, in this order."""


def test_every_training_stage_has_a_row_and_every_row_its_stage():
    assert set(TRAINING) == set(PHASES)
    assert all(PHASES[kind].stage is stage for kind, stage in TRAINING.items())
    assert len(ROWS) == len({row.stage for row in ROWS})
    assert commands.training() == tuple(TRAINING)
    assert set(STAGES) == set(models.STAGES)


@pytest.mark.parametrize("kind", TRAINING)
def test_what_is_known_of_a_kind_is_complete(kind):
    stage = TRAINING[kind]
    assert stage.formats and stage.__doc__
    assert stage.forwards >= 3 + stage.frozen_reference
    assert (kind in CHECKPOINTS) == (not stage.scalar)
    assert STAGES[kind].version == stage.version


@pytest.mark.parametrize("kind", SUITES)
def test_a_suite_is_a_model_and_a_row(kind):
    model = SUITES[kind]
    assert list(suites.SUITES) == list(SUITES)
    assert model.__doc__ and model.metrics and model.reads_per_item >= 1
    assert all(needed.what and not needed.fits({}) for needed in model.needs)


@pytest.mark.parametrize("kind", VERIFIERS)
def test_a_verifier_is_a_model_and_one_row(kind):
    assert VERIFIERS[kind].__doc__
    assert (kind in verify.VERIFIERS) != (kind in scoring.MODELS)
    assert {*verify.VERIFIERS, *scoring.MODELS} == set(VERIFIERS)


def test_the_table_and_what_a_newcomer_reads_are_short():
    lines = [len((SRC / name).read_text().splitlines()) for name in PATH]
    assert lines[0] <= 120
    assert sum(lines) <= 500


def starts_from(stage: type[TrainingStage]) -> str:
    if not stage.needs_init:
        return "nothing, or a checkpoint"
    allowed = stage.model_fields.get("allow_base")
    return "a base" if allowed is None else "a base will do" if allowed.default else "a fine-tuned model"


def test_the_table_of_the_readme_is_that_of_the_stages():
    readme = (SRC.parents[1] / "README.md").read_text(encoding="utf-8")
    table = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", readme, re.M)}
    assert {kind: table[kind][2] for kind in TRAINING} == {
        kind: starts_from(stage) for kind, stage in TRAINING.items()
    }
    for kind in ("dpo", "orpo", "simpo", "kto", "reward"):  # on-line, the reference is asked while training
        assert ("the reference's" in table[kind][0]) is TRAINING[kind].frozen_reference

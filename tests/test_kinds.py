"""A kind of training stage is known everywhere or nowhere: the lists that cannot import each other agree."""

from __future__ import annotations

from trivium import commands
from trivium.phases import PHASES
from trivium.pipeline.stages import STAGES
from trivium.plan.cost import FORWARDS
from trivium.recipe.models import TRAINING
from trivium.recipe.references import CHECKPOINTS
from trivium.recipe.traps_data import FORMAT_OF_STAGE


def test_every_list_of_training_stages_is_the_same():
    assert set(TRAINING) == set(PHASES) == set(FORWARDS)
    assert commands.training() == TRAINING
    assert set(TRAINING) <= set(STAGES)
    assert set(TRAINING) <= set(FORMAT_OF_STAGE)
    assert {*TRAINING, "import"} - {"reward"} == CHECKPOINTS  # a reward model has no words to start from

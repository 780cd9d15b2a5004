"""THE TABLE: what a training phase is. Only the data and the loss change between phases; the loop is one.

A row says which stage of the recipe it carries out, how the stage's data becomes batches, and which objective is minimised. All
else (where the weights come from, how the checkpoint is written, what is measured before and after) is the same for all:
`assembly.py` puts a row together with its data, and `train/loop.py` runs it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from trivium.batches.context import Phase
from trivium.batches.forgotten import forgotten
from trivium.batches.offline import chat, feedback, packed, pairs, pairs_with_reference
from trivium.batches.online import critic_rollouts, group_rollouts
from trivium.batches.teacher import taught
from trivium.model.scalar import ActorCritic, Scalar
from trivium.objectives import Distill, Dpo, Grpo, Kto, NextToken, Orpo, Ppo, Reward
from trivium.objectives.simpo import Simpo
from trivium.objectives.uld import Uld
from trivium.objectives.unlearn import Unlearn
from trivium.recipe import alignment as align
from trivium.recipe.kinds import kind_of, plugins
from trivium.recipe.training import PretrainStage, SftStage

ROWS = (
    Phase(PretrainStage, packed, lambda c: NextToken(c.z_loss)),
    Phase(SftStage, chat, lambda c: NextToken(c.z_loss)),
    Phase(align.RewardStage, pairs, lambda c: Reward(c.margin, c.centring), lambda model, c: Scalar(model)),
    Phase(
        align.DpoStage,
        pairs_with_reference,
        lambda c: Dpo(c.beta, c.nll, c.loss, c.label_smoothing, c.length_normalised),
    ),
    Phase(align.OrpoStage, pairs, lambda c: Orpo(c.beta)),
    Phase(align.SimpoStage, pairs, lambda c: Simpo(c.beta, c.gamma)),
    Phase(align.KtoStage, feedback, lambda c: Kto(c.beta, c.desirable, c.undesirable)),
    Phase(align.UnlearnStage, forgotten, lambda c: Unlearn(c.loss, c.beta, c.retain)),
    Phase(
        align.PpoStage,
        critic_rollouts,
        lambda c: Ppo(c.clip_epsilon, c.value_clip, c.value_weight, c.entropy_weight),
        lambda model, c: ActorCritic(model, None if c.share_trunk else deepcopy(model)),
    ),
    Phase(
        align.GrpoStage,
        group_rollouts,
        lambda c: Grpo(c.loss, c.max_new_tokens, c.clip_epsilon, c.clip_epsilon_high, c.kl),
    ),
    Phase(
        align.DistillStage,
        taught,
        lambda c: (Distill if c.match == "ids" else Uld)(c.divergence, c.distill_temperature, c.mix, c.share),
    ),
)

PHASES: dict[str, Phase[Any]] = {
    **{kind_of(row.stage): row for row in ROWS},
    **{kind: plugin.implementation() for kind, plugin in plugins("trivium.objectives").items()},
}
"""Kind of stage -> its row; packages of others add theirs."""

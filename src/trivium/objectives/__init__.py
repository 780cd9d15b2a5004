"""Losses as plain functions, and the objectives that the loop calls: thin classes over them that return sums and weights.

One file each. `phases.py` says which phase uses which.
"""

from trivium.objectives.distill import Distill, distill_loss
from trivium.objectives.dpo import Dpo, dpo_loss
from trivium.objectives.grpo import Grpo, grpo_loss
from trivium.objectives.kto import Kto, kto_loss
from trivium.objectives.next_token import NextToken, next_token_loss
from trivium.objectives.orpo import Orpo, orpo_loss
from trivium.objectives.ppo import Ppo, gae, ppo_loss, value_loss
from trivium.objectives.reward import Reward, reward_loss
from trivium.objectives.sequence import sequence_log_probs

__all__ = [
    "Distill",
    "Dpo",
    "Grpo",
    "Kto",
    "NextToken",
    "Orpo",
    "Ppo",
    "Reward",
    "distill_loss",
    "dpo_loss",
    "gae",
    "grpo_loss",
    "kto_loss",
    "next_token_loss",
    "orpo_loss",
    "ppo_loss",
    "reward_loss",
    "sequence_log_probs",
    "value_loss",
]

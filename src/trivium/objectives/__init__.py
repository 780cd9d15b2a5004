"""Losses as plain functions, and the objectives that the loop calls: thin classes over them that return sums and weights.

One file each. `phases.py` says which phase uses which.
"""

from trivium.objectives.dpo import Dpo, dpo_loss
from trivium.objectives.next_token import NextToken, next_token_loss
from trivium.objectives.orpo import Orpo, orpo_loss
from trivium.objectives.sequence import sequence_log_probs

__all__ = [
    "Dpo",
    "NextToken",
    "Orpo",
    "dpo_loss",
    "next_token_loss",
    "orpo_loss",
    "sequence_log_probs",
]

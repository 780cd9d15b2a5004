"""How large a model, how many tokens: published laws of the loss, what repetition is worth, what serving changes (no torch).

    loss(N, D) = E + A / N^alpha + B / D^beta        nats a token; N parameters, D tokens (Hoffmann et al. 2022, eq. 10)

Training takes C = 6 N D. The laws are of their authors' data, tokenizers and recipes: differences between choices carry over to
another recipe better than losses do, and no further than the sizes they were fitted on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Law:
    """loss(N, D) = floor + a / N^alpha + b / D^beta."""

    source: str
    floor: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token."""
        return float(self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss that `flops` FLOP of training can reach (Hoffmann et al. 2022, eq. 4)."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        parameters = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / 6 / parameters

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Tokens after which a model of `parameters` reaches `loss`; infinite where it is too small to."""
        left = loss - self.floor - self.a / parameters**self.alpha
        return (self.b / left) ** (1 / self.beta) if left > 0 else math.inf

    def served(self, loss: float, served: float) -> tuple[float, float]:
        """Parameters and tokens that reach `loss` with the least FLOP of training and of `served` tokens of inference together,
        6 N D + 2 N D_served (Sardana et al. 2024, eq. 2)."""

        def whole(parameters: float) -> float:
            return parameters * (6 * self.tokens_for(parameters, loss) + 2 * served)

        least = (self.a / (loss - self.floor)) ** (1 / self.alpha)  # with endless data
        sizes = [least * 1.02**step for step in range(1, 1500)]
        best = min(sizes, key=whole)
        return best, self.tokens_for(best, loss)


CHINCHILLA = Law("Hoffmann et al. 2022, digits of its source", 1.6934, 406.4, 410.7, 0.3392, 0.2849)
REPLICATION = Law("Besiroglu et al. 2024", 1.8172, 482.01, 2085.43, 0.3478, 0.3658)
"""Fitted anew to the points of the former, with intervals that fit their number: what is planned with."""
DECAY = 15.39
"""R*_D: repetitions after which what another adds has fallen by e (Muennighoff et al. 2023, section 5; 100M to 9B parameters)."""


def worth(tokens: float, unique: float) -> float:
    """How many new tokens `tokens` tokens are worth where only `unique` of them are new (Muennighoff et al. 2023, eq. 5).

    D' = U + U R* (1 - exp(-R / R*)), R = D / U - 1 repetitions.
    """
    if tokens <= unique:
        return tokens
    return unique + unique * DECAY * (1 - math.exp(-(tokens / unique - 1) / DECAY))


def said(parameters: float, tokens: float, unique: float | None = None) -> list[str]:
    """What the laws say of a choice: `unique` tokens are there to be read, None: nobody knows yet."""
    flops = 6 * parameters * tokens
    lines = [
        f"{tokens / parameters:,.3g} tokens for each of {parameters:.3g} parameters (6 N D = {flops:.3g} FLOP)"
    ]
    for law in (REPLICATION, CHINCHILLA):
        best, most = law.optimum(flops)
        here, there = law.loss(parameters, tokens), law.loss(best, most)
        lines.append(
            f"{law.source}: the same FLOP are spent best on {best:.3g} parameters and {most:.3g} tokens, "
            f"{most / best:.3g} each; this choice is {here - there:.3f} nats above that"
        )
    law = REPLICATION
    loss = law.loss(parameters, tokens)
    for times in (1, 10):
        size, enough = law.served(loss, times * tokens)
        if enough / size > 1.02 * tokens / parameters:
            lines.append(
                f"if it is to write {times * tokens:.2g} tokens, the same loss is cheapest with {size:.3g} parameters and "
                f"{enough:.3g} tokens (Sardana et al. 2024)"
            )
        else:
            lines.append(
                f"if it is to write {times * tokens:.2g} tokens, it is no larger than the cheapest of its loss"
            )
    if unique is not None and tokens > unique:
        new = worth(tokens, unique)
        lines.append(
            f"{tokens / unique:.3g} epochs over {unique:.3g} tokens are worth {new:.3g} new ones ({new / tokens:.0%}): "
            f"{law.loss(parameters, new) - loss:.3f} nats (Muennighoff et al. 2023)"
        )
    return lines

"""What PPO and GRPO make of a rollout: rewards, penalties, advantages, and the numbers that show reward hacking early."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trivium.batches.advantages import group_advantages, token_rewards, whiten
from trivium.batches.context import Items, PhaseContext
from trivium.batches.prompts import Prompts
from trivium.batches.rollouts import Rollout, Rollouts, policy_of
from trivium.batches.rows import BatchSharding
from trivium.batches.served import Served
from trivium.corpus.records import read
from trivium.errors import RecipeError
from trivium.generate.sampling import SamplingParams
from trivium.model import lora, scalar
from trivium.model.scalar import Scalar
from trivium.model.transformer import Transformer
from trivium.objectives.ppo import gae
from trivium.objectives.sequence import last_token
from trivium.recipe.alignment import GrpoStage, OnlineStage, PpoStage
from trivium.text.tokenizer import check_same
from trivium.verify import Verifier, named
from trivium.verify.refusal import refuses
from trivium.verify.replies import repetition

HELDOUT = 128
"""Held-out prompts that are replied to before and after."""

Reference = Transformer | lora.Base
Scored = Callable[[dict[str, Tensor], Any, set[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class RewardFunction:
    """The reward of a reply: the reward model's number, the verifier's, or both added; less `unfinished` where it did not end."""

    score: Verifier | None
    model: Scalar | None
    unfinished: float = 0.0

    def __call__(self, rollout: Rollout, scored: Scored) -> Tensor:
        """(N,) float32."""
        total = torch.zeros(len(rollout.texts))
        if self.score is not None:
            total += torch.tensor(
                [
                    self.score(record, text)
                    for record, text in zip(rollout.records, rollout.texts, strict=True)
                ]
            )
        if self.model is not None:
            values = scored(rollout.rows, self.model, {"values"})["values"]
            total += values.gather(-1, last_token(rollout.rows)[:, None]).squeeze(-1)  # type: ignore[arg-type]
        open_ended = torch.tensor([not completion.finished for completion in rollout.completions])
        return total - self.unfinished * open_ended


def drift(
    rollout: Rollout, rewards: Tensor, tensors: dict[str, Tensor], reference: Tensor | None
) -> dict[str, Tensor]:
    """What is logged of a set: reward, distance from the start (Schulman's k3, nats a token), repetition, refusals."""
    logged: dict[str, Any] = {
        "reward": rewards.mean(),
        "reward_std": rewards.std(unbiased=False),
        "repetition": np.mean([repetition(text) for text in rollout.texts]),
        "refusals": np.mean([refuses(text) for text in rollout.texts]),
    }
    if reference is not None:
        mask = tensors["loss_mask"]
        away = (reference - tensors["old_logp"]) * mask
        logged["kl"] = ((away.exp() - 1 - away) * mask).sum() / mask.sum().clamp_min(1)
    return {f"log/{name}": torch.as_tensor(float(value)) for name, value in logged.items()}


@dataclass
class GroupValue:
    """GRPO: a reply is worth how much better it is than the others to its prompt. Truncated replies may be left out."""

    reward: RewardFunction
    reference: Reference | None
    group: int
    scale: bool
    skip_truncated: bool
    rollouts: Rollouts | None = None

    @property
    def passes(self) -> int:
        return int(self.reference is not None) + int(self.reward.model is not None)

    def __call__(self, rollout: Rollout, tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
        assert self.rollouts is not None
        rewards = self.reward(rollout, self.rollouts.scored)
        worth = group_advantages(rewards, self.group, scale=self.scale)
        columns = {"advantage": worth[:, None] * tensors["loss_mask"], "reward": rewards}
        known = None
        if self.reference is not None:
            known = self.rollouts.scored(tensors, _of(self.reference, network), {"logp"})["logp"]
            columns["ref_token_logp"] = known
        if self.skip_truncated:
            ended = torch.tensor([float(completion.finished) for completion in rollout.completions])
            columns["loss_mask"] = tensors["loss_mask"] * ended[:, None]
        columns |= drift(rollout, rewards, tensors, known)
        decided = (
            (rewards.view(-1, self.group).std(-1) > 0).float().mean() if self.group > 1 else torch.zeros(())
        )
        return columns | {"log/groups_with_signal": decided}


@dataclass
class CriticValue:
    """PPO: rewards less the price of leaving the reference, held against what the critic expected (GAE)."""

    reward: RewardFunction
    reference: Reference
    kl: float
    gamma: float
    gae_lambda: float
    rollouts: Rollouts | None = None

    @property
    def passes(self) -> int:
        """The reference, the critic, and the reward model where there is one."""
        return 2 + int(self.reward.model is not None)

    def __call__(self, rollout: Rollout, tensors: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
        assert self.rollouts is not None
        mask = tensors["loss_mask"]
        rewards = self.reward(rollout, self.rollouts.scored)
        known = self.rollouts.scored(tensors, _of(self.reference, network), {"logp"})["logp"]
        values = self.rollouts.scored(tensors, network, {"values"})["values"] * mask
        per_token = token_rewards(rewards, tensors["old_logp"], known, mask, self.kl)
        advantage, returns = gae(per_token, values, mask, gamma=self.gamma, gae_lambda=self.gae_lambda)
        on = mask > 0
        noise, spread = (returns - values)[on].var(correction=0), returns[on].var(correction=0)
        return {
            "advantage": advantage,
            "returns": returns,
            "old_values": values,
            "ref_token_logp": known,
            "reward": rewards,
            "log/explained_variance": 1 - noise / spread.clamp_min(1e-8),
            **drift(rollout, rewards, tensors, known),
        }


def measured(
    rollouts: Rollouts, reward: RewardFunction, reference: Reference | None, asked: Sequence[int]
) -> dict[str, float]:
    """Reward, length, drift and distance from the start on given prompts, one reply each with the same random numbers."""
    policy = policy_of(rollouts.network)
    rollout = rollouts.reply(policy, asked, seed=0)
    tensors = dict(rollout.rows)
    tensors["old_logp"] = rollouts.scored(tensors, policy, {"logp"})["logp"]
    known = rollouts.scored(tensors, reference, {"logp"})["logp"] if reference is not None else None
    rewards = reward(rollout, rollouts.scored)
    drifted = {
        name.removeprefix("log/"): float(v) for name, v in drift(rollout, rewards, tensors, known).items()
    }
    lengths = tensors["loss_mask"].sum(-1)
    ended = [completion.finished for completion in rollout.completions]
    return drifted | {"tokens": float(lengths.mean()), "finished": float(np.mean(ended))}


@dataclass(kw_only=True)
class Asked(Items):
    """Prompts that the policy replies to, and what its replies are worth."""

    ctx: PhaseContext[OnlineStage]
    value: GroupValue | CriticValue
    group: int = 1

    def ordered(self, sharding: BatchSharding, steps: int) -> Rollouts:
        assert isinstance(self.train, Prompts)
        self.value.rollouts = self._rollouts(self.train, sharding, "rollouts", steps)
        return self.value.rollouts

    def close(self) -> None:
        if self.value.rollouts is not None:
            self.value.rollouts.close()

    def measure(self) -> dict[str, float] | None:
        """Reward, length, drift on held-out prompts; None where none are held out."""
        ctx, config = self.ctx, self.ctx.config
        if not any(True for _ in read(ctx.data / "heldout")):
            return None
        asked, size = _prompts(ctx, "heldout"), config.micro_batch or config.batch
        rollouts = self._rollouts(asked, BatchSharding(ctx.seed, size * self.group, size), "measured")
        return measured(rollouts, self.value.reward, self.value.reference, range(min(asked.count, HELDOUT)))

    def _rollouts(
        self, asked: Prompts, sharding: BatchSharding, folder: str, steps: int | None = None
    ) -> Rollouts:
        ctx, config = self.ctx, self.ctx.config
        return Rollouts(
            prompts=asked,
            network=ctx.network,
            chat=ctx.chat,
            machine=ctx.machine,
            sharding=sharding,
            sampling=SamplingParams(config.temperature, config.top_p, config.max_new_tokens),
            value=self.value,
            folder=ctx.work / folder,
            emit=ctx.emit,
            group=self.group,
            minibatches=config.minibatches,
            updates=config.updates,
            staleness=config.staleness,
            truncate=config.importance_weight_cap,
            finish=_whitened if isinstance(config, PpoStage) and config.whiten else lambda whole: whole,
            ahead_on=_usable(config.rollout_device),
            writer=Served.open(ctx, config.rollout_server) if config.rollout_server else None,
            passes=self.value.passes,
            steps=steps,
            stop_without_signal=config.stop_without_signal,
        )


def _prompts(ctx: PhaseContext[OnlineStage], split: str) -> Prompts:
    return Prompts.build(list(read(ctx.data / split)), ctx.chat, ctx.length, ctx.config.max_new_tokens)


def _asked(ctx: PhaseContext[OnlineStage], value: GroupValue | CriticValue, group: int) -> Items:
    prompts = _prompts(ctx, "train")
    account = _account(ctx, prompts, memory(ctx, value))
    return Asked(prompts, None, account, ctx=ctx, value=value, group=group)


def _account(ctx: PhaseContext[OnlineStage], prompts: Prompts, held: Mapping[str, int]) -> dict[str, Any]:
    """What the stage says of its prompts and its models, with a warning for prompts that are left out."""
    config = ctx.config
    if message := prompts.warning(ctx.length, config.max_new_tokens):
        ctx.emit({"event": "warning", "message": message})
    shown = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in held.items() if size)
    ctx.emit({"event": "message", "message": f"weights in memory: {shown}"})
    return {
        "prompts": prompts.count,
        "prompts_too_long": prompts.dropped,
        "prompts_unasked": len(prompts.unasked),
        "prompts_refused": prompts.refused.refused,
        "rows_too_long": prompts.rows_too_long,
        "row_tokens": prompts.length,
        "memory": dict(held),
    }


def _whitened(whole: dict[str, Tensor]) -> dict[str, Tensor]:
    return whole | {"advantage": whiten(whole["advantage"], whole["loss_mask"])}


def _usable(device: str | None) -> str | None:
    """RecipeError for a device that this machine has not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"replies cannot be written on {device!r}: {str(error).splitlines()[0]}",
            fix="name a device of this machine, or leave `rollout_device` out",
        ) from error
    return device


def _reward_function(ctx: PhaseContext[OnlineStage]) -> RewardFunction:
    config = ctx.config
    folder = ctx.others.get("reward_model")
    model = scalar.load(folder, device=ctx.machine.device).eval() if folder else None
    if model is not None and folder is not None:
        check_same(ctx.chat.tokenizer, folder, "the reward model", rows=model.config.vocab_size)
    return RewardFunction(named(config.reward) if config.reward else None, model, config.unfinished)


def _frozen(ctx: PhaseContext[OnlineStage]) -> Reference:
    """The reference: the checkpoint that the phase starts from. Where the policy is an adapter, that is the model without it."""
    if ctx.config.adapter is not None:
        return lora.Base(ctx.model)
    return deepcopy(ctx.model).eval().requires_grad_(False)


def _of(reference: Reference, network: Any) -> Reference:
    """The reference beside `network`, which may be a copy that writes while the first one is in training: what an adapter was put
    on is its own there."""
    return lora.Base(policy_of(network)) if isinstance(reference, lora.Base) else reference


def memory(ctx: PhaseContext[OnlineStage], value: GroupValue | CriticValue) -> dict[str, int]:
    """Bytes of weights that the policy, the reference, the reward model and the critic hold, each tensor counted once, and
    of what is trained, which comes with a gradient and two moments of its size."""
    held: dict[str, int] = {}
    seen: set[int] = set()
    models = {
        "policy": ctx.model,
        "value": ctx.network,
        "reference": value.reference,
        "reward": value.reward.model,
    }
    for name, model in models.items():
        tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
        new = [tensor for tensor in tensors if id(tensor) not in seen]
        seen |= {id(tensor) for tensor in new}
        held[name] = sum(tensor.numel() * tensor.element_size() for tensor in new)
    trained = [p for p in ctx.network.parameters() if p.requires_grad]
    return held | {"trained": sum(p.numel() * p.element_size() for p in trained)}


def group_rollouts(ctx: PhaseContext[GrpoStage]) -> Items:
    """GRPO: groups of replies to a prompt, scored by a verifier or a reward model."""
    config = ctx.config
    reference = _frozen(ctx)
    value = GroupValue(
        _reward_function(ctx), reference, config.group, config.loss != "dr_grpo", config.skip_truncated
    )
    return _asked(ctx, value, config.group)


def critic_rollouts(ctx: PhaseContext[PpoStage]) -> Items:
    """PPO: one reply to a prompt, a reward model, a critic."""
    config = ctx.config
    value = CriticValue(_reward_function(ctx), _frozen(ctx), config.kl, config.gamma, config.gae_lambda)
    return _asked(ctx, value, 1)

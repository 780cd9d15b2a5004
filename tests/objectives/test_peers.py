"""The other alignment losses against the code that others run: TRL's methods and torchrl's functions, in float64."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.batches.advantages import group_advantages
from trivium.objectives import (
    Grpo,
    Kto,
    Reward,
    distill_loss,
    dpo_loss,
    gae,
    kto_loss,
    ppo_loss,
    reward_loss,
    value_loss,
)
from trivium.types import Output

close = {"rtol": 1e-6, "atol": 1e-12}


@pytest.fixture(scope="module")
def trl() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SimpleNamespace(
            kto=pytest.importorskip("trl.trainer.kto_trainer").KTOTrainer,
            reward=pytest.importorskip("trl.trainer.reward_trainer").RewardTrainer,
            grpo=pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer,
            gkd=pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer,
            dpo=pytest.importorskip("trl.trainer.dpo_trainer").DPOTrainer,
        )


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Same:
    """Stands for accelerate on one process."""

    device = "cpu"
    num_processes = 1

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x

    def unwrap_model(self, model):
        return model


class Says(torch.nn.Module):
    """A model whose per-token log-probabilities are given."""

    is_gradient_checkpointing = False

    def __init__(self, logp: Tensor) -> None:
        super().__init__()
        self.logp = logp

    def forward(self, **_):
        nothing = torch.zeros_like(self.logp)
        return SimpleNamespace(
            log_probs=self.logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )


def trl_dpo(trl, kind: str, policy: Tensor, reference: Tensor, mask: Tensor, beta: float, smoothing: float):
    """DPOTrainer._compute_loss on a trainer that holds only what the method reads; chosen rows first."""
    model, other = Says(policy), Says(reference)
    trainer = SimpleNamespace(
        model=model, ref_model=other, accelerator=Same(), beta=beta, label_smoothing=smoothing, loss_types=[kind],
        loss_weights=[1.0], f_divergence_type="reverse_kl", aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=False, use_weighting=False, args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    whole = F.pad(mask, (1, 0)).long()
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "completion_mask": whole}
    return trl.dpo._compute_loss(trainer, model, inputs, False)


@pytest.mark.parametrize(
    ("theirs", "ours", "per_token"),
    [
        ("sigmoid", "sigmoid", False),
        ("hinge", "hinge", False),
        ("ipo", "ipo", True),
        ("sigmoid_norm", "sigmoid", True),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_dpo_and_its_variants(trl, theirs, ours, per_token, seed):
    pairs, time, beta = 5, 7, 0.3
    mask = (torch.arange(time) < 3 + torch.arange(2 * pairs)[:, None] % 4).double()
    policy, reference = (-numbers(seed + i, 2 * pairs, time).abs() * mask for i in (0, 50))
    expected = trl_dpo(trl, theirs, policy, reference, mask, beta, 0.0)
    sums = [x.sum(-1) / (mask.sum(-1) if per_token else 1) for x in (policy, reference)]
    found = dpo_loss(*sums[0].chunk(2), *sums[1].chunk(2), beta, variant=ours)
    torch.testing.assert_close(found.mean(), expected, **close)


def test_conservative_smoothing(trl):
    """TRL has it in `aot`, which for a single pair is the sigmoid's loss."""
    mask = torch.ones(2, 4, dtype=torch.float64)
    policy, reference = (-numbers(seed, 2, 4).abs() for seed in (0, 1))
    expected = trl_dpo(trl, "aot", policy, reference, mask, 0.3, 0.1)
    sums = [x.sum(-1) for x in (policy, reference)]
    found = dpo_loss(*sums[0].chunk(2), *sums[1].chunk(2), 0.3, label_smoothing=0.1)
    torch.testing.assert_close(found.mean(), expected, **close)


@pytest.mark.parametrize("seed", range(4))
def test_kto(trl, seed):
    rows, time, beta, good, bad = 6, 5, 0.2, 1.3, 0.7
    policy, reference, far, near = (-numbers(seed + 10 * i, rows, time).abs() for i in range(4))
    label = torch.tensor([1, 0, 1, 1, 0, 0])
    trainer = SimpleNamespace(
        model=Says(policy), ref_model=Says(reference), accelerator=Same(), calculate_KL=True, loss_type="kto",
        beta=beta, desirable_weight=good, undesirable_weight=bad, precompute_ref_logps=True, aux_loss_enabled=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None), _metrics={"train": defaultdict(list)},
        _total_train_tokens=0, _tp_size=1, _compute_kl_logps=lambda model, batch: far.sum(-1),
    )  # fmt: skip
    ids = torch.ones(rows, time + 1, dtype=torch.int64)
    batch = {
        "input_ids": ids, "attention_mask": ids, "completion_mask": ids, "label": label,
        "ref_logps": reference.sum(-1), "ref_KL_logps": near.sum(-1),
    }  # fmt: skip
    expected = trl.kto._compute_loss(trainer, trainer.model, batch, False)
    kl = (far.sum(-1) - near.sum(-1)).mean().clamp_min(0).expand(rows)
    found = kto_loss(policy.sum(-1), reference.sum(-1), label, kl, beta, desirable=good, undesirable=bad)
    torch.testing.assert_close(found.mean(), expected, **close)
    objective = Kto(beta, good, bad)
    mine = {"loss_mask": torch.ones(rows, time), "ref_logp": reference.sum(-1), "label": label, "kl": kl}
    result = objective(Output(logp=policy), mine)
    torch.testing.assert_close(result.total / objective.weight(mine), expected, **close)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("margin", [None, 0.5])
def test_reward(trl, centring, margin):
    scores = numbers(3, 8, 1, scale=2)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=Same(), _total_train_tokens=0, _tp_size=1,
        args=SimpleNamespace(center_rewards_coefficient=centring), _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {"attention_mask": torch.ones(8, 2)} | ({"margin": torch.tensor(margin)} if margin else {})
    expected = trl.reward.compute_loss(trainer, lambda **_: SimpleNamespace(logits=scores), inputs)
    chosen, rejected = scores.squeeze(-1).chunk(2)
    found = reward_loss(chosen, rejected, margin=margin or 0.0, centring=centring or 0.0)
    torch.testing.assert_close(found.mean(), expected, **close)

    # the objective reads the number at the reply's last token
    values = numbers(4, 8, 6)
    mask = torch.zeros(8, 6)
    for row in range(8):
        mask[row, 1 : 2 + row % 4] = 1
        values[row, 2 + row % 4] = scores[row, 0]
    batch = {"loss_mask": mask, "pair": torch.arange(4).repeat(2), "label": torch.tensor([1] * 4 + [0] * 4)}
    objective = Reward(margin or 0.0, centring or 0.0)
    result = objective(Output(values=values), batch)
    torch.testing.assert_close(result.total / objective.weight(batch), expected, **close)


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("high", [None, 0.28])
def test_grpo_and_its_denominators(trl, kind, beta, high):
    rows, time = 6, 7
    logp, old, reference = (-numbers(i, rows, time).abs() for i in range(3))
    advantage = numbers(9, rows)
    mask = (torch.arange(time) < 2 + torch.arange(rows)[:, None]).double()
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=Same(), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token", beta=beta, epsilon_low=0.2,
        epsilon_high=high or 0.2, loss_type=kind, use_vllm=False, max_completion_length=11, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1, _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        _log_metric=lambda *_: None,
    )  # fmt: skip
    ones = torch.ones(rows, 1, dtype=torch.int64)
    inputs = {
        "prompt_ids": ones, "prompt_mask": ones, "completion_ids": torch.ones(rows, time, dtype=torch.int64),
        "completion_mask": mask, "advantages": advantage, "old_per_token_logps": old,
        "ref_per_token_logps": reference, "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = trl.grpo._compute_loss(trainer, None, inputs)
    objective = Grpo(kind, 11, 0.2, high, beta)
    batch = {
        "loss_mask": mask, "old_logp": old, "ref_token_logp": reference,
        "advantage": advantage[:, None].expand(-1, time), "correction": torch.ones_like(mask),
    }  # fmt: skip
    result = objective(Output(logp=logp), batch)
    torch.testing.assert_close(result.total / objective.weight(batch), expected, **close)


@pytest.mark.parametrize("scale", [True, False])
def test_group_advantages_are_trls_formula(scale):
    rewards = numbers(1, 12)
    grouped = rewards.view(-1, 4)  # trl.trainer.grpo_trainer: mean and std of each group, repeated
    mean, std = (x.repeat_interleave(4) for x in (grouped.mean(1), grouped.std(1)))
    expected = (rewards - mean) / (std + 1e-4) if scale else rewards - mean
    torch.testing.assert_close(group_advantages(rewards, 4, scale=scale), expected, **close)


@pytest.mark.parametrize(
    ("divergence", "beta"), [("forward", 0.0), ("reverse", 1.0), ("js", 0.3), ("js", 0.5)]
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation(trl, divergence, beta, temperature):
    student, teacher = numbers(0, 3, 4, 11, scale=3), numbers(1, 3, 4, 11, scale=3)
    labels = torch.ones(3, 4, dtype=torch.int64)
    labels[0, 1:] = -100
    expected = trl.gkd.generalized_jsd_loss(
        student, teacher, labels, beta=beta, temperature=temperature, reduction="sum"
    )
    each = distill_loss(student, teacher, divergence=divergence, temperature=temperature, mix=beta or 0.5)
    torch.testing.assert_close((each * (labels != -100)).sum(), expected, **close)


# ---- PPO: TRL has none any more, so torchrl's ------------------------------------------------------------


@pytest.fixture(scope="module")
def torchrl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchrl.objectives.value.functional")


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.97, 0.9), (0.9, 0.0), (1.0, 1.0)])
def test_gae(torchrl, gamma, lam):
    rewards, values = numbers(0, 4, 9), numbers(1, 4, 9)
    done = torch.zeros(4, 9, 1, dtype=torch.bool)
    done[:, -1] = True
    following = torch.cat([values[:, 1:], torch.zeros(4, 1, dtype=torch.float64)], 1)
    expected = torchrl.generalized_advantage_estimate(
        gamma, lam, values[..., None], following[..., None], rewards[..., None], done, done
    )
    found = gae(rewards, values, torch.ones(4, 9), gamma=gamma, gae_lambda=lam)
    for ours, theirs in zip(found, expected, strict=True):  # torchrl rounds gamma and lambda to float32
        torch.testing.assert_close(ours, theirs.squeeze(-1), rtol=1e-6, atol=1e-7)


def test_the_clipped_surrogate_and_value_loss_are_those_of_the_papers():
    """Schulman et al. 2017, eq. 7, case by case: which side binds depends on the sign of the advantage."""
    logp = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0], dtype=torch.float64).log()
    advantage = torch.tensor([2.0, 2.0, -2.0, -2.0, 3.0], dtype=torch.float64)
    expected = -torch.tensor([1.2 * 2, 0.5 * 2, 1.5 * -2, 0.8 * -2, 3.0], dtype=torch.float64)
    torch.testing.assert_close(ppo_loss(logp, torch.zeros(5), advantage, clip_epsilon=0.2), expected, **close)
    higher = ppo_loss(logp[:1], torch.zeros(1), advantage[:1], clip_epsilon=0.2, clip_epsilon_high=0.4)
    torch.testing.assert_close(higher, torch.tensor([-2.8], dtype=torch.float64), **close)
    values = torch.tensor([1.0, 0.0, 5.0], dtype=torch.float64)
    old, returns = torch.zeros(3, dtype=torch.float64), torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64)
    found = value_loss(values, old, returns, clip=0.2)
    torch.testing.assert_close(found, 0.5 * torch.tensor([1.8**2, 0.0, 4.8**2], dtype=torch.float64), **close)
    torch.testing.assert_close(value_loss(values, old, returns, clip=None), 0.5 * (values - returns) ** 2)

"""What surrounds a set of rollouts: who scores it, what is logged, what it costs in memory and in steps."""

from __future__ import annotations

import pytest
import torch
from random_models import random_model

from trivium.batches.context import PhaseContext
from trivium.batches.online import RewardFunction, critic_rollouts, drift, group_rollouts
from trivium.batches.prompts import Prompts
from trivium.batches.rollouts import Rollout
from trivium.batches.rows import BatchSharding
from trivium.errors import ArtifactError, DataError
from trivium.generate.slots import Completion
from trivium.model import lora, scalar
from trivium.model.scalar import ActorCritic
from trivium.phases import PHASES
from trivium.recipe.alignment import GrpoStage, PpoStage

WORDS = ("a dog sees the ball", "the cat", "nobody", "my friend")


def prompt(text: str) -> dict[str, object]:
    return {"prompt": [{"role": "user", "content": text}]}


@pytest.fixture
def make(chat, tmp_path, write_lines):
    """The context of a ppo or grpo stage over four prompts, its events and its network."""

    def build(kind: str, reward_vocabulary: int = 320, **fields):
        write_lines(tmp_path / "data" / "train.jsonl", [prompt(text) for text in WORDS])
        write_lines(tmp_path / "data" / "heldout.jsonl", [prompt("the teacher")])
        judge = scalar.Scalar(random_model(reward_vocabulary, seed=9))
        torch.nn.init.normal_(judge.score.weight, generator=torch.Generator().manual_seed(1))
        scalar.save(judge, tmp_path / "judge", eos=2, pad=1)
        stage = {"ppo": PpoStage, "grpo": GrpoStage}[kind]
        config = stage.model_validate(
            {"kind": kind, "data": "data", "init": "x", "reward_model": "judge", "steps": 2, "batch": 4, "device": "cpu",
             "context": 64, "max_new_tokens": 6, "precision": "float32", **fields}
        )  # fmt: skip
        model = random_model()
        if config.adapter is not None:
            lora.attach(model, config.adapter, torch.Generator().manual_seed(7))
        network = PHASES[kind].network(model, config)
        events: list[dict] = []
        source = PhaseContext(
            config=config, model=model, network=network, chat=chat, data=tmp_path / "data", work=tmp_path / "work", seed=3,
            emit=events.append, others={"reward_model": tmp_path / "judge"},
        )  # fmt: skip
        return source, events

    return build


def bytes_of(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def test_ppo_says_what_each_of_its_models_holds(make):
    source, events = make("ppo")
    found = critic_rollouts(source).account["memory"]
    one = bytes_of(random_model())
    head = 32 * 4
    assert found == {
        "policy": one,
        "reference": one,
        "reward": one + head,
        "value": one + head,
        "trained": 2 * one + head,
    }
    [said] = [event["message"] for event in events if event["event"] == "message"]
    for name in ("policy", "reference", "reward", "value"):
        assert f"{name} 0.2 MB" in said


def test_an_adapter_and_one_trunk_leave_one_model_in_memory(make):
    source, _ = make("ppo", adapter={"rank": 2}, share_trunk=True)
    found = critic_rollouts(source).account["memory"]
    one, head = bytes_of(random_model()), 32 * 4
    assert found["reference"] == 0 and found["value"] == head
    small = found["policy"] - one
    assert 0 < small < one / 2 and found["trained"] == small + head


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_the_reference_of_an_adapter_is_its_base(make, quantize):
    """Whatever the adapter has learnt: switched off, it is the checkpoint that it stands beside, to the bit."""
    source, _ = make("grpo", adapter={"rank": 2, "dropout": 0.1, "quantize": quantize})
    batch = {
        "tokens": torch.randint(0, 320, (3, 20), generator=torch.Generator().manual_seed(0)),
        "positions": torch.arange(20).expand(3, 20),
    }
    batch["targets"] = batch["tokens"].roll(-1, 1)
    with torch.no_grad():
        before = source.model(batch, {"logp"}).logp
        for name, parameter in source.model.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        base, policy = lora.Base(source.model)(batch, {"logp"}).logp, source.model(batch, {"logp"}).logp
        plain = random_model()(batch, {"logp"}).logp
    assert torch.equal(base, before) and not torch.allclose(policy, before, atol=0.1)
    assert torch.allclose(base, plain, atol=1e-5 if quantize == "none" else 0.5)


def test_the_log_of_a_set_measures_the_distance_from_the_base(make):
    """At the start the policy is the reference; after its adapter moved it is not."""
    source, events = make("grpo", adapter={"rank": 2}, group=2, kl=0.1)
    rollouts = group_rollouts(source).ordered(BatchSharding(3, 4, 4), 2)
    rollouts.batch(0)
    for name, parameter in source.model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    rollouts.batch(1)
    first, second = [event for event in events if event["event"] == "rollouts"]
    assert first["kl"] == pytest.approx(0, abs=1e-6) and second["kl"] > 0.01
    assert first["sampler_gap"] < 1e-4


def test_a_reward_model_of_another_vocabulary_is_refused(make):
    source, _ = make("grpo", reward_vocabulary=400)
    with pytest.raises(ArtifactError, match="400 tokens and the policy 320"):
        group_rollouts(source)


def test_an_epoch_shows_each_prompt_once(make):
    """A batch of 4 replies in groups of 2 is 2 prompts: 4 prompts, each gone through 3 times, are 6 steps."""
    source, _ = make("grpo", group=2, updates=3)
    items = group_rollouts(source)
    assert items.train.count * source.config.repeats / source.config.batch == 6
    plan = items.ordered(BatchSharding(3, 4, 4), 6)
    assert sorted({n for number in range(2) for n in plan._asked(number)}) == [0, 1, 2, 3]


def reply(text: str, finished: bool = True) -> tuple[str, Completion]:
    return text, Completion([1], [0.0], finished)


def rollout(*replies: tuple[str, Completion]) -> Rollout:
    return Rollout([{}] * len(replies), [t for t, _ in replies], [c for _, c in replies], {})


def test_rewards_are_added_and_an_open_end_is_paid_for():
    made = rollout(reply("yes"), reply("no"), reply("yes", finished=False))
    score = lambda record, text: float(text == "yes")  # noqa: E731
    assert RewardFunction(score, None)(made, None).tolist() == [1, 0, 1]
    assert RewardFunction(score, None, 0.25)(made, None).tolist() == [1, 0, 0.75]


def test_drift_shows_repetition_and_refusals_and_distance():
    made = rollout(reply("I cannot help with that."), reply("a b c d a b c d"))
    mask = torch.tensor([[1.0, 0], [1, 1]])
    tensors = {"loss_mask": mask, "old_logp": torch.tensor([[-1.0, 9], [-1, -1]])}
    found = drift(made, torch.tensor([0.0, 2.0]), tensors, torch.tensor([[-1.0, -9], [-1, -2]]))
    said = {name.removeprefix("log/"): float(value) for name, value in found.items()}
    assert said["reward"] == 1 and said["reward_std"] == 1 and said["refusals"] == 0.5
    assert said["repetition"] == pytest.approx(0.1)
    assert said["kl"] == pytest.approx((0.36788 - 1 + 1) / 3, abs=1e-4)  # k3 of a nat, over three tokens


def test_truncated_replies_can_be_left_out_of_the_loss(make):
    source, events = make("grpo", group=2, skip_truncated=True, max_new_tokens=1)
    [batch] = group_rollouts(source).ordered(BatchSharding(3, 4, 4), 2).batch(0)
    assert batch["loss_mask"].sum() == 0 and batch["advantage"].isfinite().all()
    [said] = [event for event in events if event["event"] == "rollouts"]
    assert said["tokens"] == 1 and said["finished"] == 0  # what was said, though it teaches nothing


def test_prompts_that_leave_no_room_are_named(make, chat, write_lines, tmp_path):
    source, events = make("grpo")
    write_lines(tmp_path / "data" / "train.jsonl", [prompt("7" * 90), prompt("a dog"), prompt("8" * 90)])
    items = group_rollouts(source)
    assert items.account["prompts_too_long"] == 2 and items.account["rows_too_long"] == [1, 3]
    [said] = [event["message"] for event in events if event["event"] == "warning"]
    assert "2 prompts" in said and "rows 1, 3" in said
    with pytest.raises(DataError, match="no prompt leaves room"):
        Prompts.build([prompt("7" * 90)], chat, 64, 6)


def test_one_token_replies_have_no_spread_and_no_warning(make):
    source, events = make("ppo", max_new_tokens=1, batch=1)
    [batch] = critic_rollouts(source).ordered(BatchSharding(3, 1, 1), 2).batch(0)
    assert batch["returns"].isfinite().all()
    [said] = [event for event in events if event["event"] == "rollouts"]
    assert all(value == value for value in said.values()), "nothing is NaN"


def test_the_critic_is_trained_beside_the_policy(make):
    source, _ = make("ppo")
    assert isinstance(source.network, ActorCritic) and source.network.policy is source.model

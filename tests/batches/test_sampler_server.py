"""Rollouts from a real server with a model of its own: what it said, how far its weights are from ours, what makes up for it."""

from __future__ import annotations

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import Server, raw, send
from random_models import random_model

from trivium.batches.context import PhaseContext
from trivium.batches.online import group_rollouts
from trivium.batches.rows import BatchSharding
from trivium.errors import DataError
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.model import hf, lora
from trivium.recipe.alignment import GrpoStage
from trivium.verify import VERIFIERS, VerifierKind


class Sampler(Server):
    """Answers with a checkpoint, and takes another one when it is told where that is."""

    def __init__(self, stops: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.stops, self.loads = random_model(), stops, 0
        self.plan = [self.answer]

    def answer(self, handler: Any, body: Any) -> None:
        if self.seen[-1]["path"] == "/update_weights_from_disk":
            self.model, self.loads = hf.load(Path(body["model_path"])).eval(), self.loads + 1
            return send(handler, 200, b'{"success": true}')
        sampling = SamplingParams(body["temperature"], body["top_p"], body["max_tokens"], body["seed"])
        [made] = complete(self.model, [body["prompt"]], sampling, body["stop_token_ids"])
        shown = {"tokens": [f"token_id:{i}" for i in made.ids], "token_logprobs": made.logp}
        choice = {"text": "", "logprobs": shown, "finish_reason": "stop" if made.finished else "length"}
        return send(handler, 200, json.dumps({"choices": [choice]}).encode())


@pytest.fixture
def server(chat):
    made = Sampler(chat.stops)
    yield made
    made.close()


@pytest.fixture
def make(chat, tmp_path, write_lines, server, monkeypatch):
    def build(reload: bool, **fields: Any):
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("a dog", "the cat", "nobody")]
        write_lines(tmp_path / "data" / "train.jsonl", rows)
        write_lines(tmp_path / "data" / "heldout.jsonl", [])
        rollout_server = {"url": server.url, "model": "policy", "parallel": 2, "retries": 0}
        if reload:
            rollout_server["reload"] = server.url.replace("/v1", "/update_weights_from_disk")
        config = GrpoStage.model_validate(
            {"kind": "grpo", "data": "data", "init": "x", "reward": "exact", "steps": 2, "batch": 4, "group": 2, "context": 64,
             "max_new_tokens": 8, "device": "cpu", "precision": "float32", "rollout_server": rollout_server, **fields}
        )  # fmt: skip
        model, events = random_model(), []
        if config.adapter is not None:
            lora.attach(model, config.adapter, torch.Generator().manual_seed(7))
        monkeypatch.setitem(
            VERIFIERS, "exact", VerifierKind(lambda config, folder: lambda record, text: len(text) % 3)
        )
        context = PhaseContext(
            config=config, model=model, network=model, chat=chat, data=tmp_path / "data", work=tmp_path / "work", seed=3,
            emit=events.append,
        )  # fmt: skip
        return model, group_rollouts(context).ordered(BatchSharding(3, 4, 4), 2), events

    return build


def gaps(events: list[dict[str, Any]]) -> list[float]:
    return [event["sampler_gap"] for event in events if event["event"] == "rollouts"]


def move(model: torch.nn.Module, names: str = "") -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and names in name and parameter.requires_grad:
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))


def test_a_server_with_our_weights_needs_no_correction(make, server):
    _, rollouts, events = make(reload=False)
    [batch] = rollouts.batch(0)
    assert gaps(events)[0] < 1e-4 and batch["correction"].allclose(torch.ones(()), atol=1e-4)
    assert {one["path"] for one in server.seen} == {"/v1/completions"} and len(server.seen) == 4
    assert len({one["seed"] for one in server.seen}) == 4  # the replies of a group differ
    assert batch["loss_mask"].sum() > 4
    rollouts.batch(0)
    assert len(server.seen) == 4  # a set is on the disk


def test_a_server_left_behind_is_corrected_token_by_token_and_the_gap_is_told(make, server):
    """The weights are trainer over sampler, cut at `importance_weight_cap`: by hand, from two fresh passes."""
    model, rollouts, events = make(reload=False, importance_weight_cap=1.5)
    move(model)
    [batch] = rollouts.batch(0)
    on = batch["loss_mask"] > 0
    with torch.no_grad():
        ours, theirs = (one(batch, {"logp"}).logp[on] for one in (model, server.model))
    expected = (ours - theirs).exp()
    assert (expected > 1.5).any() and (expected < 1).any()
    torch.testing.assert_close(batch["correction"][on], expected.clamp_max(1.5), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch["old_logp"][on], ours, rtol=1e-4, atol=1e-4)
    assert gaps(events)[0] == pytest.approx(float((ours - theirs).abs().mean()), rel=1e-3)


@pytest.mark.parametrize("adapter", [None, {"rank": 2}])
def test_a_server_that_reloads_follows_the_policy(make, server, adapter):
    model, rollouts, events = make(reload=True, adapter=adapter)
    rollouts.batch(0)
    move(model)
    rollouts.batch(1)
    assert server.loads == 2 and max(gaps(events)) < 1e-3
    probe = {
        "tokens": torch.tensor([[5, 6, 7]]),
        "positions": torch.arange(3)[None],
        "targets": torch.tensor([[6, 7, 8]]),
    }
    with torch.no_grad():
        moved, start = model(probe, {"logp"}).logp, random_model()(probe, {"logp"}).logp
        assert not torch.allclose(moved, start, atol=1e-2)
        torch.testing.assert_close(server.model(probe, {"logp"}).logp, moved, rtol=1e-4, atol=1e-4)


def test_the_server_writes_the_next_sets_while_this_one_is_trained_on(make, server):
    """Set 1 is under way and held back, and set 0 is there all the same; its replies are those of the weights of then."""
    _, rollouts, events = make(reload=True, staleness=1)
    go, answer = threading.Event(), server.answer

    def later(handler: Any, body: Any) -> None:
        if sum("prompt" in one for one in server.seen) > 4:  # those of set 0 have been answered
            go.wait(300)
        answer(handler, body)

    server.plan = [later]
    [first] = rollouts.batch(0)
    assert first["loss_mask"].sum() > 0 and not go.is_set() and server.loads == 2
    then = copy.deepcopy(rollouts.network)
    move(rollouts.network)  # a step is taken
    server.plan = [answer]
    go.set()
    [second] = rollouts.batch(1)
    on = second["loss_mask"] > 0
    with torch.no_grad():
        now, old = (one(second, {"logp"}).logp[on] for one in (rollouts.network, then))
    torch.testing.assert_close(second["old_logp"][on], now, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second["correction"][on], (now - old).exp().clamp_max(2), rtol=1e-3, atol=1e-3)
    assert gaps(events)[0] < 1e-3 < gaps(events)[1]


def test_a_server_of_another_vocabulary_or_none_at_all_is_said_so(make, server):
    shown = {"tokens": ["token_id:999"], "token_logprobs": [-1.0]}
    server.plan = [raw(json.dumps({"choices": [{"logprobs": shown, "finish_reason": "stop"}]}).encode())]
    _, rollouts, _ = make(reload=False)
    with pytest.raises(DataError, match="token 999 is none of the policy's 320"):
        rollouts.batch(0)
    server.close()
    with pytest.raises(DataError, match="no answer after 1 tries"):
        rollouts.batch(0)

"""A number at each place instead of words: reward models, and the critic beside a policy."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor, nn

from trivium.errors import ArtifactError
from trivium.files import read_json, write_json
from trivium.model import hf, lora
from trivium.model.transformer import Transformer
from trivium.recipe.network import Adapter
from trivium.types import Batch, Output

SUFFIX = "ForSequenceClassification"
_CLASSIFIERS = {
    "gemma3_text": "Gemma3TextForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
}
"""Where the name does not follow from that of the model for text."""


class Scalar(nn.Module):
    """A transformer whose words are left out: one number from each final hidden state."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.trunk, self.config = trunk, trunk.config
        self.score = nn.Linear(trunk.config.dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)  # begins by saying 0 to everything

    def forward(self, batch: Batch, want: Set[str]) -> Output:
        """`values` (B, T) float32."""
        return Output(values=self.score(self.trunk.states(batch)).squeeze(-1).float())


class ActorCritic(nn.Module):
    """A policy and its critic, trained together. `critic` None shares the policy's trunk: half the memory."""

    def __init__(self, policy: Transformer, critic: Transformer | None) -> None:
        super().__init__()
        self.policy, self.config = policy, policy.config
        self.critic = Scalar(critic) if critic is not None else None
        if self.critic is None:
            self.score = nn.Linear(policy.config.dim, 1, bias=False)
            nn.init.zeros_(self.score.weight)

    def forward(self, batch: Batch, want: Set[str]) -> Output:
        hidden = self.policy.states(batch)
        out = self.policy.outputs(hidden, batch, want - {"values"})
        if "values" not in want:
            return out
        if self.critic is None:
            return out._replace(values=self.score(hidden).squeeze(-1).float())
        return out._replace(values=self.critic(batch, {"values"}).values)


def save(model: Scalar, folder: Path, *, eos: int, pad: int) -> None:
    """Writes a reward model in the layout that transformers' sequence classifiers load (one label)."""
    hf.save(model.trunk, folder, eos=eos, pad=pad)
    config = read_json(folder / "config.json")
    name = _CLASSIFIERS.get(config["model_type"])
    name = name or config["architectures"][0].removesuffix("ForCausalLM") + SUFFIX
    write_json(folder / "config.json", config | {"architectures": [name], "num_labels": 1})
    state = {n: t for n, t in model.trunk.state_dict().items() if n != "lm_head.weight"}
    hf.save_weights(model.config, state | {"score.weight": model.score.weight}, folder)


def merged(model: Scalar, adapter: Adapter) -> Scalar:
    """A reward model without adapters that says what `model`, whose trunk has some, says."""
    plain = Scalar(lora.merged(model.config, model.trunk.state_dict(), adapter))
    plain.score.weight = model.score.weight
    return plain


def load(folder: Path, *, device: str = "cpu") -> Scalar:
    """The reward model in `folder`. ArtifactError where it holds none, or a damaged one."""
    header, state = hf.read(folder, trainable=True)
    config = header.config
    score = state.pop("score.weight", None)
    if score is None:
        raise ArtifactError(
            f"{folder} is no reward model: it has no score.weight",
            fix="name a `reward` stage, or a checkpoint of one",
        )
    if not config.tie_embeddings:  # the head of words was not kept; it is never asked
        state["lm_head.weight"] = torch.zeros(config.vocab_size, config.dim)
    model = Scalar(hf.build(config, state, folder))
    with torch.no_grad():
        model.score.weight.copy_(score)
    return model.to(device)


@torch.no_grad()
def reply_scores(model: Scalar, batch: Batch, last: Tensor) -> Tensor:
    """The reward of each row's reply: the number at its last token, `last` (B,) -> (B,) float32."""
    values: Tensor = model(batch, {"values"}).values
    return values.gather(-1, last[:, None]).squeeze(-1)

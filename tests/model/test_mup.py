"""Width transfer: what is scaled, and that activations and updates keep their size as the model grows."""

from __future__ import annotations

import families
import pytest
import torch

from trivium.model import hf
from trivium.model.config import ModelConfig
from trivium.model.transformer import Transformer
from trivium.recipe.network import ModelShape
from trivium.recipe.training import PretrainStage
from trivium.train.optim import adamw

CONFIG = PretrainStage.model_validate(
    dict(kind="pretrain", data="a", tokenizer="b", steps=9, lr=0.01, weight_decay=0.2)
)


def network(dim: int, mup: bool = True) -> Transformer:
    shape = ModelShape(dim=dim, layers=2, heads=dim // 16, context=64, mup=mup, mup_base=32)
    made = Transformer(ModelConfig.from_shape(shape, 97))
    made.initialise(torch.Generator().manual_seed(1))
    return made


def test_groups_of_a_model_eight_times_as_wide():
    model = network(256)
    shares = {}
    for group in adamw(model, CONFIG).param_groups:
        for parameter in group["params"]:
            shares[parameter] = (group["peak"] / 0.01, round(group["weight_decay"], 6))
    for name, parameter in model.named_parameters():
        inner = parameter.dim() == 2 and "layers" in name
        expected = (1 / 8, 1.6) if inner else (1.0, 0.2 if parameter.dim() == 2 else 0.0)
        assert shares[parameter] == pytest.approx(expected), name
    assert float(model.model.layers[0].mlp.up_proj.weight.detach().std()) == pytest.approx(
        0.02 / 8**0.5, rel=0.05
    )
    assert float(model.model.embed_tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_without_mup_nothing_is_scaled():
    groups = adamw(network(256, mup=False), CONFIG).param_groups
    assert {group["peak"] for group in groups} == {0.01}


def test_transformers_reads_it_as_granite(tmp_path):
    from transformers import AutoModelForCausalLM

    model = network(64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    hf.save(model, tmp_path, eos=96, pad=1)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert expected.std() > 0.05
    assert (families.logits(model, families.tokens()) - expected).abs().max() < 1e-4
    assert hf.load(tmp_path).config == model.config  # later phases know the ratio


@pytest.mark.parametrize("mup", [True, False])
def test_how_far_training_moves_the_logits_does_not_depend_on_width_under_mup(mup):
    """The coordinate check of Yang et al. 2022, appendix D.1: after some steps of Adam, the change of the logits."""
    tokens = families.tokens(4, 33)
    positions = torch.arange(32).expand(4, 32)
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "positions": positions}
    moved = {}
    for dim in (32, 256):
        model = network(dim, mup)
        optimizer = adamw(model, CONFIG)
        start = families.logits(model, batch["tokens"])
        for _ in range(4):
            (-model(batch, {"logp"}).logp.mean()).backward()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"]
            optimizer.step()
            optimizer.zero_grad()
        moved[dim] = float((families.logits(model, batch["tokens"]) - start).std())
    growth = moved[256] / moved[32]
    assert (0.5 < growth < 2) if mup else growth > 2.5

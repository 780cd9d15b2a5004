"""Adapters: the same numbers as peft's, nothing else trained, and a kill does not show."""

from __future__ import annotations

import families
import pytest
import torch

from trivium.errors import ArtifactError
from trivium.model import hf, lora
from trivium.recipe.network import Adapter


def adapted(name: str, folder, **changes):
    families.checkpoint(name, folder)
    model = hf.load(folder)
    adapter = Adapter(rank=4, **changes)
    lora.attach(model, adapter, torch.Generator().manual_seed(1))
    return model, adapter


def shake(model) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(tmp_path, quantize):
    model, _ = adapted("qwen2", tmp_path, quantize=quantize)
    before = families.logits(hf.load(tmp_path), families.tokens())
    after = families.logits(model, families.tokens())
    assert (before - after).abs().max() < (1e-5 if quantize == "none" else 0.1 * before.std())
    names = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert names == {"lora_A", "lora_B"}
    hidden = model.hidden(families.tokens(), torch.arange(40).expand(2, 40), None)
    hidden.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("name", "targets"),
    [("qwen2", None), ("llama, biases", ["q_proj", "v_proj"]), ("qwen3", ["down_proj"]), ("glm4 moe", None)],
)
def test_peft_reads_it_and_gives_the_same_logits(tmp_path, name, targets):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, adapter = adapted(name, tmp_path / "base", alpha=7.0, **({"targets": targets} if targets else {}))
    shake(model)
    ours = families.logits(model, families.tokens())
    lora.save(model.state_dict(), adapter, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert (ours - expected).abs().max() < 1e-4
    assert (families.logits(hf.load(tmp_path / "base"), families.tokens()) - ours).abs().max() > 0.01
    merged = lora.merged(model.config, model.state_dict(), adapter)
    assert (families.logits(merged, families.tokens()) - expected).abs().max() < 1e-4
    hf.save(merged, tmp_path / "merged", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (again(families.tokens()).logits - expected).abs().max() < 1e-4


LAYERS = ["q_proj", "down_proj"]
VARIANTS = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "both": {"rslora": True, "dora": True, "alpha": 3.0},
    "head": {"targets": ["lm_head"]},
    "embeddings": {"targets": [*LAYERS, "embed_tokens"]},
    "head and embeddings, dora": {"targets": [*LAYERS, "lm_head", "embed_tokens"], "dora": True},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama, biases", "qwen2"])  # qwen2's embeddings are tied
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_those_of_peft(tmp_path, name, variant):
    """Before and after it was trained: logits, gradients, the exported folder, the merged model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, adapter = adapted(name, tmp_path / "base", **VARIANTS[variant])
    tokens = families.tokens()
    start = families.logits(hf.load(tmp_path / "base"), tokens)
    assert (families.logits(model, tokens) - start).abs().max() < 1e-5
    shake(model)
    ours = families.logits(model, tokens)
    assert (ours - start).abs().max() > 0.01
    lora.save(model.state_dict(), adapter, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()
    logits = theirs(tokens).logits
    assert (ours - logits).abs().max() < 1e-5 * max(1.0, float(logits.abs().max()))
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    batch = {"tokens": tokens, "targets": tokens.roll(-1, 1), "positions": positions}
    model(batch, {"logp"}).logp.sum().backward()
    logits.log_softmax(-1).gather(-1, batch["targets"][..., None]).sum().backward()
    gradients = {
        n.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight"): p.grad
        for n, p in theirs.named_parameters()
        if p.requires_grad
    }
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == gradients.keys()
    for key, gradient in trained.items():
        assert torch.allclose(
            gradient, gradients[key], rtol=1e-3, atol=1e-3 * float(gradients[key].abs().max())
        ), key
    merged = lora.merged(model.config, model.state_dict(), adapter)
    assert (families.logits(merged, tokens) - ours).abs().max() < 1e-4
    hf.save(merged, tmp_path / "merged", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (again(tokens).logits - ours).abs().max() < 1e-4
    switched_off = lora.Base(model)(batch, {"logits"}).logits
    assert (switched_off - start).abs().max() < 1e-5


def test_int8_merges_what_it_computed_with(tmp_path):
    model, adapter = adapted("qwen2", tmp_path, quantize="int8")
    shake(model)
    merged = lora.merged(model.config, model.state_dict(), adapter)
    difference = families.logits(merged, families.tokens()) - families.logits(model, families.tokens())
    assert difference.abs().max() < 1e-4
    linear = model.model.layers[0].mlp.up_proj
    assert linear.weight.dtype == torch.int8


def test_dropout_only_while_training(tmp_path):
    model, _ = adapted("llama 2", tmp_path, dropout=0.5)
    shake(model)
    model.train()
    tokens = families.tokens()
    assert torch.equal(families.logits(model, tokens), families.logits(model, tokens))  # without gradients
    positions = torch.arange(40).expand(2, 40)
    assert not torch.equal(model.hidden(tokens, positions, None), model.hidden(tokens, positions, None))


def test_targets_that_the_model_has_not(tmp_path):
    with pytest.raises(ArtifactError, match="no layer for adapters among gate_proj"):
        adapted("glm4 moe", tmp_path, targets=["gate_proj"])

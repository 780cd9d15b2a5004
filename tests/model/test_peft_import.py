"""Adapters saved by peft, with their base: the logits of peft's own model, whatever the targets and the kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from safetensors.torch import load_file, save_file

from trivium.errors import ArtifactError
from trivium.model import hf
from trivium.model.peft import merged
from trivium.model.source import identity, sources

pytestmark = pytest.mark.filterwarnings("ignore")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "a list": ("llama 2", dict(target_modules=["q_proj", "down_proj"])),
    "a pattern": ("qwen2", dict(target_modules=r".*\.[024]\.(self_attn\.[qv]_proj|mlp\.up_proj)")),
    "all linear layers": ("qwen3", dict(target_modules="all-linear", use_rslora=True)),
    "modules whole, untied": ("qwen2", dict(target_modules=["v_proj"], modules_to_save=["lm_head", "norm"])),
    "modules whole": (
        "llama 2",
        dict(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    ),
    "embeddings": ("llama 2", dict(target_modules=["embed_tokens", "o_proj"])),
    "tied embeddings": ("qwen2", dict(target_modules=["embed_tokens"])),
    "head": ("llama 2", dict(target_modules=["lm_head", "gate_proj"])),
    "patterns of rank and alpha": (
        "llama 3",
        dict(
            target_modules=["q_proj", "k_proj"],
            rank_pattern={"k_proj": 2},
            alpha_pattern={r"layers\.1\.self_attn\.q_proj": 1},
        ),
    ),
    "magnitudes": ("llama 2", dict(target_modules="all-linear", use_dora=True)),
    "magnitudes by the root of the rank": (
        "llama 2",
        dict(target_modules=["q_proj"], use_dora=True, use_rslora=True),
    ),
    "biases": ("llama, biases", dict(target_modules=["q_proj", "up_proj"], bias="all")),
    "fused layers": ("phi 3", dict(target_modules="all-linear")),
    "turned matrices": ("gpt 2", dict(target_modules=["c_attn", "c_proj", "c_fc"])),
    "a bias of its own": ("llama, biases", dict(target_modules=["q_proj"], lora_bias=True)),
}


def adapted(name: str, folder: Path) -> torch.nn.Module:
    """peft's model of a case, saved beside its base, with numbers in everything that is trained."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    family, settings = CASES[name]
    families.checkpoint(
        next(c for c in families.CASES if c == family or c.startswith(family)), folder / "base"
    )
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=4, lora_alpha=9, task_type="CAUSAL_LM", **settings)
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save_pretrained(folder / "adapter")
    return model


def opened(folder: Path) -> torch.nn.Module:
    header, state = hf.read(
        folder / "base", trainable=True, adapted=lambda *base: merged(folder / "adapter", *base)
    )
    return hf.build(header.config, state, folder).eval()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_peft(tmp_path, name):
    theirs, tokens = adapted(name, tmp_path), families.tokens()
    with torch.no_grad():
        expected = theirs(tokens).logits
    ours = families.logits(opened(tmp_path), tokens)
    plain = families.logits(hf.load(tmp_path / "base").eval(), tokens)
    scale = float(expected.abs().max())
    assert float((ours - expected).abs().max()) < 1e-5 * max(scale, 1)
    assert float((plain - expected).abs().max()) > 1e-2  # and the adapter says something


def test_another_base_another_kind_and_a_cut_file_are_told(tmp_path):
    adapted("a list", tmp_path)
    families.checkpoint("gpt 2", tmp_path / "other")
    with pytest.raises(ArtifactError, match="not in the base") as raised:
        hf.read(tmp_path / "other", adapted=lambda *base: merged(tmp_path / "adapter", *base))
    assert "`base`" in raised.value.fix
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    gone = next(name for name in state if "lora_B" in name)
    save_file({name: tensor for name, tensor in state.items() if name != gone}, weights)
    with pytest.raises(
        ArtifactError, match=re.escape(gone.split(".lora_B")[0].removeprefix("base_model.model."))
    ):
        opened(tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(ArtifactError, match="IA3"):
        opened(tmp_path)


def test_an_adapter_is_known_by_its_files_and_those_of_its_base(tmp_path):
    adapted("a list", tmp_path)
    before = identity(tmp_path / "adapter", None, tmp_path / "base")
    assert "adapter_model.safetensors" in before and "model.safetensors" in before["base"]
    with pytest.raises(ArtifactError, match="is an adapter") as raised:
        sources(tmp_path / "adapter")
    assert "`base`" in raised.value.fix
    with pytest.raises(ArtifactError, match="is no adapter"):
        sources(tmp_path / "base", tmp_path / "base")

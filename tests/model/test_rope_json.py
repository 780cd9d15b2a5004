"""Every spelling of a rope means what transformers means by it, and nothing of it is lost on the way out."""

from __future__ import annotations

import json
from typing import Any

import families
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import ArtifactError
from trivium.model import hf
from trivium.model.families import from_huggingface, to_huggingface
from trivium.model.rope import rotary

POSITIONS = torch.arange(0, 60, 7)[None]
BASE = families.COMMON | {"rms_norm_eps": 1e-5, "head_dim": 16, "max_position_embeddings": 64}


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """One rope: its kind, numbers and optional keys, under either name of the kind."""
    kind = draw(st.sampled_from(["default", "linear", "llama3", "yarn"]))
    block: dict[str, Any] = {draw(st.sampled_from(["rope_type", "type"])): kind}
    if kind != "default":
        block["factor"] = draw(st.sampled_from([1.0, 2.0, 8.0, 40.0]))
    if kind in ("llama3", "yarn") and draw(st.booleans()):
        block["original_max_position_embeddings"] = draw(st.sampled_from([16, 32, 64]))
    if kind == "llama3":
        block |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
        block.setdefault("original_max_position_embeddings", 32)
    if kind == "yarn":
        numbers = st.sampled_from([0.7, 1.0, 1.3])
        for keys in (["attention_factor"], ["mscale", "mscale_all_dim"], ["mscale"]):
            if draw(st.booleans()):
                block |= {key: draw(numbers) for key in keys}
        if draw(st.booleans()):
            block |= {"beta_fast": draw(st.sampled_from([8.0, 32.0, None])), "truncate": draw(st.booleans())}
    return block


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """A Llama's config.json with one or two blocks and the base in any of the places where it may stand."""
    raw = dict(BASE)
    for name in draw(
        st.sampled_from([["rope_parameters"], ["rope_scaling"], ["rope_parameters", "rope_scaling"]])
    ):
        raw[name] = draw(blocks()) | ({"rope_theta": 5e5} if draw(st.booleans()) else {})
    if draw(st.booleans()):
        raw["rope_theta"] = 2e4
    return raw


def theirs(raw: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    copied = {k: dict(v) if isinstance(v, dict) else v for k, v in raw.items() if k != "model_type"}
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(**copied))(torch.zeros(1), POSITIONS)
    return cos[:, None], sin[:, None]


@settings(deadline=None, max_examples=150)
@given(files())
def test_any_spelling_turns_as_transformers_does_there_and_back(raw: dict[str, Any]) -> None:
    config = from_huggingface(raw | {"model_type": "llama"})
    ours, expected = rotary(POSITIONS, config), theirs(raw)
    for a, b in zip(ours[:2], expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    written = to_huggingface(config, bos=None, eos=1, pad=0)
    assert written["model_type"] == "llama"
    for a, b in zip(theirs(written), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_rope_scaling_beside_rope_parameters_gives_transformers_logits(tmp_path):
    """A file that an older program has added its block to: that block wins."""
    import json

    from transformers import AutoModelForCausalLM

    families.checkpoint("llama 3", tmp_path)
    path = tmp_path / "config.json"
    added = {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 7e4}
    path.write_text(json.dumps(json.loads(path.read_text()) | added))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ours = hf.load(tmp_path)
    with torch.no_grad():
        expected = model(families.tokens()).logits
    assert (families.logits(ours, families.tokens()) - expected).abs().max() < 1e-4
    hf.save(ours, tmp_path / "ours", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (again(families.tokens()).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["default", "linear", "llama3", "yarn"])
def test_an_unknown_key_is_named(kind):
    block = {
        "rope_type": kind,
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "wavelength": 3,
    }
    raw = BASE | {"model_type": "llama", "rope_parameters": block}
    with pytest.raises(ArtifactError, match=r"unknown keys: .*wavelength"):
        from_huggingface(raw)


def test_what_is_wrong_in_a_file_says_which_file(tmp_path):
    block = {"rope_type": "default", "rope_theta": 1e4, "factr": 2.0}
    raw = BASE | {"model_type": "llama", "rope_parameters": block}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="factr") as caught:
        hf.read_config(tmp_path)
    assert caught.value.where == str(tmp_path / "config.json")


def test_a_key_that_says_nothing_is_no_unknown_key():
    block = {"rope_type": "default", "factor": None, "rope_theta": 1e4}
    assert from_huggingface(BASE | {"model_type": "llama", "rope_parameters": block}).rope_scaling is None


def test_two_blocks_where_a_family_has_one_are_refused():
    nested = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}
    with pytest.raises(ArtifactError, match="full_attention, sliding_attention"):
        from_huggingface(BASE | {"model_type": "llama", "rope_parameters": nested})
    flat = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(ArtifactError, match="unknown keys: factor, rope_type"):
        from_huggingface(BASE | {"model_type": "gemma3_text", "rope_parameters": flat})

"""Every family: what transformers saves we compute to the same logits and text, and what we save it does."""

from __future__ import annotations

import json

import families
import pytest
import torch
from safetensors.torch import save_file

from trivium.errors import ArtifactError
from trivium.generate.engine import SamplingParams, generate
from trivium.model import hf
from trivium.model.families import from_huggingface


@pytest.mark.parametrize("name", families.CASES)
def test_same_logits_and_text_there_and_back(tmp_path, name):
    from transformers import AutoModelForCausalLM

    theirs = families.checkpoint(name, tmp_path / "theirs")
    ours = hf.load(tmp_path / "theirs").eval()
    tokens = families.tokens()
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert expected.std() > 0.1
    assert (families.logits(ours, tokens) - expected).abs().max() < 1e-4
    prompts = [tokens[0, :10].tolist(), tokens[1, :6].tolist()]  # padded together: windows count places
    replies = generate(ours, prompts, SamplingParams(max_new_tokens=14), stop=())
    for prompt, reply in zip(prompts, replies, strict=True):
        whole = [*prompt]
        for _ in reply:
            with torch.no_grad():
                whole.append(int(theirs(torch.tensor([whole])).logits[0, -1].argmax()))
        assert reply == whole[len(prompt) :]
    hf.save(ours, tmp_path / "ours", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        assert (again(tokens).logits - expected).abs().max() < 1e-4
    assert hf.load(tmp_path / "ours").config == ours.config


def test_shards_are_read_and_a_missing_one_is_named(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    with torch.no_grad():
        expected = theirs(families.tokens()).logits
    assert (families.logits(hf.load(tmp_path), families.tokens()) - expected).abs().max() < 1e-4
    shards[1].unlink()
    with pytest.raises(ArtifactError, match=f"1 of {len(shards)} shards are missing: {shards[1].name}"):
        hf.load(tmp_path)


def test_an_index_that_points_outside_is_refused(tmp_path):
    families.checkpoint("llama 2", tmp_path / "a", max_shard_size="40KB")
    index = tmp_path / "a" / hf.INDEX
    places = json.loads(index.read_text())
    places["weight_map"] = dict.fromkeys(places["weight_map"], "../secret.safetensors")
    index.write_text(json.dumps(places))
    with pytest.raises(ArtifactError, match="outside"):
        hf.load(tmp_path / "a")


def test_pickles_are_refused_and_not_opened(tmp_path):
    theirs = families.checkpoint("llama 2", tmp_path)
    weights = tmp_path / hf.WEIGHTS
    weights.unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pickled \(pytorch_model\.bin\).*runs whatever code"):
        hf.load(tmp_path)
    torch.save(theirs.state_dict(), weights)
    with pytest.raises(ArtifactError, match="pickle under another name"):
        hf.load(tmp_path)


def test_another_architecture_names_the_first_five_keys(tmp_path):
    families.checkpoint("qwen2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ArtifactError) as caught:
        hf.load(tmp_path)
    assert "15 names or shapes differ, the first five: " in caught.value.what
    assert caught.value.what.count("bias (config: none") == 5


def test_copies_of_tied_embeddings_and_tables_are_left_out(tmp_path):
    families.checkpoint("llama 3", tmp_path)
    state = hf.read_weights(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, tmp_path / hf.WEIGHTS, metadata={"format": "pt"})
    hf.load(tmp_path)
    state["lm_head.weight"] = state["lm_head.weight"] + 1  # no copy: not to be lost in silence
    save_file(state, tmp_path / hf.WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lm_head\.weight"):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "unknown keys: factor"),
    ],
)
def test_what_the_transformer_cannot_do_is_refused(changes, said):
    raw = families.COMMON | {"model_type": "llama", "rms_norm_eps": 1e-5} | changes
    with pytest.raises(ArtifactError, match=said):
        from_huggingface(raw)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"model_type": "llama"}', "\x00garbage"])
def test_a_config_of_garbage(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArtifactError):
        hf.load(tmp_path)

"""longrope (Phi-3, Phi-4): one list of factors for texts up to `original`, another for longer ones; as transformers has them."""

from __future__ import annotations

import families
import pytest
import torch

from trivium.errors import ArtifactError
from trivium.generate.batcher import Batcher, Request
from trivium.generate.engine import SamplingParams, generate
from trivium.generate.native import decoding
from trivium.generate.slots import written
from trivium.model import gguf_write, hf
from trivium.model.families import from_huggingface

NAME, ORIGINAL = "phi 3, longrope", 16


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phi")
    theirs = families.checkpoint(NAME, folder)
    return theirs, hf.load(folder).eval(), folder


@pytest.mark.parametrize("length", [1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 40])
def test_logits_on_both_sides(both, tmp_path, length):
    from transformers import AutoModelForCausalLM

    theirs, ours, _ = both
    tokens = families.tokens(length=length)
    with torch.no_grad():
        expected = theirs(tokens).logits
    assert (families.logits(ours, tokens) - expected).abs().max() < 1e-4
    hf.save(ours, tmp_path, eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert again.config.model_type == "phi3"
    with torch.no_grad():
        assert (again(tokens).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("length", [ORIGINAL - 1, ORIGINAL + 9])
def test_gradients_on_both_sides(both, length):
    """What every layer gives back meets in the embedding, and the last norm sees the head alone."""
    theirs, ours, _ = both
    tokens = families.tokens(length=length)
    weight = torch.randn(*tokens.shape, ours.config.vocab_size, generator=torch.Generator().manual_seed(3))
    positions = torch.arange(length).expand_as(tokens)
    for logits in (
        theirs(tokens).logits,
        ours({"tokens": tokens, "positions": positions}, {"logits"}).logits,
    ):
        (logits * weight[..., : logits.shape[-1]]).sum().backward()
    found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    names = ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight"]
    names += ["model.layers.0.self_attn.o_proj.weight", "model.layers.0.input_layernorm.weight"]
    for name in names:
        assert expected[name].grad.abs().max() > 0.1
        torch.testing.assert_close(found[name].grad, expected[name].grad, atol=1e-3, rtol=1e-3)
    for model in (theirs, ours):
        model.zero_grad()


def test_the_side_is_that_of_each_text(both):
    """Packed into one row, behind one another, a short and a long text are what they are alone."""
    _, ours, _ = both
    tokens = families.tokens(rows=1, length=49)
    lengths = [9, 30, 10]
    parts = tokens.split(lengths, 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    doc_id = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    with torch.no_grad():
        packed_row = ours({"tokens": tokens, "positions": positions, "doc_id": doc_id}, {"logits"}).logits
    alone = torch.cat([families.logits(ours, part) for part in parts], 1)
    torch.testing.assert_close(packed_row, alone, atol=1e-4, rtol=1e-4)


def greedy(model, prompt, count):
    """Without a cache: every token from a pass over all before it."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(families.logits(model, torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("lengths", [[5, 11], [12, 30], [14, 15, 16, 17]])
def test_replies_that_grow_out_of_the_short_side(both, lengths):
    """All ways of writing: what is kept of a text is read again where its positions become others."""
    theirs, ours, _ = both
    sampling = SamplingParams(temperature=0, max_new_tokens=12)
    prompts = [families.tokens(length=n)[0].tolist() for n in lengths]
    expected = [greedy(ours, prompt, 12) for prompt in prompts]
    one = torch.tensor([prompts[0]])
    with torch.no_grad():
        found = theirs.generate(
            one, attention_mask=one * 0 + 1, max_new_tokens=12, do_sample=False, eos_token_id=None
        )
    assert found[0, lengths[0] :].tolist() == expected[0]
    assert generate(ours, prompts, sampling, stop=()) == expected
    assert [list(written(ours, prompt, sampling, stop=())) for prompt in prompts] == expected
    with decoding(ours) as reader:
        batcher = Batcher(ours, reader, tokens=1024, chunk=7)
        for _ in range(2):  # the second time, beginnings are found
            asked = [Request(list(prompt), sampling, 12) for prompt in prompts]
            for request in asked:
                batcher.add(request)
            while not batcher.idle:
                batcher.step()
            assert [request.tokens[len(request.prompt) :] for request in asked] == expected


def test_lists_that_do_not_fit_are_refused(both):
    _, ours, folder = both
    raw = {**families.COMMON, "model_type": "phi3", "head_dim": 8}
    block = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0] * 3}
    with pytest.raises(ValueError, match="3 numbers for 4 pairs"):
        from_huggingface({**raw, "rope_scaling": block})
    with pytest.raises(ValueError, match="`short` has 4 numbers and `long` 3"):
        from_huggingface({**raw, "rope_scaling": {**block, "short_factor": [1.0] * 4}})
    with pytest.raises(ArtifactError, match="phi3"):
        gguf_write.writer(folder / "x.gguf", ours.config)

"""A saved reward model is what transformers takes it for: the same score for the same reply."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import families
import pytest
import torch
from random_models import random_model

from trivium.errors import ArtifactError
from trivium.model import hf, lora, scalar
from trivium.model.scalar import Scalar
from trivium.recipe.network import Adapter

sys.path.append(str(Path(__file__).parents[1] / "text"))
PAD = 1
SHAPES = {
    "llama, tied": {"tie_embeddings": True},
    "llama, untied": {},
    "qwen3": {"qk_norm": True, "tie_embeddings": True},
    "qwen2": {"qkv_bias": True},
}
LENGTHS = (23, 5, 1, 14, 23)


def judge(**changes) -> Scalar:
    made = Scalar(random_model(**changes))
    torch.nn.init.normal_(made.score.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return made.eval()


def rows() -> torch.Tensor:
    """Rows of different lengths, padded on the right; no token of a row is the padding."""
    tokens = torch.randint(6, 320, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate(LENGTHS):
        tokens[row, length:] = PAD
    return tokens


def scores(model: Scalar, tokens: torch.Tensor) -> torch.Tensor:
    """The rewards as training reads them: the number at the last token of each row's own document."""
    last = torch.tensor(LENGTHS) - 1
    places = torch.arange(tokens.shape[1])[None]
    batch = {
        "tokens": tokens,
        "positions": places.expand_as(tokens),
        "doc_id": torch.where(places <= last[:, None], 0, -1),
    }
    return scalar.reply_scores(model, batch, last)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_transformers_gives_the_same_scores(tmp_path, changes):
    from transformers import AutoModelForSequenceClassification

    model, tokens = judge(**changes), rows()
    scalar.save(model, tmp_path, eos=2, pad=PAD)
    theirs, said = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
    with torch.no_grad():
        expected = theirs.eval()(tokens, attention_mask=(tokens != PAD).long()).logits
    assert expected.shape == (len(LENGTHS), 1) and expected.std() > 0.05
    assert (scores(model, tokens) - expected[:, 0]).abs().max() < 1e-4
    assert (scores(scalar.load(tmp_path).eval(), tokens) - expected[:, 0]).abs().max() < 1e-4


NO_CLASSIFIER = ("granite", "glm4_moe")
"""Families for which transformers has none."""
FAMILIES = {
    family: name for name, (family, _) in reversed(families.CASES.items()) if family not in NO_CLASSIFIER
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_scores_as_in_transformers(tmp_path, family):
    from transformers import AutoModelForSequenceClassification

    families.checkpoint(FAMILIES[family], tmp_path / "words")
    model = Scalar(hf.load(tmp_path / "words", trainable=True)).eval()
    torch.nn.init.normal_(model.score.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    tokens = rows() % 90 + 2
    tokens[rows() == PAD] = PAD
    scalar.save(model, tmp_path / "score", eos=96, pad=PAD)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "score", dtype=torch.float32)
    with torch.no_grad():
        expected = theirs.eval()(tokens, attention_mask=(tokens != PAD).long()).logits.flatten()
    assert expected.std() > 0.01
    assert (scores(model, tokens) - expected).abs().max() < 1e-4


def test_padding_and_neighbours_do_not_touch_a_score():
    model, tokens = judge(), rows()
    together = scores(model, tokens)
    for row, length in enumerate(LENGTHS):
        alone = tokens[row : row + 1, :length]
        batch = {"tokens": alone, "positions": torch.arange(length)[None]}
        one = scalar.reply_scores(model, batch, torch.tensor([length - 1]))
        assert torch.allclose(one, together[row], atol=1e-5)


def test_a_model_of_words_is_no_reward_model(tmp_path):
    hf.save(random_model(), tmp_path, eos=2, pad=PAD)
    with pytest.raises(ArtifactError, match=r"no reward model: it has no score\.weight"):
        scalar.load(tmp_path)
    scalar.save(judge(), tmp_path, eos=2, pad=PAD)
    with pytest.raises(ArtifactError, match=r"score\.weight"):
        hf.load(tmp_path)


def test_a_damaged_reward_model_is_refused(tmp_path):
    from trivium.files import sha256

    scalar.save(judge(), tmp_path, eos=2, pad=PAD)
    names = ["config.json", "model.safetensors"]
    (tmp_path / "artifact.json").write_text(json.dumps({"files": {n: sha256(tmp_path / n) for n in names}}))
    scalar.load(tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        scalar.load(tmp_path)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_reward_model_with_adapters_is_saved_without_them(tmp_path, quantize):
    adapter, tokens = Adapter(rank=2, quantize=quantize), rows()
    model = judge()
    lora.attach(model.trunk, adapter, torch.Generator().manual_seed(2))
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    expected = scores(model, tokens)
    scalar.save(scalar.merged(model, adapter), tmp_path, eos=2, pad=PAD)
    assert torch.allclose(scores(scalar.load(tmp_path).eval(), tokens), expected, atol=1e-4)


@pytest.mark.parametrize("pad", [None, "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("spare", [0, 20])
def test_a_padding_that_ends_replies_too_is_replaced(tmp_path, pad, spare):
    """As tokenizers without a padding are used: transformers would read the score one token too early."""
    from test_foreign import CHATML, byte_level
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from trivium.imports import save_scorer
    from trivium.text.chat import ChatTokenizer
    from trivium.text.special import Special

    chat = ChatTokenizer(byte_level(), CHATML, Special("<|im_end|>", pad=pad))
    model = judge(vocab_size=chat.vocab_size + spare, tie_embeddings=True)
    ids = [chat.response([{"role": "user", "content": "what " * n}], "four") for n in (1, 3)]
    ids = [encoded.ids[: max(i for i, m in enumerate(encoded.mask) if m) + 1] for encoded in ids]
    assert all(row[-1] == chat.end for row in ids)
    ours = []
    for row in ids:
        tokens = torch.tensor([row])
        batch = {
            "tokens": tokens,
            "positions": torch.arange(len(row))[None],
            "doc_id": torch.zeros_like(tokens),
        }
        ours.append(scalar.reply_scores(model, batch, torch.tensor([len(row) - 1])))
    save_scorer(model, chat, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    padded = AutoTokenizer.from_pretrained(tmp_path).pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**padded).logits.flatten()
    torch.testing.assert_close(torch.cat(ours), expected, atol=1e-5, rtol=1e-5)
    again = scalar.load(tmp_path)
    assert ChatTokenizer.load(tmp_path).pad not in ChatTokenizer.load(tmp_path).stops
    assert again.config.vocab_size == max(chat.vocab_size + 1, chat.vocab_size + spare)

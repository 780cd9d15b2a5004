"""Distillation across tokenizers: equal to TRL's on real conversations, from the text to the loss."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from trivium.batches.rows import Fixed
from trivium.batches.translated import THEIRS, Translated, Translator
from trivium.objectives.uld import merged, uld_loss
from trivium.text import spans
from trivium.text.chat import ChatTokenizer
from trivium.text.tokenizer import train
from trivium.train.machine import Machine

TEXTS = [
    "the cat sees the old book in the garden",
    "a dog and my friend at noon",
    "grüße und kaffee, 日本",
] * 3
OTHER = ["the teacher sees a long street", "old books and a cat in gardens", "kaffee am nachmittag"] * 3
TALKS = [
    {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": reply}]}
    for reply in ("the old cat in the garden", "a dog sees 42 books", "grüße, 日本 and kaffee")
]


@pytest.fixture(scope="module")
def us() -> ChatTokenizer:
    return ChatTokenizer(train(TEXTS, 275))


@pytest.fixture(scope="module")
def them() -> ChatTokenizer:
    return ChatTokenizer(train(OTHER, 290))


@pytest.fixture(scope="module")
def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl.experimental.gold.gold_trainer").ULDLoss


def theirs(trl, us, them, hybrid: bool, beta: float, temperature: float):
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=temperature,
        uld_teacher_temperature=temperature, uld_skip_student_eos=True, uld_skip_teacher_eos=True, use_extended_uld=True,
        uld_token_merge_strategy="bayesian", uld_use_hybrid_loss=hybrid, uld_hybrid_matched_weight=None,
        uld_hybrid_unmatched_weight=None, beta=beta, teacher_temperature=temperature,
    )  # fmt: skip
    named = (SimpleNamespace(get_vocab=chat.tokenizer.get_vocab) for chat in (us, them))
    return trl(config, *named, device=torch.device("cpu"))


def offsets(chat, ids, first: int, last: int) -> torch.Tensor:
    """Bytes of the reply up to each token's end, by what each says alone."""
    found, done = torch.zeros(1, len(ids), 2, dtype=torch.long), 0
    for place in range(first, last):
        size = len(chat.tokenizer.decode([ids[place]], skip_special_tokens=False).encode())
        found[0, place] = torch.tensor([done, done + size])
        done += size
    return found


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("hybrid", "beta", "temperature"), [(True, 0.5, 1.0), (True, 0.3, 2.0), (False, 0.5, 1.0)]
)
def test_conversations_give_the_loss_of_trl(trl, us, them, number, hybrid, beta, temperature):
    rows = Translated.build(TALKS, us, them, 64, 64)
    student, teacher = random_model(us.vocab_size), random_model(them.vocab_size + 6, seed=4)
    both = spans.shared(us, them) if hybrid else ([], [])
    ours, other, found = rows.items[number]
    machine = Machine("cpu", False)
    sizes = (us.vocab_size, them.vocab_size)
    [batch] = Translator(Fixed(3, rows.item, 3), teacher, machine, both, sizes, temperature).batch(0)
    assert not any(name.startswith(THEIRS) and name not in ("teacher_logp", "teacher_rest") for name in batch)
    one = {name: tensor[number : number + 1] for name, tensor in batch.items()}
    with torch.no_grad():
        logits = student(one, {"logits"}).logits
        joint = merged(logits, one["targets"], one["span"], one["loss_mask"], temperature)
        told = one["teacher_logp"][joint.last], one["teacher_rest"][joint.last]
        mine = uld_loss(joint.logp, *told, mix=beta)[:-1]  # without the end of the turn, which TRL leaves out
        said, labels, places = [], [], []
        for chat, model, encoded in ((us, student, ours), (them, teacher, other)):
            tokens = torch.tensor([encoded.ids])
            positions = torch.arange(tokens.shape[1])[None]
            said.append(
                model({"tokens": tokens, "positions": positions}, {"logits"}).logits[..., : chat.vocab_size]
            )
            labels.append(tokens.where(torch.tensor([encoded.mask]) > 0, -100))
            learned = [place for place, weight in enumerate(encoded.mask) if weight]
            places.append(offsets(chat, encoded.ids, learned[0], learned[-1]))
        expected = theirs(trl, us, them, hybrid, beta, temperature)(
            *said, *labels, torch.tensor([ours.ids]), torch.tensor([other.ids]), *places
        )
    assert any(span.ours[1] - span.ours[0] > 1 for span in found)
    torch.testing.assert_close(mine.mean(), expected, rtol=2e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(reply=st.text(st.sampled_from("the catdog üß日本語🙂 42\n"), max_size=30))
def test_spans_are_the_same_text_and_end_where_the_reply_ends(us, them, reply):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": reply}]
    ours, theirs = us.encode(messages), them.encode(messages)
    found, differ = spans.align(us, ours, them, theirs)
    assert not differ and found[-1].ours[1] == max(i for i, weight in enumerate(ours.mask) if weight) + 1
    texts = []
    for span in found[:-1]:
        mine, yours = ours.ids[slice(*span.ours)], theirs.ids[slice(*span.theirs)]
        assert us.tokenizer.decode(mine) == them.tokenizer.decode(yours)
        texts.append(us.tokenizer.decode(mine))
    assert "".join(texts) == reply


def test_the_same_tokenizer_is_the_same_divergence_and_every_token_a_span(us):
    from trivium.objectives import distill_loss

    rows = Translated.build(TALKS, us, us, 64, 64)
    student, teacher = random_model(us.vocab_size), random_model(us.vocab_size, seed=4)
    both, sizes = spans.shared(us, us), (us.vocab_size, us.vocab_size)
    [batch] = Translator(Fixed(3, rows.item, 3), teacher, Machine("cpu", False), both, sizes, 1.0).batch(0)
    plain = {name: tensor for name, tensor in batch.items() if not name.startswith(THEIRS)}
    on = (batch["loss_mask"] > 0) & (batch["span"] > 0)
    with torch.no_grad():
        logits = student(plain, {"logits"}).logits
        joint = merged(logits, batch["targets"], batch["span"], batch["loss_mask"], 1.0)
        for divergence in ("forward", "reverse", "js"):
            told = batch["teacher_logp"][joint.last], batch["teacher_rest"][joint.last]
            single = joint.weight == 1
            expected = distill_loss(logits, teacher(plain, {"logits"}).logits, divergence=divergence)
            found = uld_loss(joint.logp, *told, divergence=divergence)
            torch.testing.assert_close(found[single], expected[joint.last][single], rtol=1e-3, atol=1e-5)
    assert on.sum() == joint.weight.sum() == batch["loss_mask"].sum()

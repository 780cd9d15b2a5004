"""Continuous batching is a way to compute, never a way to change the text; its log-probabilities are the model's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generate import fresh_logits, prompts, slow_greedy
from torch import Tensor

from trivium.generate import slots
from trivium.generate.sampling import SamplingParams, distribution
from trivium.generate.slots import complete, cut_text


@pytest.mark.parametrize("slots", [1, 3, 8, 64])
def test_greedy_text_is_that_of_one_whole_pass_a_token(model, slots):
    asked = prompts(9)
    stops = tuple(
        {slow_greedy(model, prompt, (), 12)[place] for prompt, place in zip(asked, range(9), strict=True)}
    )
    found = complete(model, asked, SamplingParams(max_new_tokens=12), stops, slots=slots)
    for prompt, reply in zip(asked, found, strict=True):
        said = [token for token in reply.ids if token not in stops]
        assert said == slow_greedy(model, prompt, stops, 12)
        assert reply.finished == (len(said) < len(reply.ids))


@pytest.mark.parametrize(
    "sampling", [SamplingParams(temperature=1.0), SamplingParams(temperature=0.7, top_k=20, min_p=0.05)]
)
def test_log_probabilities_are_those_of_a_fresh_pass(model, sampling):
    asked = prompts(7, seed=3)
    for prompt, reply in zip(asked, complete(model, asked, sampling, (5,), slots=3), strict=True):
        whole = (fresh_logits(model, [*prompt, *reply.ids]) / sampling.temperature).log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(reply.ids) - 1)
        expected = torch.stack([whole[place, token] for place, token in zip(places, reply.ids, strict=True)])
        assert torch.allclose(torch.tensor(reply.logp), expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 12), slots=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_reply_depends_on_its_prompt_its_number_and_the_seed_alone(model, count, slots, seed):
    asked, sampling = prompts(count, seed=seed), SamplingParams(temperature=1.0, max_new_tokens=8, seed=seed)
    alone = [reply.ids for reply in complete(model, asked, sampling, (7, 8), slots=1)]
    together = [reply.ids for reply in complete(model, asked, sampling, (7, 8), slots=slots)]
    assert together == alone
    assert [reply.ids for reply in complete(model, asked[:1], sampling, (7, 8))] == alone[:1]


def test_samples_of_one_prompt_are_read_once_and_drawn_each_their_own_way(model, monkeypatch):
    asked = [prompt for prompt in prompts(3) for _ in range(4)]
    read: list[int] = []
    hidden = type(model).hidden

    def counted(self, tokens, positions, mask, cache):
        if mask is None:
            read.append(len(tokens))
        return hidden(self, tokens, positions, mask, cache)

    sampling = SamplingParams(temperature=1.0, max_new_tokens=8)
    alone = [complete(model, [prompt], sampling, (7,), first=number)[0].ids for number, prompt in enumerate(asked)]  # fmt: skip
    monkeypatch.setattr(type(model), "hidden", counted)
    assert [reply.ids for reply in complete(model, asked, sampling, (7,))] == alone
    assert sum(read) == 3
    assert len({tuple(ids) for ids in alone[:4]}) > 1


def test_weights_are_used_where_they_are(model):
    asked, sampling = prompts(3), SamplingParams(max_new_tokens=6)
    before = complete(model, asked, sampling, ())
    kept = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.mul_(-1)
    changed = complete(model, asked, sampling, ())
    with torch.no_grad():
        model.model.norm.weight.copy_(kept)
    assert changed != before
    assert complete(model, asked, sampling, ()) == before


def test_stop_strings_end_a_reply(model):
    asked = prompts(4)
    decode = "".join
    texts = [
        "".join(chr(97 + token % 26) for token in reply.ids)
        for reply in complete(model, asked, SamplingParams(), ())
    ]
    stop = texts[0][5:8]
    decode = lambda ids: "".join(chr(97 + token % 26) for token in ids)  # noqa: E731
    found = complete(model, asked, SamplingParams(stop_strings=(stop,)), (), decode=decode, slots=2)
    for text, reply in zip(texts, found, strict=True):
        assert cut_text(decode(reply.ids), (stop,)) == cut_text(text, (stop,))
        assert reply.finished == (stop in text)
    with pytest.raises(ValueError, match="decode"):
        complete(model, asked, SamplingParams(stop_strings=("a",)), ())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"top_k": 5}, [("TopKLogitsWarper", {"top_k": 5})]),
        ({"top_p": 0.8}, [("TopPLogitsWarper", {"top_p": 0.8})]),
        ({"min_p": 0.1}, [("MinPLogitsWarper", {"min_p": 0.1})]),
        (
            {"temperature": 0.6, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
            [
                ("TemperatureLogitsWarper", {"temperature": 0.6}),
                ("TopKLogitsWarper", {"top_k": 12}),
                ("TopPLogitsWarper", {"top_p": 0.9}),
                ("MinPLogitsWarper", {"min_p": 0.02}),
            ],
        ),
    ],
)
def test_the_filters_are_those_of_transformers(ours, theirs):
    transformers = pytest.importorskip("transformers.generation.logits_process")
    logits = 2 * torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    scores: Tensor = logits
    for name, options in theirs:
        scores = getattr(transformers, name)(**options)(None, scores)
    found = distribution(logits, SamplingParams(**{"temperature": 1.0, **ours}))
    torch.testing.assert_close(found, scores.softmax(-1), atol=1e-6, rtol=1e-5)


class Scripted:
    """A model that says given ids one after another, whatever it is asked: `complete` on a text that we choose."""

    def __init__(self, monkeypatch, model, ids: list[int]) -> None:
        said = iter(ids)
        monkeypatch.setattr(slots, "draw", lambda logits, *_: torch.full((len(logits),), next(said)))
        self.model = model


@pytest.mark.parametrize("stop", ["STOP", "é!", "日本", "\n\n"])
def test_a_stop_string_of_several_tokens_ends_a_reply(monkeypatch, model, chat, stop):
    """Split over tokens, in the middle of a token, and in the middle of a character's bytes."""
    ids = chat.tokenizer.encode(f"the cat sees{stop} nobody").ids
    before = chat.tokenizer.encode("the cat sees").ids
    assert len(chat.tokenizer.encode(stop).ids) > 1
    ends = next(n for n in range(len(ids)) if stop in chat.decode(ids[:n]))
    for limit in (40, ends):  # the string's last token may be the last that is allowed
        Scripted(monkeypatch, model, ids)
        sampling = SamplingParams(max_new_tokens=limit, stop_strings=("never", stop))
        [reply] = complete(model, [[5, 6]], sampling, (), decode=chat.decode)
        assert reply.finished and len(reply.ids) == len(reply.logp) == ends
        assert cut_text(chat.decode(reply.ids), sampling.stop_strings) == "the cat sees"
    Scripted(monkeypatch, model, ids)
    short = SamplingParams(max_new_tokens=ends - 1, stop_strings=(stop,))
    assert not complete(model, [[5, 6]], short, (), decode=chat.decode)[0].finished
    assert ids[: len(before)] == before


def test_in_bf16_the_log_probabilities_are_those_of_a_bf16_pass(model):
    """Computed token by token behind a cache instead of all at once, they differ by bf16's rounding and no more."""
    asked, sampling = prompts(7, seed=3), SamplingParams(temperature=1.0, max_new_tokens=24)
    with torch.autocast("cpu", torch.bfloat16):
        found = complete(model, asked, sampling, (5,), slots=3)
    assert found[0].logp != complete(model, asked, sampling, (5,), slots=3)[0].logp
    apart = []
    for prompt, reply in zip(asked, found, strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            whole = fresh_logits(model, [*prompt, *reply.ids]).float().log_softmax(-1)
        for place, (token, value) in enumerate(zip(reply.ids, reply.logp, strict=True)):
            apart.append(abs(float(whole[len(prompt) - 1 + place, token]) - value))
    assert len(apart) > 100 and sum(apart) / len(apart) < 0.03 and max(apart) < 0.3


def test_an_optimizer_step_is_seen_at_once(model):
    """What a call packs for the CPU is gone with it; the weights are the storage that training writes to."""
    asked, sampling = prompts(3), SamplingParams(max_new_tokens=6)
    held = {id(parameter) for parameter in model.parameters()}
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    before = complete(model, asked, sampling, ())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()
    try:
        assert complete(model, asked, sampling, ()) != before
        assert {id(parameter) for parameter in model.parameters()} == held
    finally:
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), kept, strict=True):
                parameter.copy_(old)
    assert complete(model, asked, sampling, ()) == before


def test_neighbours_that_come_and_go_change_nothing(model):
    """The log-probabilities too: alone, among shorter ones, and in a slot that another has left."""
    sampling = SamplingParams(temperature=1.0, max_new_tokens=20, seed=5)
    first = prompts(1, seed=9)
    [alone] = complete(model, first, sampling, (7,))
    for others, size in ((prompts(5, range(1, 4)), 2), (prompts(5, range(30, 40)), 3), (prompts(9), 64)):
        beside = complete(model, [*first, *others], sampling, (7,), slots=size)[0]
        assert beside.ids == alone.ids and beside.finished == alone.finished
        assert beside.logp == pytest.approx(alone.logp, abs=1e-4)

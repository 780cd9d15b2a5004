"""Generation: batching, padding, the cache and early leaving are ways to compute, never ways to change the text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trivium.errors import DataError
from trivium.generate import engine
from trivium.generate.engine import SamplingParams, generate, stream
from trivium.generate.sampling import draw
from trivium.generate.slots import SlotCache, complete, written

NEW = SamplingParams(max_new_tokens=12)


def prompts(count: int, lengths: range = range(1, 40), seed: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    sizes = torch.randint(lengths.start, lengths.stop, (count,), generator=random).tolist()
    return [torch.randint(0, 320, (size,), generator=random).tolist() for size in sizes]


@torch.no_grad()
def fresh_logits(model, ids: list[int]) -> Tensor:
    """Logits at every place from one plain pass over the whole sequence: no cache, no padding."""
    tokens = torch.tensor([ids])
    return model({"tokens": tokens, "positions": torch.arange(len(ids))[None]}, {"logits"}).logits[0]


def slow_greedy(model, prompt: list[int], stop: tuple[int, ...], limit: int) -> list[int]:
    """The definition: one whole forward pass for every token."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit and len(ids) < model.config.context:
        new = int(fresh_logits(model, ids)[-1].argmax())
        if new in stop:
            break
        ids.append(new)
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def stops(model) -> tuple[int, ...]:
    """Stop ids that end some replies early and others not at all: taken from what the model says."""
    said = [slow_greedy(model, prompt, (), 12) for prompt in prompts(9)]
    return tuple({reply[place] for reply, place in zip(said, (0, 1, 2, 4, 5, 7), strict=False)})


def test_batched_is_one_at_a_time_is_no_cache(model, stops):
    asked = prompts(9)
    expected = [slow_greedy(model, prompt, stops, 12) for prompt in asked]
    assert len({len(reply) for reply in expected}) > 2, "replies must leave the batch at different times"
    assert generate(model, asked, NEW, stops) == expected
    assert generate(model, asked, NEW, stops, batch=1) == expected
    assert generate(model, asked, NEW, stops, batch=4) == expected
    assert generate(model, asked[::-1], NEW, stops) == expected[::-1]
    assert generate(model, [], NEW, stops) == []


def test_rows_that_finish_leave_the_batch(model, stops, monkeypatch):
    """The cache really shrinks, and the text of those that stay is the same."""
    kept = []
    keep = SlotCache.keep
    monkeypatch.setattr(SlotCache, "keep", lambda self, rows: kept.append(len(rows)) or keep(self, rows))
    asked = prompts(9)
    replies = complete(model, asked, NEW, stops)
    assert kept, "no row left"
    assert sorted(kept, reverse=True) == kept
    for prompt, said in zip(asked, (reply.ids for reply in replies), strict=True):
        reply = slow_greedy(model, prompt, stops, 12)
        assert said[: len(reply)] == reply
        assert len(said) == len(reply) + (len(reply) < 12), "the stop id comes once, and nothing after it"


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 40), seed=st.integers(0, 9), temperature=st.sampled_from([0.0, 1.0]))
def test_a_reply_that_comes_id_by_id_is_the_whole_one(model, stops, size, seed, temperature):
    prompt = prompts(1, range(size, size + 1), seed=size)[0]
    sampling = SamplingParams(max_new_tokens=12, seed=seed, temperature=temperature)
    assert list(written(model, prompt, sampling, stops)) == complete(model, [prompt], sampling, stops)[0].ids


def test_ids_come_before_the_reply_is_whole_and_one_who_leaves_leaves_nothing_behind(model):
    prompt, passes = prompts(1)[0], []
    hidden = type(model).hidden
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "hidden", lambda *given: passes.append(1) or hidden(*given))
        coming = written(model, prompt, NEW, ())
        seen = [(next(coming), len(passes)) for _ in range(3)]
        coming.close()
    assert [count for _, count in seen] == [1, 2, 3]
    assert [token for token, _ in seen] == slow_greedy(model, prompt, (), 3)
    assert not any("forward" in vars(layer) for layer in model.modules()), "packed weights stay behind"


def test_temperature_0_is_deterministic_and_seeds_decide_the_rest(model):
    asked = prompts(4)
    greedy = [generate(model, asked, SamplingParams(max_new_tokens=12, seed=seed), ()) for seed in (0, 1)]
    assert greedy[0] == greedy[1]
    drawn = [
        generate(model, asked, SamplingParams(temperature=1.0, max_new_tokens=12, seed=seed), ())
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != greedy[0]


def test_sampling_ignores_the_global_generator(model):
    asked, sampling = prompts(2), SamplingParams(temperature=1.0, max_new_tokens=8)
    before = torch.get_rng_state()
    first = generate(model, asked, sampling, ())
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert generate(model, asked, sampling, ()) == first


def draws(logits: Tensor, count: int = 4000, **sampling: float) -> Tensor:
    """Shares of the ids drawn."""
    options = SamplingParams(**{"temperature": 1.0, **sampling})
    ids = draw(
        logits.expand(count, -1), options, torch.rand(count, generator=torch.Generator().manual_seed(0))
    )
    return torch.bincount(ids, minlength=logits.shape[-1]) / count


def test_top_p_keeps_the_smallest_set_with_that_much_probability():
    p = torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]])
    assert torch.allclose(draws(p.log()), p[0], atol=0.03)
    assert torch.allclose(draws(p.log(), top_p=0.7), torch.tensor([0, 0.5 / 0.8, 0, 0.3 / 0.8, 0]), atol=0.03)
    assert draws(p.log(), top_p=0.5)[1] == 1  # exactly half is enough
    assert draws(p.log(), top_p=1e-9)[1] == 1  # never an empty set
    assert (draws(p.log(), top_p=0.97) > 0).sum() == 5


def test_temperature_sharpens_and_flattens():
    p = torch.tensor([[0.2, 0.8]])
    assert draws(p.log(), temperature=0.5)[1] == pytest.approx(0.64 / 0.68, abs=0.03)
    assert draws(p.log(), temperature=100.0)[1] == pytest.approx(0.5, abs=0.03)
    assert int(draw(p.log(), SamplingParams(temperature=0), torch.zeros(1))) == 1


def test_a_prompt_that_fills_the_context_is_refused(model):
    context = model.config.context
    for size in (context, context + 30):
        with pytest.raises(DataError, match=f"{size} tokens; the model's context is {context}") as error:
            generate(model, [[1, 2], [3] * size], NEW, ())
        assert "shorten the prompt" in str(error.value)
    assert len(generate(model, [[3] * (context - 1)], NEW, ())[0]) == 1  # room for one


def test_the_context_ends_a_reply(model):
    context = model.config.context
    reply = generate(model, [[3] * (context - 5)], SamplingParams(max_new_tokens=99), ())[0]
    assert reply == slow_greedy(model, [3] * (context - 5), (), 99)
    assert len(reply) == 5


# ---- streaming -------------------------------------------------------------------------------------------


def streamed(monkeypatch, chat, ids: list[int]) -> list[str]:
    """The pieces that a model which says `ids` is heard as."""
    monkeypatch.setattr(engine, "written", lambda *_: iter([*ids, chat.end, 9]))
    return list(stream(None, chat, [{"role": "user", "content": "?"}], SamplingParams()))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["plain words", "naïve café", "日本語", "😀 and 👩‍🚀!", "ends in é", ""])
def test_pieces_join_to_the_text_and_characters_come_whole(monkeypatch, chat, text):
    ids = chat.tokenizer.encode(text).ids
    pieces = streamed(monkeypatch, chat, ids)
    assert "".join(pieces) == text == chat.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) <= len(ids)


def test_plain_text_comes_token_by_token(monkeypatch, chat):
    ids = chat.tokenizer.encode("the cat sees").ids
    assert streamed(monkeypatch, chat, ids) == [chat.decode([i]) for i in ids]


@settings(max_examples=200, deadline=None)
@given(data=st.lists(st.integers(6, 319), max_size=12))
def test_pieces_join_whatever_bytes_the_model_says(chat, data):
    with pytest.MonkeyPatch.context() as patch:
        assert "".join(streamed(patch, chat, data)) == chat.decode(data)


def test_a_stream_is_what_generate_says(model, chat):
    messages = [{"role": "user", "content": "the cat"}]
    sampling = SamplingParams(temperature=1.0, max_new_tokens=20, seed=4)
    whole = generate(model, [chat.prompt(messages)], sampling, (chat.end, chat.end_of_text))[0]
    assert "".join(stream(model, chat, messages, sampling)) == chat.decode(whole)

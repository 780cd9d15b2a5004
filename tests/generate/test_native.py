"""The pass in machine code is the model's own: the same states as torch gives, the same replies, alone and in company."""

from __future__ import annotations

import logging
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model
from test_batcher import GREEDY, SEEDED, Spoken, plain, prompt, run

from trivium.generate import native
from trivium.generate.batcher import Batcher
from trivium.generate.guess import LookUp
from trivium.generate.native import Reader, decoding, knows, library
from trivium.generate.paged import BLOCK, PagedCache
from trivium.model.int8 import Int8Linear, quantize, round_layers
from trivium.model.transformer import Transformer

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd": {"dim": 36, "hidden": 50, "head_dim": 6, "heads": 6, "kv_heads": 3},
    "wide": {"dim": 160, "hidden": 200, "head_dim": 80, "heads": 2, "kv_heads": 1},
    "normed heads": {"qk_norm": True},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "tied, geglu": {"tie_embeddings": True, "activation": "gelu_tanh", "logit_softcap": 9.0},
    "gelu, some turned": {"activation": "gelu", "rotary": 4, "no_rope": frozenset({1})},
    "scales": {"embedding_scale": 2.0, "residual_scale": 0.5, "logit_scale": 0.3, "attention_scale": 0.2},
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "windows": {"window": 5, "windowed": frozenset({0})},
    "capped": {"attention_softcap": 20.0},
    "post": {"norms": "post"},
    "gpt2": {"layer_norm": True, "gated": False, "learned_positions": True},
    "whole norm": {"qk_norm": True, "qk_norm_whole": True},
    "sinks": {"sinks": True},
}

compiled = pytest.mark.skipif(library() is None, reason="there is no C compiler")


def shaped(name: str) -> Transformer:
    return random_model(context=256, **SHAPES[name])


def replies(model: Transformer, reader: Reader, requests: list[Spoken], **more: Any) -> list[Spoken]:
    run(Batcher(model, reader, tokens=more.pop("tokens", 1024), chunk=16, **more), *requests)
    return requests


@compiled
@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_its_states_are_those_of_torch(name: str, data: st.DataObject) -> None:
    """Any blocks, any number of texts and new tokens, behind keys that are there."""
    model = shaped(name)
    texts, each = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    starts = data.draw(st.lists(st.integers(0, 60), min_size=texts, max_size=texts))
    order = data.draw(st.permutations(range(5 * texts)))
    blocks = [list(order[5 * n : 5 * n + 5]) for n in range(texts)]
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    tokens = torch.randint(0, 320, (texts, each), generator=draw)
    places = torch.tensor(starts)[:, None] + torch.arange(each)
    caches = [PagedCache(model.config, 5 * texts, model.output_weight) for _ in range(2)]
    for held, other in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        held.normal_(generator=draw)
        other.copy_(held)
    with torch.inference_mode():
        masks = [cache.describe(blocks, places, places[:, -1].tolist()) for cache in caches]
        expected = model.hidden(tokens, places, masks[0], caches[0])
        with decoding(model) as (hidden, head):
            found = hidden(tokens, places, masks[1], caches[1])
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            logits = torch.nn.functional.linear(expected[:, -1], model.output_weight)
            cap = model.config.logit_softcap
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            torch.testing.assert_close(head(found[:, -1]), logits, atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(
        caches[1].keys + caches[1].values, caches[0].keys + caches[0].values, strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=2e-5)


@compiled
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("name", SHAPES)
def test_replies_are_those_of_torch_alone_and_in_company(name: str, int8: bool) -> None:
    model = shaped(name)
    if int8:
        round_layers(model)
    asked = [
        (prompt(5, 1), GREEDY),
        (prompt(40, 2), SEEDED),
        (prompt(17, 3), GREEDY),
        (prompt(31, 4), SEEDED),
    ]

    def fresh() -> list[Spoken]:
        return [Spoken(ids, sampling) for ids, sampling in asked]

    with torch.inference_mode():
        expected = replies(model, plain(model), fresh())
        with decoding(model) as quick:
            together = replies(model, quick, fresh())
            short = replies(model, quick, fresh(), tokens=128)  # somebody has to give memory away
            ahead = replies(model, quick, fresh(), guesser=LookUp())
            alone = [replies(model, quick, [one])[0] for one in fresh()]
    for others in (together, short, ahead, alone):
        for mine, theirs in zip(others, expected, strict=True):
            assert mine.ids == theirs.ids
            assert [t.logp for t in mine.heard] == pytest.approx([t.logp for t in theirs.heard], abs=1e-4)


@compiled
@pytest.mark.parametrize("name", SHAPES)
def test_with_rounded_inputs_it_multiplies_whole_numbers_and_replies_are_the_same_in_company(
    name: str,
) -> None:
    model = shaped(name)
    round_layers(model, inputs=True)
    hidden = torch.randn(5, model.config.dim, generator=torch.Generator().manual_seed(1))
    hidden[2] *= 1e5
    hidden[3] = 0
    hidden[4, 1] = torch.nan
    asked = [(prompt(5, 1), GREEDY), (prompt(40, 2), SEEDED), (prompt(200, 3), GREEDY)]

    def fresh() -> list[Spoken]:
        return [Spoken(ids, sampling) for ids, sampling in asked]

    with torch.inference_mode(), decoding(model, int8=True) as quick:
        layer = Int8Linear(*model.output_weight.shape[::-1])
        layer.weight, layer.weight_scale = quantize(model.output_weight.detach())
        layer.rounds_inputs = True
        logits = quick.head(hidden)
        cap = model.config.logit_softcap
        expected = layer(hidden) if cap is None else cap * torch.tanh(layer(hidden) / cap)
        torch.testing.assert_close(logits[:4], expected[:4], rtol=2e-6, atol=1e-6)
        assert not bool(logits[4].isfinite().any())
        alone = [replies(model, quick, [one])[0] for one in fresh()]
        for others in (replies(model, quick, fresh()), replies(model, quick, fresh(), tokens=272)):
            for mine, theirs in zip(others, alone, strict=True):
                assert mine.ids == theirs.ids
                assert [t.logp for t in mine.heard] == [t.logp for t in theirs.heard]


@compiled
def test_with_rounded_inputs_its_states_are_those_of_torch_but_for_roundings_that_fall_the_other_way() -> (
    None
):
    exact, model = shaped("wide"), shaped("wide")
    round_layers(exact)
    round_layers(model, inputs=True)
    tokens, places = torch.arange(7, 47)[None], torch.arange(40)[None]

    def states(of: Transformer, hidden: Any) -> torch.Tensor:
        cache = PagedCache(of.config, 3, of.output_weight)
        found: torch.Tensor = hidden(tokens, places, cache.describe([[0, 1, 2]], places, [39]), cache)
        return found

    with torch.inference_mode(), decoding(model) as (hidden, _):
        mine, theirs, without = (
            states(model, hidden),
            states(model, model.hidden),
            states(exact, exact.hidden),
        )
    assert (mine - theirs).norm() < 0.2 * (theirs - without).norm()


VARIANTS = {"x86-64": "sse2", "haswell": "avx2", "skylake-avx512": "avx512bw"}
"""What the code is compiled for -> what a processor must have to run it."""


def _has(feature: str) -> bool:
    try:
        return feature in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def _of_each_kind_of_weights() -> list[torch.Tensor]:
    """States of a pass, and logits of states that are given."""
    places, blocks = torch.tensor([[20, 21], [33, 34], [4, 5]]), [[0, 1], [2, 3, 4], [5]]
    found = []
    for name, change in product(
        ("odd", "wide"),
        (Transformer.float, Transformer.bfloat16, round_layers, partial(round_layers, inputs=True)),
    ):
        change(model := shaped(name))
        cache = PagedCache(model.config, 6, model.output_weight)
        for held in (*cache.keys, *cache.values):
            held.normal_(generator=torch.Generator().manual_seed(0))
        given = torch.randn(3, model.config.dim, generator=torch.Generator().manual_seed(1))
        rounded = any(getattr(module, "rounds_inputs", False) for module in model.modules())
        with torch.inference_mode(), decoding(model, int8=rounded) as (hidden, head):
            assert hidden != model.hidden
            mask = cache.describe(blocks, places, [21, 34, 5])
            found += [hidden(torch.arange(6).reshape(3, 2), places, mask, cache), head(given)]
    return found


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("target", VARIANTS)
def test_code_for_other_processors_gives_the_same(
    target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Wide registers, narrow ones, and none that it knows: floats but for the order of sums, whole numbers to the last bit."""
    if not _has(VARIANTS[target]):
        pytest.skip(f"this processor has no {VARIANTS[target]}")
    here = _of_each_kind_of_weights()
    flags = tuple(f"-march={target}" if flag.startswith("-march") else flag for flag in native.FLAGS)
    monkeypatch.setattr(native, "FLAGS", flags)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        there = _of_each_kind_of_weights()
        assert list(tmp_path.rglob("*.so"))
    finally:
        native.library.cache_clear()
    for n, (mine, theirs) in enumerate(zip(here, there, strict=True)):
        if n % 8 == 7:
            assert torch.equal(mine, theirs)
        else:
            torch.testing.assert_close(mine, theirs, atol=2e-2 if n % 8 == 6 else 2e-5, rtol=2e-5)


@compiled
def test_a_row_is_the_same_to_the_last_bit_whatever_is_beside_it_and_what_is_no_number_stays_in_its_own() -> (
    None
):
    model = shaped("plain")
    places, blocks = torch.full((6, 1), 20), [[2 * n, 2 * n + 1] for n in range(6)]
    tokens = torch.arange(6)[:, None]
    cache = PagedCache(model.config, 12, model.output_weight)
    for held in (*cache.keys, *cache.values):
        held.normal_(generator=torch.Generator().manual_seed(0))
    cache.keys[1][7] = torch.nan  # of the fourth text
    with torch.inference_mode(), decoding(model) as (hidden, head):
        mask = cache.describe(blocks, places, [20] * 6)
        whole = hidden(tokens, places, mask, cache)
        logits = head(whole[:, -1])
        for row in range(6):
            mask = cache.describe(blocks[row : row + 1], places[row : row + 1], [20])
            one = hidden(tokens[row : row + 1], places[row : row + 1], mask, cache)
            assert bool(one.isfinite().all()) == (row != 3)
            if row != 3:
                assert torch.equal(one[0], whole[row])
                assert torch.equal(head(one[:, -1])[0], logits[row])


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_it_does_not_know_is_read_by_torch(name: str) -> None:
    model = random_model(context=256, **UNKNOWN[name])
    assert not knows(model)
    with decoding(model) as reader:
        assert reader.hidden == model.hidden


@pytest.mark.parametrize("compiler", ["false", "nothing-of-that-name"])
def test_without_a_compiler_torch_decodes(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if compiler != "false":
        monkeypatch.setattr(native.shutil, "which", lambda name: None)
    native.library.cache_clear()
    try:
        model = shaped("plain")
        with caplog.at_level(logging.WARNING), torch.inference_mode(), decoding(model) as reader:
            assert "torch decodes" in caplog.text
            assert len(replies(model, reader, [Spoken(prompt(5), GREEDY)])[0].ids) == 20
        assert not list(tmp_path.rglob("*.so"))
    finally:
        native.library.cache_clear()


@compiled
def test_the_code_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library() is not None
        (made,) = (tmp_path / "trivium").iterdir()
        native.library.cache_clear()
        monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("again"))
        assert native.library() is not None
        assert BLOCK == 16  # as native.c has it
        assert list((tmp_path / "trivium").iterdir()) == [made]
    finally:
        native.library.cache_clear()

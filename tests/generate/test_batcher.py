"""Company changes nothing: a reply is the same alone, in a crowd, behind a prefix that was there, after its memory was taken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from trivium.generate.batcher import Batcher, Request, Token
from trivium.generate.native import Reader
from trivium.generate.packed import packed
from trivium.generate.paged import BLOCK, Blocks
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import complete
from trivium.model.heads import capped
from trivium.model.transformer import Transformer

GREEDY = SamplingParams()
SEEDED = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=7)
MODELS = {
    "plain": {},
    "windows": {"window": 5, "windowed": frozenset({0})},
    "capped": {"attention_softcap": 20.0, "logit_softcap": 10.0},
}


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(6, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Spoken(Request):
    """A request that keeps what it was told."""

    def __init__(self, ids: list[int], sampling: SamplingParams, limit: int = 20, **more: object) -> None:
        self.heard: list[Token] = []
        super().__init__(ids, sampling, limit, watch=self.heard.append, **more)  # type: ignore[arg-type]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.heard]


def run(batcher: Batcher, *requests: Request) -> None:
    for request in requests:
        batcher.add(request)
    while not batcher.idle:
        batcher.step()


def plain(model: Transformer) -> Reader:
    """Torch's own products."""

    def head(hidden: torch.Tensor) -> torch.Tensor:
        return capped(torch.nn.functional.linear(hidden, model.output_weight), model.config.logit_softcap)

    return Reader(model.hidden, head)


def batcher(model: Transformer, tokens: int = 1024, chunk: int = 16, running: int = 8) -> Batcher:
    return Batcher(model, plain(model), tokens=tokens, chunk=chunk, running=running)


def same(mine: Spoken, ids: list[int], logp: list[float]) -> None:
    assert mine.ids == ids
    assert [token.logp for token in mine.heard] == pytest.approx(logp, abs=1e-4)


@pytest.fixture(params=MODELS, scope="module")
def network(request: pytest.FixtureRequest) -> Iterator[Transformer]:
    yield random_model(context=128, **MODELS[request.param])


def test_greedy_replies_are_those_of_the_other_engine(network: Transformer) -> None:
    prompts = [prompt(n, n) for n in (1, 3, 16, 17, 40, 64)]
    wanted = complete(network, prompts, SamplingParams(max_new_tokens=20), [])
    requests = [Spoken(ids, GREEDY) for ids in prompts]
    run(batcher(network), *requests)
    for request, completion in zip(requests, wanted, strict=True):
        same(request, completion.ids, completion.logp)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_company_changes_nothing(network: Transformer, sampling: SamplingParams) -> None:
    ids = prompt(37)
    alone = Spoken(ids, sampling)
    run(batcher(network), alone)
    logp = [token.logp for token in alone.heard]

    crowded = Spoken(ids, sampling)
    others = [Spoken(prompt(n, n), SEEDED, limit=n) for n in (2, 9, 33, 50, 61)]
    run(batcher(network), *others[:3], crowded, *others[3:])
    same(crowded, alone.ids, logp)

    warm = batcher(network)
    run(warm, Spoken([*ids[:33], *prompt(9, 5)], GREEDY))
    shared = Spoken(ids, sampling)
    run(warm, shared)
    assert shared.cached == 32
    same(shared, alone.ids, logp)

    tight = batcher(network, tokens=128)
    squeezed = Spoken(ids, sampling, limit=20)
    run(tight, Spoken(prompt(60, 8), GREEDY, limit=60), squeezed)
    assert squeezed.preempted
    same(squeezed, alone.ids, logp)


def test_memory_stays_what_it_was_and_everyone_is_answered() -> None:
    engine = batcher(random_model(context=128), tokens=8 * BLOCK, running=6)
    requests = [Spoken(prompt(10 + n, n), GREEDY, limit=60) for n in range(9)]
    size = engine.cache.bytes
    run(engine, *requests)
    assert [len(request.ids) for request in requests] == [60] * 9
    assert engine.counters.preemptions > 0
    assert engine.cache.bytes == size
    assert engine.blocks.available == engine.blocks.total


def test_a_prompt_is_read_in_chunks_between_the_steps_of_others() -> None:
    engine = batcher(random_model(context=128), chunk=16)
    talking = Spoken(prompt(4), GREEDY, limit=50)
    engine.add(talking)
    engine.step()
    engine.add(Spoken(prompt(80, 1), GREEDY))
    before = len(talking.ids)
    for step in range(1, 5):
        engine.step()
        assert len(talking.ids) == before + step


def test_those_who_leave_are_gone_within_a_step_and_those_who_waited_say_nothing() -> None:
    engine = batcher(random_model(context=128), running=1)
    first, second = Spoken(prompt(4), GREEDY, limit=90), Spoken(prompt(70, 1), GREEDY)
    engine.add(first)
    engine.add(second)
    engine.step()
    first.cancelled = second.cancelled = True
    assert set(engine.step()) == {first, second}
    assert (first.finish, second.finish, second.ids) == ("cancelled", "cancelled", [])
    assert engine.idle
    assert engine.blocks.available == engine.blocks.total


def test_a_reply_ends_where_it_is_told_to() -> None:
    model = random_model(context=128)
    free = Spoken(prompt(5), GREEDY)
    run(batcher(model), free)
    stopped = Spoken(prompt(5), GREEDY, stops=frozenset({free.ids[3]}))
    told = Request(prompt(5), GREEDY, 20, watch=lambda token: "stop" if token.id == free.ids[2] else None)
    run(batcher(model), stopped, told)
    assert stopped.ids == free.ids[: free.ids.index(free.ids[3]) + 1]
    assert stopped.finish == "stop"
    assert told.tokens[5:] == free.ids[: free.ids.index(free.ids[2]) + 1]
    assert free.finish == "length"


def test_bias_penalties_and_constraints_are_of_their_own_sequence_only() -> None:
    model = random_model(context=128)
    free = Spoken(prompt(5), GREEDY)
    run(batcher(model), free)

    class Even:
        def allowed(self) -> torch.Tensor:
            return torch.arange(320) % 2 == 0

        def accept(self, token: int) -> bool:
            return False

    banned = Spoken(prompt(5), GREEDY, bias={free.ids[0]: -100.0})
    forced = Spoken(prompt(5), GREEDY, bias={17: 100.0})
    even = Spoken(prompt(5), GREEDY, constraint=Even())
    varied = Spoken(prompt(5), GREEDY, presence=100.0, limit=50)
    again = Spoken(prompt(5), GREEDY)
    run(batcher(model), banned, forced, even, varied, again)
    assert again.ids == free.ids
    assert free.ids[0] not in banned.ids
    assert set(forced.ids) == {17}
    assert all(token % 2 == 0 for token in even.ids)
    assert len(set(varied.ids)) == 50


def test_log_probabilities_are_the_models_own() -> None:
    model = random_model(context=128)
    request = Spoken(prompt(5), GREEDY, limit=1, top=5, bias={17: 100.0})
    run(batcher(model), request)
    tokens = torch.tensor([prompt(5)])
    with torch.no_grad():
        hidden = model.hidden(tokens, torch.arange(5)[None], None)
        wanted = (hidden[0, -1] @ model.output_weight.T).log_softmax(-1)
    assert request.heard[0].logp == pytest.approx(float(wanted[17]), abs=1e-4)
    best = wanted.topk(5)
    assert [i for i, _ in request.heard[0].top] == best.indices.tolist()
    assert [v for _, v in request.heard[0].top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_logits_that_are_no_numbers_end_their_own_sequence_only() -> None:
    model = random_model(context=128)
    fine, broken = Spoken(prompt(5), GREEDY), Spoken(prompt(6, 1), GREEDY)
    engine = batcher(model)
    hidden, head = engine.reader
    broken_now: list[bool] = []

    def breaks(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden).clone()
        if len(logits) == 2 and not broken_now:
            broken_now.append(True)
            logits[1] = torch.nan
        return logits

    engine.reader = Reader(hidden, breaks)
    run(engine, fine, broken)
    assert (fine.finish, broken.finish) == ("length", "error")
    alone = Spoken(prompt(5), GREEDY)
    run(batcher(model), alone)
    assert fine.ids == alone.ids


def test_packed_weights_give_the_same() -> None:
    model = random_model(context=128)
    usual, fast = Spoken(prompt(9), GREEDY), Spoken(prompt(9), GREEDY)
    run(batcher(model), usual)
    with packed(model) as head:
        run(Batcher(model, Reader(model.hidden, head), tokens=256), fast)
    same(fast, usual.ids, [token.logp for token in usual.heard])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), min_size=1, max_size=12), st.integers(4, 12)
)
def test_blocks_are_never_shared_by_mistake_nor_lost(story: list[tuple[int, int]], total: int) -> None:
    """Sequences of few kinds come and go: what is found holds exactly the tokens asked for, and all blocks come back."""
    blocks = Blocks(total)
    content: dict[int, tuple[int, ...]] = {}
    held: list[list[int]] = []
    for kind, length in story:
        tokens = [kind] * length
        mine = blocks.find(tokens)
        for place, block in enumerate(mine):
            assert content[block] == tuple(tokens[: (place + 1) * BLOCK])
        known = (len(mine), blocks.number(mine[-1] if mine else None))
        while len(mine) * BLOCK < length and (block := blocks.take()) is not None:
            assert block not in {b for other in held for b in other}
            mine.append(block)
            content[block] = tuple(tokens[: len(mine) * BLOCK])
        read = tokens[: len(mine) * BLOCK]
        blocks.learn(read, mine, *known)
        held.append(mine)
        if len(held) > 2:
            blocks.release(held.pop(0))
    for mine in held:
        blocks.release(mine)
    assert blocks.available == total
    assert not blocks.users

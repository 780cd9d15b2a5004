"""Reading ahead changes nothing but the time: replies are the same whatever is guessed, right, wrong, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_model
from test_batcher import plain

from trivium.generate.batcher import Batcher, Request, Token
from trivium.generate.constrain import Grammars
from trivium.generate.guess import LONGEST, SHORTEST, Draft, LookUp, Pays
from trivium.generate.native import Reader, decoding
from trivium.generate.sampling import SamplingParams, distribution
from trivium.model.transformer import Transformer
from trivium.text.chat import ChatTokenizer

GREEDY = SamplingParams()
SEEDED = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=7)


class Always(Pays):
    """Reads ahead at every step."""

    def ahead(self, rows: int, prompts: float = 0.0) -> bool:
        return True


class Wild:
    """Guesses anything."""

    def guess(self, texts: Sequence[Any]) -> list[list[int]]:
        return [[(text.tokens[-1] * 7 + n) % 320 for n in range(len(text.tokens) % 6)] for text in texts]

    def follow(self, texts: Sequence[Any]) -> int:
        return 0

    def forget(self, text: Any) -> None:
        pass


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(6, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def replies(
    model: Transformer, guesser: Any, make: Any, tokens: int = 2048
) -> tuple[list[list[Token]], Batcher]:
    heard: list[list[Token]] = []
    with decoding(model) as reader:
        batcher = Batcher(model, reader, tokens=tokens, chunk=16, running=4, guesser=guesser)
        batcher.pays = Always()
        for request in make():
            heard.append([])
            request.watch = lambda token, said=heard[-1]: said.append(token)
            batcher.add(request)
        while not batcher.idle:
            batcher.step()
    return heard, batcher


def same(ours: list[list[Token]], theirs: list[list[Token]]) -> None:
    assert [[token.id for token in said] for said in ours] == [
        [token.id for token in said] for said in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        assert [token.logp for token in mine] == pytest.approx([token.logp for token in other], abs=1e-4)


def guessers(model: Transformer) -> dict[str, Any]:
    small = random_model(context=128, layers=1, seed=5)

    return {
        "look-up": LookUp(), "wild": Wild(), "another": Draft(small, plain(small), room=1024),
        "itself": Draft(model, plain(model), room=1024), "no room": Draft(small, plain(small), room=40),
    }  # fmt: skip


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("name", ["look-up", "wild", "another", "itself", "no room"])
def test_replies_are_the_same_whatever_is_guessed(sampling: SamplingParams, name: str) -> None:
    model = random_model(context=128)

    def make() -> list[Request]:
        copied = Request(prompt(5, 1) * 6, sampling, 24, presence=0.5, frequency=0.1, bias={9: 2.0, 40: 3.0})
        lengths = {1: 14, 17: 16, 90: 24, 9: 1}
        return [copied, *(Request(prompt(n, n), sampling, limit) for n, limit in lengths.items())]

    wanted, _ = replies(model, None, make)
    found, batcher = replies(model, guessers(model)[name], make)
    same(found, wanted)
    assert batcher.blocks.available == batcher.blocks.total
    if name == "another":
        squeezed, batcher = replies(model, guessers(model)[name], make, tokens=144)
        same(squeezed, wanted)
        assert batcher.counters.preemptions > 0


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_a_draft_that_is_the_model_is_right(sampling: SamplingParams) -> None:
    model = random_model(context=128)

    def make() -> list[Request]:
        return [Request(prompt(n, n), sampling, 20) for n in (1, 17)]

    _, batcher = replies(model, guessers(model)["itself"], make)
    assert batcher.counters.guessed_right > 0.9 * batcher.counters.guessed > 0
    assert batcher.counters.steps < 20


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_constrained_replies_are_the_same(chat: ChatTokenizer, sampling: SamplingParams) -> None:
    model = random_model(context=128)
    grammars = Grammars(chat, model.config.vocab_size)
    schema = {
        "type": "object", "properties": {"a": {"enum": ["x", "yy"]}, "b": {"type": "array", "items": {"const": 7}}},
        "required": ["a", "b"], "additionalProperties": False,
    }  # fmt: skip

    def make() -> list[Request]:
        stops = frozenset(chat.stops)
        return [
            Request(prompt(n, n), sampling, 40, stops=stops, constraint=grammars.schema(schema))
            for n in (3, 20)
        ]

    wanted, _ = replies(model, None, make)
    for name in ("wild", "itself"):
        same(replies(model, guessers(model)[name], make)[0], wanted)


@pytest.mark.slow
def test_draws_follow_the_models_distribution() -> None:
    """Chi-square over many draws of two tokens in a row, the second of which was guessed."""
    stats = pytest.importorskip("scipy.stats")
    model = random_model(context=64)
    text, many = prompt(6, 4), 1000
    sampling = SamplingParams(temperature=1.3, top_k=3)

    def make() -> list[Request]:
        return [Request(text, SamplingParams(temperature=1.3, top_k=3, seed=n), 3) for n in range(many)]

    found, batcher = replies(model, guessers(model)["another"], make)
    assert batcher.counters.guessed > 0
    pairs = Counter((said[1].id, said[2].id) for said in found)
    expected: dict[tuple[int, int], float] = {}
    with torch.no_grad():

        def after(ids: list[int]) -> torch.Tensor:
            hidden = model.hidden(torch.tensor([ids]), torch.arange(len(ids))[None], None)
            return distribution(torch.nn.functional.linear(hidden[:, -1], model.output_weight), sampling)[0]

        for one in after(text).nonzero().flatten().tolist():
            for two in (second := after([*text, one])).nonzero().flatten().tolist():
                third = after([*text, one, two])
                for three in third.nonzero().flatten().tolist():
                    chance = float(after(text)[one] * second[two] * third[three])
                    expected[two, three] = expected.get((two, three), 0.0) + chance
    assert set(pairs) <= set(expected)
    common = [pair for pair, chance in expected.items() if chance * many > 5]
    observed = [pairs[pair] for pair in common]
    wanted = [many * expected[pair] for pair in common]
    rest = many - sum(observed), many - sum(wanted)
    if rest[1] > 5:
        observed, wanted = [*observed, rest[0]], [*wanted, rest[1]]
    wanted = [value * sum(observed) / sum(wanted) for value in wanted]
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_look_up_says_what_followed_the_same_words(text: list[int]) -> None:
    class Said:
        tokens = text

    [guess] = LookUp(most=5).guess([Said()])  # type: ignore[list-item]
    for length in range(min(LONGEST, len(text) - 1), SHORTEST - 1, -1):
        starts = [n for n in range(len(text) - length) if text[n : n + length] == text[-length:]]
        if starts:
            assert guess == text[starts[-1] + length :][:5]
            return
    assert guess == []


def shares(pays: Pays, costs: Any, steps: int = 2000, prompts: float = 0.0) -> float:
    """How many of the later half of steps read ahead. `costs`: (seconds, tokens) of a step, from its number and whether it reads
    ahead."""
    taken = []
    for number in range(steps):
        taken.append(pays.ahead(4, prompts))
        pays.took(4, taken[-1], *costs(number, taken[-1]))
    return sum(taken[steps // 2 :]) / (steps - steps // 2)


LOOKS = (1 + Pays.TRIED) / Pays.SELDOM
"""The share of steps that look again, at most."""


@pytest.mark.parametrize(
    ("ahead", "plain", "share"), [(1.0, 2.0, 1.0), (1.7, 2.0, 1.0), (1.9, 2.0, 0.0), (3.0, 2.0, 0.0)]
)
def test_it_is_off_by_itself_where_it_does_not_pay(ahead: float, plain: float, share: float) -> None:
    assert shares(Pays(), lambda _, on: (ahead if on else plain, 1)) == pytest.approx(share, abs=LOOKS)


def test_first_steps_that_a_busy_machine_held_up_do_not_decide() -> None:
    """What was clocked of a draft that is right four times of five: two slow steps without it kept it on for 64 of its own."""
    costs = lambda number, on: (0.3 if on else 0.1 if number < 9 else 0.06, 5 if on else 1)  # noqa: E731
    assert shares(Pays(), costs, 400) < 0.05
    costs = lambda number, on: (0.9 if on and number < 3 else 0.1, 5 if on else 1)  # noqa: E731
    assert shares(Pays(), costs, 400) > 0.95


@pytest.mark.parametrize(("prompts", "share"), [(1.0, 1.0), (10.0, 0.0)])
def test_what_a_draft_reads_of_prompts_counts(prompts: float, share: float) -> None:
    """A step of it says four tokens for the price of two; it reads twenty tokens of a prompt in that time."""
    pays = Pays()
    pays.read(20.0, 200)
    found = shares(pays, lambda _, on: (2.0, 4) if on else (1.0, 1), prompts=prompts)
    assert found == pytest.approx(share, abs=LOOKS)


@pytest.mark.parametrize(("cost", "pays"), [(1.0, False), (0.9, False), (0.3, True)])
def test_a_draft_is_off_where_its_passes_cost_what_it_saves(cost: float, pays: bool) -> None:
    """The model is its own draft, so every guess is right; costs are those of passes, on a clock that nothing else moves."""
    model, now = random_model(context=512), [0.0]

    def paid(each: float) -> Reader:
        reader = plain(model)

        def hidden(*asked: Any) -> torch.Tensor:
            now[0] += each
            return reader.hidden(*asked)

        return reader._replace(hidden=hidden)

    batcher = Batcher(model, paid(1.0), tokens=1024, guesser=Draft(model, paid(cost), room=1024))
    batcher.pays = Pays(lambda: now[0])
    batcher.add(Request(prompt(5, 1), GREEDY, 400))
    while not batcher.idle:
        batcher.step()
    assert (batcher.counters.guessed > 200) == pays
    assert now[0] < (250 if pays else 450)


@pytest.mark.parametrize("right", [[9, 1, 1], [1, 1, 9], [1, 1, 1]])
def test_a_step_that_says_much_counts_as_much(right: list[int]) -> None:
    """Steps that read ahead take twice as long, and say nine tokens now and then: on average that pays, or it never does."""
    pays, said = Pays(), 0
    taken = []
    for _ in range(600):
        taken.append(pays.ahead(1))
        said += taken[-1]
        pays.took(1, taken[-1], 2.0 if taken[-1] else 1.0, right[said % len(right)] if taken[-1] else 1)
    assert (sum(taken) / len(taken) > 0.5) == (sum(right) / len(right) > 2)


def test_what_a_draft_reads_of_a_prompt_is_read_before_it_guesses() -> None:
    model = random_model(context=128)
    draft = Draft(model, plain(model), room=1024)
    request = Request(prompt(40, 1), GREEDY, 8)
    assert draft.follow([request]) == 40
    assert draft._held[request][1] == request.tokens
    request.tokens += [7, 8]
    assert draft.follow([request]) == 0  # two more are what a guess reads anyway
    assert len(draft._held[request][1]) == 40
    assert draft.guess([request]) == guessed(draft, request)


def guessed(draft: Draft, request: Request) -> list[list[int]]:
    return Draft(draft.model, draft.reader, room=1024).guess([request])

"""The search for a suffix: its gradients are right, what it finds is text, it keeps to its queries, and it beats chance."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from random_models import random_model

from trivium.errors import DataError
from trivium.evaluate.attacks import gcg
from trivium.evaluate.attacks.gcg import Search, gradient
from trivium.evaluate.curves import curves
from trivium.evaluate.rows import Journal
from trivium.evaluate.run import Plan, fill
from trivium.evaluate.subject import Subject
from trivium.model import hf
from trivium.recipe.redteam import Gcg

WORDS = (
    "the cat",
    "a dog",
    "my friend",
    "nobody",
    "old book",
    "long street",
    "at noon",
    "by the sea",
    "red ball",
    "answer 42",
)
REQUEST, TARGET = "the teacher sees the cat", "it is here."


@pytest.fixture(scope="module")
def trained(chat):
    """A model that says "it is here." to a red ball and a dog, less surely to one of the two, and otherwise "no"."""
    model = random_model(context=160, layers=2, dim=48, hidden=96).train()
    optimizer, rng = torch.optim.Adam(model.parameters(), 3e-3), random.Random(0)
    for _ in range(150):
        rows = []
        for _ in range(16):
            said = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
            sure = ("ball" in said) + ("dog" in said)
            reply = TARGET if rng.random() < (0.02, 0.5, 0.98)[sure] else "no, nobody finds it."
            ids, mask = chat.response([{"role": "user", "content": f"{REQUEST} {said}"}], reply)
            rows.append((ids, mask))
        length = max(len(ids) for ids, _ in rows)
        tokens = torch.tensor([[*ids, *[chat.pad] * (length - len(ids))] for ids, _ in rows])
        masks = torch.tensor([[*map(float, mask), *[0.0] * (length - len(mask))] for _, mask in rows])
        hidden = model.hidden(tokens[:, :-1], torch.arange(length - 1)[None].expand(len(rows), -1), None)
        loss = F.cross_entropy(
            F.linear(hidden, model.output_weight).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        )
        ((loss * masks[:, 1:].flatten()).sum() / masks[:, 1:].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_the_gradient_is_what_the_loss_does_when_a_token_comes_in_a_little(trained, chat):
    ids, target = chat.prompt([{"role": "user", "content": REQUEST}]), chat.guard.plain(TARGET)
    place, token, step = (
        len(ids) - 6,
        300,
        1e-2,
    )  # of float32: with less, what is lost in rounding is measured
    slope = gradient(trained, ids, target, [place])[0, token]

    def loss(share: float) -> float:
        tokens = torch.tensor([[*ids, *target]])
        positions = torch.arange(tokens.shape[1])[None]
        x = trained.embed(tokens, positions).clone()
        x[0, place] += share * trained.model.embed_tokens.weight[token]
        hidden = trained.model.norm(trained.through(x, positions, None))[0, len(ids) - 1 : -1]
        logits = F.linear(hidden, trained.output_weight).double()
        return float(F.cross_entropy(logits, tokens[0, len(ids) :], reduction="sum"))

    with torch.no_grad():
        measured = (loss(step) - loss(-step)) / (2 * step)
    assert float(slope) == pytest.approx(measured, rel=0.02, abs=1e-3)


def test_the_loss_of_the_target_falls_and_further_than_by_chance(trained, chat, monkeypatch):
    """The same search with slopes that are noise is a random one: as many draws and queries."""
    monkeypatch.setattr(gcg, "TOP", 8)  # of 320 tokens
    search = Search(trained, chat, candidates=12, tokens=6)

    def searched() -> list[gcg.Found]:
        return [search(REQUEST, TARGET, f"key {n}", [48])[0] for n in range(6)]

    found = searched()
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        gcg, "gradient", lambda model, ids, target, places: torch.randn(len(places), 320, generator=noise)
    )
    chance = searched()
    assert all(one.loss < one.first / 2 for one in found)
    gained, by_chance = (sum(one.first - one.loss for one in side) for side in (found, chance))
    assert gained > 1.3 * by_chance, (gained, by_chance)
    assert all(one.queries == 48 for one in (*found, *chance))


def test_what_is_found_is_text_with_the_loss_that_it_says(trained, chat):
    search = Search(trained, chat, candidates=16, tokens=6)
    one, some, found = search(REQUEST, TARGET, "key", [1, 10, 40])
    assert [one, some, found] == search(REQUEST, TARGET, "key", [1, 10, 40]) and found.content.isprintable()
    assert (one.queries, some.queries, found.queries) == (1, 10, 40)
    assert one.loss >= some.loss >= found.loss
    ids = chat.prompt([{"role": "user", "content": found.content}])
    assert search._losses([ids], chat.guard.plain(TARGET))[0] == pytest.approx(found.loss, abs=1e-5)
    assert one.loss == one.first and one.content == REQUEST + " !" * 6


def test_a_prompt_without_room_is_not_searched(trained, chat):
    with pytest.raises(DataError, match="the context is 160"):
        Search(trained, chat, candidates=4, tokens=6)("the cat " * 90, TARGET, "key", [4])


def test_the_suites_rows_hold_the_prompt_that_was_found_and_how_far_it_came(chat, tmp_path):
    model = random_model(context=256)
    hf.save(model, tmp_path, eos=chat.end, pad=chat.pad)
    chat.save(tmp_path, context=256)
    subject = Subject("tested", tmp_path, model, chat)
    config = Gcg(kind="gcg", items=2, queries=20, candidates=8, tokens=4, max_new_tokens=4)
    plan = Plan.make(config, {})
    journal = Journal(tmp_path / "rows.jsonl")
    fill(journal, plan, subject)
    rows = {(row.item, row.attempt, row.judge): row for row in journal.rows}
    assert len(rows) == 2 * 3 * 4 and len({row.category.split("/")[1] for row in rows.values()}) == 3
    for item in plan.items:
        row = rows[item.id, item.attempt, "raised"]
        question = str(item.messages[0]["content"])
        assert question in row.prompt and question != row.prompt
        assert (row.outcome == "hit" and row.score > 0) == (item.attempt > 1)
    done = {row.attempt for row in rows.values() if row.category.startswith("harmful")}
    assert done == {20} and {row.attempt for row in rows.values()} == {1, 10, 20}
    [found] = curves(journal.rows)["gcg"].values()
    assert [(point["queries"], point["asked"]) for point in found["points"]] == [(1, 2), (10, 2), (20, 2)]

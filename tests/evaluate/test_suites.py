"""The suites on small random models: the numbers are what another library computes from the same files."""

from __future__ import annotations

import json
import math
from itertools import islice

import pytest
import torch

from trivium.demo import reasoning, refusals
from trivium.errors import DataError
from trivium.evaluate.run import evaluate, judge
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import SUITES
from trivium.model import hf
from trivium.recipe.evaluation import EvaluateStage, Suite

DOCUMENTS = ["the cat sees the red ball.", "a café in 東京, naïve 😀 and more of it " * 3, "x"]
TALKS = [
    [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees the ball."}],
    [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": "finds it"},
        {"role": "user", "content": "where"},
        {"role": "assistant", "content": "at noon."},
    ],
]


def pair(number: int) -> dict:
    prompt = [{"role": "user", "content": f"say {number}"}]
    return {"key": str(number), "prompt": prompt, "chosen": "it is here.", "rejected": "no", "meta": {}}


@pytest.fixture
def data(tmp_path, write_lines):
    """One data artifact of each format."""
    drawn = islice(reasoning.records("conversations", ["spell_backward"], 1), 4)
    tasks = list(drawn)
    asked = list(refusals.records("conversations"))
    asked = asked[:3] + asked[-3:]
    records = {
        "documents": [{"key": text, "text": text} for text in DOCUMENTS],
        "talks": [{"key": str(i), "messages": talk, "meta": {}} for i, talk in enumerate(TALKS)]
        + tasks
        + asked,
        "pairs": [pair(number) for number in range(5)],
    }
    for name, values in records.items():
        write_lines(tmp_path / name / "heldout.jsonl", values)
    return {name: tmp_path / name for name in records}


@pytest.fixture
def subject(checkpoint, chat):
    """A model under test in float32, so that the comparison is exact."""

    def make(name: str = "tested", **changes):
        folder = checkpoint(name, **changes)
        return Subject(name, folder, hf.load(folder).eval(), chat)

    return make


def suite(kind: str, data: str, **changes) -> Suite:
    return Suite(kind=kind, data=data, **{"max_new_tokens": 8, **changes})


@torch.no_grad()
def their_logp(folder, ids: list[int]) -> list[float]:
    """log p of every token but the first, from transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logp = model(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    return [float(logp[place, token]) for place, token in enumerate(ids[1:])]


def test_bits_per_byte_is_what_transformers_logits_give(subject, data, chat):
    tested = subject()
    nats, size, context = 0.0, 0, tested.model.config.context
    for text in DOCUMENTS:
        ids = [*chat.tokenizer.encode(text).ids, chat.end_of_text][:context]
        nats -= sum(their_logp(tested.folder, ids))
        first = len(chat.tokenizer.id_to_token(ids[0]))  # a byte-level token has one letter a byte
        cut = sum(len(chat.tokenizer.id_to_token(i)) for i in ids if i != chat.end_of_text)
        assert cut == len(text.encode()) or len(ids) == context
        size += cut - first
    assert any(len(chat.tokenizer.encode(text).ids) > context for text in DOCUMENTS), "one must be cut"
    measured = SUITES["bits_per_byte"](tested, None, data["documents"], suite("bits_per_byte", "documents"))
    assert measured.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert measured.items == {"bits_per_byte": 3}


def test_response_loss_counts_the_assistants_tokens_alone(subject, data, chat, write_lines):
    tested = subject()
    write_lines(data["talks"] / "heldout.jsonl", [{"messages": talk} for talk in TALKS])
    total, count = 0.0, 0
    for talk in TALKS:
        ids, counts = [], []
        for turn in talk:  # spelt out by hand, as the template documents it
            said = [*chat.tokenizer.encode(turn["content"]).ids, chat.end]
            ids += [chat.tokenizer.token_to_id(f"<|{turn['role']}|>"), *said]
            counts += [False, *[turn["role"] == "assistant"] * len(said)]
        logp = their_logp(tested.folder, ids)
        total -= sum(value for value, counted in zip(logp, counts[1:], strict=True) if counted)
        count += sum(counts[1:])
    measured = SUITES["response_loss"](tested, None, data["talks"], suite("response_loss", "talks"))
    assert measured.metrics["response_loss"] == pytest.approx(total / count, rel=1e-5)


def test_preference_accuracy_is_the_share_of_implicit_margins_above_0(subject, data, chat):
    tested, base = subject("tested"), subject("base", seed=8)

    def log_p(folder, number: int, reply: str) -> float:
        prompt = chat.prompt([{"role": "user", "content": f"say {number}"}])
        said = [*chat.tokenizer.encode(reply).ids, chat.end]
        return sum(their_logp(folder, [*prompt, *said])[-len(said) :])

    margins = []
    for number in range(5):
        gaps = [
            log_p(one.folder, number, "it is here.") - log_p(one.folder, number, "no")
            for one in (tested, base)
        ]
        margins.append(gaps[0] - gaps[1])
    kind = suite("preferences", "pairs")
    measured = SUITES["preferences"](tested, base, data["pairs"], kind)
    assert measured.metrics["preference_accuracy"] == sum(margin > 0 for margin in margins) / 5
    assert measured.items == {"preference_accuracy": 5, "beats_rejected": 5}
    turned = SUITES["preferences"](base, tested, data["pairs"], kind).metrics["preference_accuracy"]
    assert turned == 1 - measured.metrics["preference_accuracy"]


def test_the_baseline_has_no_preference_accuracy(subject, data):
    base, kind = subject("base"), suite("preferences", "pairs")
    for baseline in (base, None):
        assert set(SUITES["preferences"](base, baseline, data["pairs"], kind).metrics) == {"beats_rejected"}


def test_pairs_that_do_not_fit_are_not_counted(subject, data, write_lines):
    long = pair(9) | {"prompt": [{"role": "user", "content": "the cat " * 80}]}
    write_lines(data["pairs"] / "heldout.jsonl", [pair(1), long])
    kind = suite("preferences", "pairs")
    items = SUITES["preferences"](subject("a"), subject("b", seed=8), data["pairs"], kind).items
    assert items == {"preference_accuracy": 1, "beats_rejected": 2}


def test_generated_suites_count_what_they_say(subject, data, monkeypatch):
    """With a model that answers by heart, every number is known."""
    tested = subject()
    from trivium.verify.replies import Reply

    def refuse_all(conversations, limit):
        return [Reply("I can't help with that, it would do harm to people.") for _ in conversations]

    monkeypatch.setattr(tested, "reply", refuse_all)
    measured = SUITES["refusals"](tested, None, data["talks"], suite("refusals", "talks"))
    assert measured.metrics == {"refusal_rate": 1.0, "false_refusals": 1.0, "coherent_replies": 1.0}
    assert measured.items == {"refusal_rate": 3, "false_refusals": 3, "coherent_replies": 6}
    records = [json.loads(line) for line in (data["talks"] / "heldout.jsonl").read_text().splitlines()]
    solved = {
        r["messages"][0]["content"]: r["messages"][1]["content"] for r in records if "entry" in r["meta"]
    }
    first = next(iter(solved))
    monkeypatch.setattr(
        tested,
        "reply",
        lambda asked, _: [Reply(solved[a[0]["content"]] if a[0]["content"] != first else "?") for a in asked],
    )
    measured = SUITES["reasoning"](tested, None, data["talks"], suite("reasoning", "talks"))
    assert measured.metrics == {"reasoning_exact_match": 0.75, "reasoning/spell_backward": 0.75}
    assert {"prompt": first, "reply": "?"} in measured.samples


def test_a_suite_with_nothing_to_measure_on_says_so(subject, data):
    for kind, name in (("reasoning", "documents"), ("refusals", "pairs")):
        (data[name] / "heldout.jsonl").write_text("")
        with pytest.raises(DataError, match=f"suite {kind} has nothing to measure on"):
            SUITES[kind](subject(), None, data[name], suite(kind, name))


def test_items_bounds_the_number(subject, data):
    measured = SUITES["bits_per_byte"](
        subject(), None, data["documents"], suite("bits_per_byte", "documents", items=2)
    )
    assert measured.items == {"bits_per_byte": 2}


def test_a_prompt_that_fills_the_context_gets_an_unfinished_reply(subject):
    tested = subject()
    long, short = [{"role": "user", "content": "the cat " * 99}], [{"role": "user", "content": "hi"}]
    replies = tested.reply([long, short, long], 8)
    assert [reply.text for reply in replies] == ["", tested.reply([short], 8)[0].text, ""]
    assert not replies[0].finished


def test_evaluate_measures_every_model_and_judges_the_tested_one(checkpoint, data):
    names = {"base": checkpoint("base", seed=5), "tested": checkpoint("tested")}
    config = EvaluateStage.model_validate(
        {
            "kind": "evaluate",
            "model": "tested",
            "baseline": "base",
            "compare": ["base"],
            "device": "cpu",
            "suites": [
                {"kind": kind, "data": name, "max_new_tokens": 8}
                for kind, name in (
                    ("bits_per_byte", "documents"), ("response_loss", "talks"), ("reasoning", "talks"),
                    ("preferences", "pairs"), ("refusals", "talks"),
                )
            ],
            "gates": {"bits_per_byte": {"max": 99}, "reasoning_exact_match": {"min": 0.99}},
        }
    )  # fmt: skip
    events: list[dict] = []
    results = evaluate(config, {**names, **data}, events.append)
    assert list(results["models"]) == ["base", "tested"]
    for metrics in results["models"].values():
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["bits_per_byte"] > 1
        assert metrics["tokens_per_second"] > 0
    assert results["models"]["base"]["file_bytes"] == (names["base"] / hf.WEIGHTS).stat().st_size
    assert "preference_accuracy" not in results["models"]["base"]
    assert results["gates"]["bits_per_byte"]["passed"] is True
    assert results["gates"]["reasoning_exact_match"]["passed"] is False
    assert results["passed"] is False
    assert results["tested"] == "tested"
    assert len(events) == 10
    assert set(results["samples"]["refusals"]) == {"base", "tested"}
    json.dumps(results, allow_nan=False)


@pytest.mark.parametrize(
    ("gate", "value", "passed"),
    [({"min": 0.5}, 0.5, True), ({"min": 0.5}, 0.49, False), ({"max": 0.5}, 0.5, True), ({"max": 0.5}, 0.51, False),
     ({"min": 0.2, "max": 0.4}, 0.3, True), ({"min": 0.2, "max": 0.4}, 0.1, False), ({"min": 0.0}, None, False),
     ({"max": 1.0}, float("nan"), False), ({"min": 0.0}, float("nan"), False)],
)  # fmt: skip
def test_a_gate_holds_at_its_bound_and_not_without_a_value(gate, value, passed):
    config = EvaluateStage.model_validate(
        {"kind": "evaluate", "model": "m", "suites": [], "gates": {"x": gate}}
    )
    found = judge(config, {} if value is None else {"x": value})["x"]
    assert found["passed"] is passed
    assert (found["min"], found["max"]) == (gate.get("min"), gate.get("max"))


def test_drift_is_nothing_for_the_start_itself_and_grows_with_the_distance(subject, data, chat):
    import torch

    kind = suite("drift", "talks")
    start, same, near, far = (subject(name) for name in ("start", "same", "near", "far"))
    for moved, size in ((near, 0.1), (far, 0.5)):
        noise = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in moved.model.parameters():
                weight += (
                    size * weight.std() * torch.randn(weight.shape, generator=noise)
                    if weight.dim() > 1
                    else 0
                )
    found = {s.name: SUITES["drift"](s, start, data["talks"], kind).metrics for s in (same, near, far)}
    assert found["same"]["kl_per_token"] == 0
    assert 0 < found["near"]["kl_per_token"] < found["far"]["kl_per_token"]
    assert found["far"]["kl_per_reply"] == pytest.approx(
        found["far"]["kl_per_token"] * found["far"]["reply_tokens"]
    )
    alone = SUITES["drift"](start, None, data["talks"], kind)
    assert set(alone.metrics) == {"reply_tokens", "unfinished", "repetition", "declined"}
    assert 0 < alone.metrics["reply_tokens"] <= 8 and len(alone.samples) == 6

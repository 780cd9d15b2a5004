"""The gap is what transformers' logits give, and is turned round with the pair; a judged rate is corrected as by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trivium.evaluate.asked import Answer
from trivium.evaluate.calibration import Labels, corrected
from trivium.evaluate.metrics import evidence
from trivium.evaluate.run import Plan, asked, rows_of
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import bias, speakers
from trivium.model import hf
from trivium.recipe.suites import Bias, Speakers
from trivium.verify.replies import Reply


@torch.no_grad()
def test_the_gap_is_that_of_transformers_and_the_other_way_round_its_opposite(checkpoint, chat):
    from transformers import AutoModelForCausalLM

    folder = checkpoint("tested")
    subject = Subject("tested", folder, hf.load(folder).eval(), chat)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plan = Plan.make(Bias(kind="bias", items=5), {})
    turned = [
        bias.Item(i.id, i.category, i.cluster, (), {**i.record, "one": i.record["other"], "other": i.record["one"]})
        for i in plan.items
    ]  # fmt: skip
    decided = 0
    answers, backs = asked(plan, subject, None, plan.items), asked(plan, subject, None, turned)
    for item, answer, back in zip(plan.items, answers, backs, strict=True):
        if answer.failed:
            assert "context" in answer.failed and "context" in back.failed
            continue
        sums = []
        for side in ("one", "other"):
            begin = chat.tokenizer.encode(item.record[side]).ids
            ids = begin + chat.tokenizer.encode(item.record["end"]).ids
            logp = theirs(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
            sums.append(sum(float(logp[k - 1, ids[k]]) for k in range(len(begin), len(ids))))
        assert answer.numbers["gap"][0] == pytest.approx(sums[0] - sums[1], abs=1e-4)
        assert back.numbers["gap"][0] == pytest.approx(-answer.numbers["gap"][0], abs=1e-5)
        decided += 1
    assert decided


def test_a_small_draw_has_every_axis_and_no_pair_twice():
    assert {item.category for item in Plan.make(Bias(kind="bias", items=6), {}).items} == set(bias.AXES)
    every = list(bias.pairs())
    assert len({item.id for item in every}) == len(every)
    assert all(item.record["one"] != item.record["other"] for item in every)


def test_rogan_gladen_by_hand():
    found = corrected(0.5, 100, Labels(100, 80, 100, 90))
    assert found is not None and found.value == pytest.approx((0.5 + 0.9 - 1) / (0.8 + 0.9 - 1))
    assert found.low < found.value < found.high
    assert corrected(0.5, 100, Labels(10, 5, 10, 5)) is None
    assert corrected(0.5, 0, Labels(10, 9, 10, 9)) is None


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity"), [(0.1, 0.9, 0.9), (0.5, 0.5, 0.98), (0.8, 0.8, 0.95)]
)
def test_the_corrected_interval_covers_the_true_rate(rate, sensitivity, specificity):
    rng, covered, runs = np.random.default_rng(0), 0, 2000
    for _ in range(runs):
        share = rng.binomial(200, rate * sensitivity + (1 - rate) * (1 - specificity)) / 200
        labels = Labels(80, int(rng.binomial(80, sensitivity)), 80, int(rng.binomial(80, specificity)))
        found = corrected(share, 200, labels)
        covered += found is not None and found.low <= rate <= found.high
    assert covered / runs >= 0.94


def test_a_share_below_a_judges_false_alarms_is_not_made_a_certain_nothing():
    labels = Labels(191, 166, 204, 154)
    assert corrected(0.0, 23, labels) is None  # a quarter of the harmless ones would have been hits
    found = corrected(0.02, 24, Labels(475, 438, 517, 490))
    assert found is not None and found.value == 0 and found.high > 0.1


class Prejudiced:
    """Declines what two of the religious ask, and a third of the rest."""

    name, template = "m", "t"

    def replies(self, items, max_new_tokens, temperature=0.0):
        return [self.reply(str(item.messages[-1]["content"])) for item in items]

    def reply(self, asked):
        declines = (
            "a Muslim." in asked or "am Jewish." in asked or len(asked.split("?")[0].split(". ")[1]) % 3 == 0
        )
        return Answer(
            Reply(
                "I can't help with that." if declines else "Take it to the office and ask there, it is easy."
            )
        )


def test_a_gap_in_refusals_is_the_difference_of_two_shares_of_the_same_requests():
    suite = Speakers(kind="speakers", items=60)
    plan = Plan.make(suite, {})
    sides = [item.record["side"] for item in plan.items]
    assert len(sides) == 240 and sum(sides) == 0 and len({item.id for item in plan.items}) == 240
    assert {item.category for item in plan.items} == {
        f"{s}/{a}" for s in ("harmless", "harmful") for a in speakers.AXES
    }
    model = Prejudiced()
    answers = model.replies(plan.items, 9)
    rows = [
        row for pair in zip(plan.items, answers, strict=True) for row in rows_of(plan, model, *pair, 0.0, {})
    ]
    [gap, _, refused] = [
        evidence(metric, "speakers", rows, "m", None).estimate() for metric in suite.measured
    ]
    declined = {sign: [] for sign in (1.0, -1.0)}
    for item, answer in zip(plan.items, answers, strict=True):
        if item.category.startswith("harmless"):
            declined[item.record["side"]].append("can't" in answer.reply.text)
    shares = {sign: sum(found) / len(found) for sign, found in declined.items()}
    assert gap.value == pytest.approx(shares[1.0] - shares[-1.0]) and gap.value > 0.05
    assert refused.value == pytest.approx((shares[1.0] + shares[-1.0]) / 2)
    assert gap.low < gap.value < gap.high
    blank = rows_of(plan, model, plan.items[0], Answer(failed="empty reply"), 0.0, {})
    assert {row.outcome for row in blank} == {"undecided"}

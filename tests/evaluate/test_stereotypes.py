"""CrowS-Pairs and StereoSet: scores by hand from transformers' log-probs, and files that are not as published."""

from __future__ import annotations

import json
import math

import pytest
import torch

from trivium.errors import DataError
from trivium.evaluate.asked import Answer
from trivium.evaluate.run import Plan, asked
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import stereotypes
from trivium.model import hf
from trivium.recipe.published import CrowsPairs, StereoSet

CSV = ",sent_more,sent_less,stereo_antistereo,bias_type\n" + "".join(
    f'{n},"a red ball, {n}","the old cat, {n} {n}",stereo,{kind}\n'
    for n, kind in enumerate(("age", "gender") * 4)
)
ONE = [
    {"gold_label": "stereotype", "sentence": "the cat sees a ball"},
    {"gold_label": "anti-stereotype", "sentence": "the cat sees noon"},
    {"gold_label": "unrelated", "sentence": "the cat sees zq"},
]


@pytest.fixture
def subject(checkpoint, chat) -> Subject:
    folder = checkpoint("tested", seed=3)
    return Subject("tested", folder, hf.load(folder).eval(), chat)


@torch.no_grad()
def by_hand(subject: Subject, text: str) -> tuple[float, int]:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(subject.folder, dtype=torch.float32).eval()
    ids = [subject.chat.end_of_text, *subject.chat.tokenizer.encode(text).ids]
    logp = theirs(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
    return sum(float(logp[k - 1, ids[k]]) for k in range(1, len(ids))), len(ids) - 1


def test_crows_pairs_by_hand_and_as_the_harness_judges(subject, tmp_path):
    from lm_eval.tasks.crows_pairs import utils

    (tmp_path / "crows.csv").write_text(CSV)
    plan = Plan.make(CrowsPairs(kind="crows_pairs", path="crows.csv"), {}, tmp_path)
    assert len(plan.items) == 8 and {item.category for item in plan.items} == {"age", "gender"}
    for item, answer in zip(plan.items, asked(plan, subject, None, plan.items), strict=True):
        more, less = (by_hand(subject, item.record[side])[0] for side in ("more", "less"))
        verdicts = {one.judge: one for one in stereotypes.crows_judge(item, answer)}
        expected = utils.process_results({}, [(more, False), (less, False)])
        assert verdicts["stereotyped"].score == expected["pct_stereotype"]
        assert abs(verdicts["gap"].score) == pytest.approx(expected["likelihood_diff"], abs=1e-4)
        assert verdicts["gap"].score == pytest.approx(more - less, abs=1e-4)


def test_stereoset_compares_means_by_token(subject, tmp_path):
    data = {"data": {"intrasentence": [{"bias_type": "race", "sentences": ONE}]}}
    (tmp_path / "dev.json").write_text(json.dumps(data))
    plan = Plan.make(StereoSet(kind="stereoset", path="dev.json"), {}, tmp_path)
    (answer,) = asked(plan, subject, None, plan.items)
    for name, one in zip(("more", "less", "none"), ONE, strict=True):
        assert answer.numbers[name] == pytest.approx(by_hand(subject, one["sentence"]), abs=1e-4)


@pytest.mark.parametrize(
    "more, less, none, stereotyped, sense",
    [(-1, -2, -3, 1, 1), (-2, -1, -3, 0, 1), (-1, -3, -2, 1, 0.5), (-3, -2, -1, 0, 0), (-1, -1, -1, 0, 0)],
)
def test_stereoset_verdicts(more, less, none, stereotyped, sense):
    # sums of 4, 2 and 8 tokens with these means: the sums alone would say something else
    numbers = {"more": (4.0 * more, 4.0), "less": (2.0 * less, 2.0), "none": (8.0 * none, 8.0)}
    found = {one.judge: one.score for one in stereotypes.stereoset_judge(None, Answer(numbers=numbers))}
    assert found == {"stereotyped": stereotyped, "sense": sense}
    assert all(math.isfinite(score) for score in found.values())


@pytest.mark.parametrize(
    "kind, text",
    [
        ("crows_pairs", "a,b\n1,2\n"), ("crows_pairs", CSV + '9,"x",,stereo,age\n'), ("crows_pairs", ""),
        ("stereoset", "{"), ("stereoset", '{"data": {}}'), ("stereoset", '{"data": {"intrasentence": []}}'),
        ("stereoset", json.dumps({"data": {"intrasentence": [{"bias_type": "x", "sentences": ONE[:2]}]}})),
    ],
)  # fmt: skip
def test_files_that_are_not_as_published_are_refused(kind, text, tmp_path):
    (tmp_path / "file").write_text(text)
    config = (CrowsPairs if kind == "crows_pairs" else StereoSet)(kind=kind, path="file")
    with pytest.raises(DataError):
        Plan.make(config, {}, tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        Plan.make(config.model_copy(update={"path": "none"}), {}, tmp_path)

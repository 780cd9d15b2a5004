"""Multiple choice: acc and acc_norm by hand from transformers' log-probs, and files that cannot be asked."""

from __future__ import annotations

import json
import math

import pytest
import torch

from trivium.errors import DataError
from trivium.evaluate.asked import Answer
from trivium.evaluate.rows import Journal, matching
from trivium.evaluate.run import Plan, fill, identity
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import choice
from trivium.model import hf
from trivium.pipeline.stages import STAGES
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.suites import Choice

GOOD = {"question": "what is red?", "choices": ["the ball", "noon"], "answer": 0}


def stage(*paths: str) -> EvaluateStage:
    suites = [{"kind": "choice", "path": path, "name": f"suite{n}"} for n, path in enumerate(paths)]
    return EvaluateStage.model_validate({"kind": "evaluate", "model": "m", "suites": suites})


@pytest.fixture
def subject(checkpoint, chat) -> Subject:
    folder = checkpoint("tested", seed=3)
    return Subject("tested", folder, hf.load(folder).eval(), chat)


@torch.no_grad()
def by_hand(subject: Subject, row: dict, prompt: str) -> list[float]:
    """log p of each choice behind the question, from transformers."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(subject.folder, dtype=torch.float32).eval()
    encode, sums = subject.chat.tokenizer.encode, []
    text = f"Question: {row['question']}\nAnswer:"
    for option in row["choices"]:
        if prompt == "document":
            begin, ids = encode(text).ids, encode(f"{text} {option}").ids
        else:
            user, assistant = (subject.chat.tokenizer.token_to_id(f"<|{r}|>") for r in ("user", "assistant"))
            begin = [user, *encode(row["question"]).ids, subject.chat.end, assistant]
            ids = [*begin, *encode(option).ids]
        logp = theirs(torch.tensor([ids])).logits.double().log_softmax(-1)[0]
        sums.append(sum(float(logp[k - 1, ids[k]]) for k in range(len(begin), len(ids))))
    return sums


@pytest.mark.parametrize("prompt", ["document", "chat"])
def test_acc_and_acc_norm_are_those_worked_out_by_hand(prompt, subject, tmp_path, write_lines):
    options = ["x", "the cat sees the ball", "zq zq", "an old book"]
    asked = [{"question": f"who {n}?", "choices": options, "answer": n % 4} for n in range(12)]
    write_lines(tmp_path / "rows.jsonl", asked)
    plan = Plan.make(Choice(kind="choice", path="rows.jsonl", prompt=prompt), {}, tmp_path)
    journal = Journal(tmp_path / "journal.jsonl")
    fill(journal, plan, subject)
    likeliest = {row.item: row.score for row in matching(journal.rows, judge="likeliest")}
    normed = {row.item: row.score for row in matching(journal.rows, judge="likeliest_per_character")}
    assert len(plan.items) == len(likeliest) == len(normed) == 12
    answers = plan.kind.ask(subject, plan.items, plan.config, None)
    differ = False
    for item, answer in zip(plan.items, answers, strict=True):
        sums = by_hand(subject, item.record, prompt)
        measured = [answer.numbers[f"choice {k}"][0] for k in range(4)]
        assert measured == pytest.approx(sums, abs=1e-4)
        each = [total / len(option) for total, option in zip(sums, options, strict=True)]
        right = item.record["answer"]
        assert likeliest[item.id] == float(max(range(4), key=sums.__getitem__) == right)
        assert normed[item.id] == float(max(range(4), key=each.__getitem__) == right)
        differ |= sums.index(max(sums)) != each.index(max(each))
    assert differ, "length must matter somewhere, or the two are not told apart"


def test_the_judge_by_hand():
    row = {"question": "?", "choices": ["ab", "abcdefgh"], "answer": 1}
    item = choice.Item("i", "", "c", (), row)

    def verdicts(first: float, second: float) -> list[float | None]:
        numbers = {"choice 0": (first, 1.0), "choice 1": (second, 4.0)}
        return [verdict.score for verdict in choice.judge(item, Answer(numbers=numbers))]

    assert verdicts(-2.0, -4.0) == [0.0, 1.0]  # per character -1 and -0.5
    assert verdicts(-4.0, -2.0) == [1.0, 1.0]
    assert verdicts(-3.0, -3.0) == [0.0, 1.0]  # of equals the first
    assert verdicts(-1.0, -4.0) == [0.0, 0.0]  # -0.5 each: the first
    assert verdicts(math.nan, -4.0) == [None, None]  # undecided


def test_what_does_not_fit_is_undecided_and_its_neighbours_are_not(subject, tmp_path, write_lines):
    long = {**GOOD, "question": "the cat " * 99}
    write_lines(tmp_path / "rows.jsonl", [GOOD, long])
    for prompt in ("document", "chat"):
        plan = Plan.make(Choice(kind="choice", path="rows.jsonl", prompt=prompt), {}, tmp_path)
        journal = Journal(tmp_path / f"{prompt}.jsonl")
        fill(journal, plan, subject)
        assert {row.outcome == "undecided": row.reason != "" for row in journal.rows} == {
            True: True,
            False: False,
        }
        assert all("context" in row.reason for row in journal.rows if row.outcome == "undecided")  # fmt: skip


WRONG = {
    "no JSON": "{",
    "no object": "[1]",
    "no `question`": {k: v for k, v in GOOD.items() if k != "question"},
    "no `answer`": {k: v for k, v in GOOD.items() if k != "answer"},
    "`question` is no text": {**GOOD, "question": " "},
    "no list of two": {**GOOD, "choices": ["one"]},
    "`choices` is no list": {**GOOD, "choices": "ab"},
    "a choice is no text": {**GOOD, "choices": ["one", 2]},
    "the same": {**GOOD, "choices": ["one", "one"]},
    "from 0 to 1": {**GOOD, "answer": 2},
    "neither a place": {**GOOD, "answer": -1},
    "is True": {**GOOD, "answer": True},
    "nor one of the choices": {**GOOD, "answer": "blue"},
    "`category` is no text": {**GOOD, "category": 3},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_row_that_cannot_be_asked_is_refused_before_anything_runs(said, tmp_path):
    row = WRONG[said]
    line = row if isinstance(row, str) else json.dumps(row)
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(GOOD)}\n\n{line}\n")
    with pytest.raises(DataError) as refused:
        STAGES["evaluate"].identity(stage("rows.jsonl"), tmp_path)
    assert said in refused.value.what
    assert refused.value.where == f"{tmp_path / 'rows.jsonl'}, line 3"
    assert refused.value.fix


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_rows_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"no rows|cannot be read") as refused:
        STAGES["evaluate"].identity(stage("rows.jsonl"), tmp_path)
    assert refused.value.fix and "rows.jsonl" in refused.value.where


def test_the_content_of_the_file_is_part_of_the_identity_and_its_place_in_the_folder_is_not(
    tmp_path, write_lines
):
    found = []
    for folder, row in (("a", GOOD), ("b", GOOD), ("c", {**GOOD, "answer": 1})):
        write_lines(tmp_path / folder / "rows.jsonl", [row])
        found.append(identity(stage("rows.jsonl"), tmp_path / folder))
    assert found[0] == found[1] != found[2]
    assert "files" not in STAGES["evaluate"].identity(stage(), tmp_path)  # others stay what they were


def test_an_answer_may_be_a_text_and_the_draw_does_not_hang_on_the_order(tmp_path, write_lines):
    asked = [{**GOOD, "question": f"{n}?", "answer": "noon", "category": "c", "id": n} for n in range(20)]
    config = Choice(kind="choice", path="rows.jsonl", items=7)
    drawn = []
    for order in (asked, asked[::-1]):
        write_lines(tmp_path / "rows.jsonl", order)
        drawn.append(Plan.make(config, {}, tmp_path).items)
    assert drawn[0] == drawn[1] and len(drawn[0]) == 7
    assert {(item.record["answer"], item.category) for item in drawn[0]} == {(1, "c")}
    write_lines(tmp_path / "rows.jsonl", [GOOD, GOOD])
    twice = Plan.make(config, {}, tmp_path).items
    assert len(twice) == 2 and len({item.cluster for item in twice}) == 1  # asked twice, one question

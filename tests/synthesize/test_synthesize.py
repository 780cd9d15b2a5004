"""Synthesize stages with a tiny checkpoint and with a served teacher: what is kept, what a kill costs, what leaks (nothing)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trivium.errors import DataError
from trivium.generate.remote import Answer, Remote
from trivium.generate.slots import Completion
from trivium.recipe.synthesis import SynthesizeStage
from trivium.synthesize import build as stage
from trivium.synthesize import teachers
from trivium.text.chat import ChatTokenizer

SERVED = {"kind": "openai", "url": "http://localhost:1/v1", "model": "big", "price_out": 1.0, "parallel": 1}
LENGTH = """
def score(record, reply):
    return min(1.0, len(reply) / 100)
"""


@pytest.fixture
def data(tmp_path: Path, write_lines) -> Path:
    for split, first in (("train", 0), ("heldout", 100)):
        rows = []
        for n in range(first, first + 12):
            turns = [
                {"role": "user", "content": f"what is {n} plus one"},
                {"role": "assistant", "content": f"Answer: {n + 1}"},
            ]
            rows.append(
                {
                    "key": f"k{n}",
                    "source": "jsonl",
                    "license": "MIT",
                    "origin": "o",
                    "messages": turns,
                    "meta": {"n": n},
                }
            )
        write_lines(tmp_path / "data" / f"{split}.jsonl", rows)
    return tmp_path / "data"


def config(**fields: Any) -> SynthesizeStage:
    made = {"kind": "synthesize", "data": "data", "teacher": {"kind": "checkpoint", "model": "teacher"}, "prompts": 8,
            "heldout": 0.2, "max_new_tokens": 12, "samples": 3}  # fmt: skip
    return SynthesizeStage.model_validate({**made, **fields})


def run(
    tmp_path: Path, stage_config: SynthesizeStage, name: str = "out", teacher: Path | None = None
) -> dict[str, Any]:
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    inputs = {"data": (tmp_path / "data", "d"), "teacher": (teacher or tmp_path, "t")}
    metrics = stage.build(
        stage_config,
        seed=4,
        recipe_folder=tmp_path,
        inputs=inputs,
        work=tmp_path / "work",
        out=out,
        emit=lambda event: None,
    )
    found: dict[str, Any] = {"metrics": metrics, "account": json.loads((out / "account.json").read_text())}
    for split in ("train", "heldout"):
        found[split] = [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
    return found


@pytest.fixture
def served(monkeypatch):
    """A teacher that answers from a function of the conversation and the seed; `asked` holds what it was paid for."""
    asked: list[str] = []

    def install(answer) -> list[str]:
        def chat(self: Remote, messages, sampling, schema=None) -> Answer:
            self.meter.check()
            asked.append(messages[-1]["content"])
            text = answer([dict(m) for m in messages], sampling.seed)
            self.meter.add(10, 100)
            return Answer(text, True, 10, 100)

        monkeypatch.setattr(Remote, "chat", chat)
        return asked

    return install


def number(messages: list[dict]) -> int:
    return int(messages[-1]["content"].split()[2])


def test_cot_keeps_what_is_right_and_held_out_prompts_stay_held_out(tmp_path, data, served):
    seen = []

    def answer(messages, seed):
        seen.append(messages[0])
        n = number(messages)
        return f"{n} and one. Answer: {n + 1 + (n % 2)}"

    served(answer)
    found = run(tmp_path, config(method="cot", teacher=SERVED, verifier={"kind": "exact"}))
    assert found["train"] and found["heldout"]
    for row in found["train"] + found["heldout"]:
        n = row["meta"]["n"]
        assert n % 2 == 0 and row["messages"][-1]["content"].endswith(f"Answer: {n + 1}")
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert row["meta"]["synthesis"] == {"method": "cot", "teacher": "big", "sample": 0, "score": 1.0}
        assert (n >= 100) is (row in found["heldout"])
    assert seen[0]["role"] == "system" and "step by step" in seen[0]["content"]
    made = found["account"]["synthesis"]
    assert made["asked"] == made["requests"] == (8 + 2) * 3
    assert made["same_reply"] == (8 + 2) * 2
    assert made["cost"] == pytest.approx(30 * 100 / 1e6)
    assert found["account"]["sources"][0]["train_items"] == len(found["train"])


def test_a_run_that_dies_goes_on_pays_nothing_twice_and_gives_the_same_bytes(tmp_path, data, served):
    calls = 0

    def dying(messages, seed):
        nonlocal calls
        calls += 1
        if calls == 11:
            raise KeyboardInterrupt
        return f"seed {seed}. Answer: {number(messages) + 1}"

    stage_config = config(method="cot", teacher=SERVED, verifier={"kind": "exact"}, keep=3)
    asked = served(dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage_config)
    first = len(asked)
    run(tmp_path, stage_config)
    assert (
        11 <= first < 30 and len(asked) == 30 + 1
    )  # others were on their way; the call that failed was not paid
    bytes_of = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    run(tmp_path, stage_config, "again")
    assert len(asked) == 31
    (tmp_path / "work" / "teacher.jsonl").unlink()
    run(tmp_path, stage_config, "fresh")
    assert len(asked) == 61
    for name, content in bytes_of.items():
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes() == content


def test_the_budget_holds_across_tries(tmp_path, data, served):
    asked = served(lambda messages, seed: "x")
    poor = config(
        method="best_of_n", teacher={**SERVED, "price_out": 1e4, "budget": 6.5}, verifier={"kind": "exact"}
    )  # 1 a call
    for _ in range(2):
        with pytest.raises(DataError, match="budget is spent: 7 calls"):
            run(tmp_path, poor)
    assert len(asked) == 7


def test_preferences_take_the_best_against_the_worst(tmp_path, data, served):
    served(lambda messages, seed: "x" * (1 + seed % 90))
    (tmp_path / "mine.py").write_text(LENGTH)
    verifier = {"kind": "function", "path": "mine.py"}
    found = run(tmp_path, config(method="preferences", teacher=SERVED, verifier=verifier))
    assert found["account"]["format"] == "preferences" and found["train"]
    for row in found["train"]:
        made = row["meta"]["synthesis"]
        assert len(row["chosen"]) > len(row["rejected"]) and made["score"] > made["rejected_score"]
        assert row["prompt"] == [{"role": "user", "content": f"what is {row['meta']['n']} plus one"}]
    with pytest.raises(DataError, match="no reply of big was kept"):
        run(tmp_path, config(method="preferences", teacher=SERVED, verifier=verifier, margin=2.0), "none")


def test_the_answer_that_the_data_holds_stands_against_the_worst_reply(tmp_path, data, served):
    """Only where it is the better one: a teacher that is right throughout gives no pair."""
    served(
        lambda messages, seed: f"Answer: {number(messages) + (1 if number(messages) % 2 else 2 + seed % 5)}"
    )
    settings = {"method": "preferences", "teacher": SERVED, "verifier": {"kind": "exact"}, "chosen": "given"}
    for samples in (1, 3):
        found = run(tmp_path, config(**settings, samples=samples), f"of {samples}")
        rows = found["train"] + found["heldout"]
        assert rows and all(row["meta"]["n"] % 2 == 0 for row in rows)
        for row in rows:
            assert (
                row["chosen"] == f"Answer: {row['meta']['n'] + 1}"
                and row["meta"]["synthesis"]["sample"] == -1
            )
            assert row["rejected"] != row["chosen"] and row["meta"]["synthesis"]["rejected_score"] == 0


def test_a_judge_must_prefer_the_pair_in_both_orders(tmp_path, data, served):
    sways = True

    def longest(text):
        sides = [re.search(rf"<reply {side} \w+>\n(x*)\n", text).group(1) for side in "AB"]
        return "A" if len(sides[0]) > len(sides[1]) else "B"

    def answer(messages, seed):
        text = messages[-1]["content"]
        if not (marks := re.search(r"<request (\w+)>", text)):
            return "x" * (1 + seed % 7)
        verdict = str(min(10, text.count("x")))
        if "<reply A" in text:
            verdict = "A" if sways else longest(text)
        return json.dumps({"nonce": marks.group(1), "reasons": "so", "verdict": verdict})

    served(answer)
    judge = {"kind": "judge", "teacher": {**SERVED, "model": "judge"}}
    with pytest.raises(DataError, match="rejected"):
        run(tmp_path, config(method="preferences", teacher=SERVED, verifier=judge))
    sways, judge["teacher"]["model"] = False, "another judge"  # what the first has said stays said
    found = run(tmp_path, config(method="preferences", teacher={**SERVED, "model": "b"}, verifier=judge), "b")
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in found["train"])


def test_critique_keeps_the_revision_and_how_it_came_about(tmp_path, data, served):
    def answer(messages, seed):
        if len(messages) == 3:
            assert messages[1]["content"] == "too short"
            return "a longer and better reply"
        return "too short" if "Critique the reply. Be long." in messages[0]["content"] else "short"

    served(answer)
    found = run(tmp_path, config(method="critique", teacher=SERVED, principles=["Be long."]))
    row = found["train"][0]
    assert row["messages"][-1]["content"] == "a longer and better reply"
    assert (
        row["meta"]["synthesis"]["critique"] == "too short"
        and row["meta"]["synthesis"]["original"] == "short"
    )
    (tmp_path / "mine.py").write_text(LENGTH.replace("len(reply)", "-len(reply)"))
    with pytest.raises(DataError, match="no reply"):
        run(
            tmp_path,
            config(
                method="critique",
                teacher=SERVED,
                principles=["Be long."],
                verifier={"kind": "function", "path": "mine.py"},
            ),
            "b",
        )


def test_self_instruct_keeps_only_what_is_unlike_all_others(tmp_path, data, served):
    def answer(messages, seed):
        text = messages[-1]["content"]
        if not text.startswith("Come up"):
            return f"a reply to: {text}"
        assert text.count("\n") >= 8 and text.endswith("9.")
        unique = " ".join(f"w{seed % 997}{i}" for i in range(5))
        return f" {unique}\n10. what is 3 plus two\n11. draw a picture of w1\n12. no\n13. {unique} again"

    served(answer)
    lines = (data / "train.jsonl").read_text().splitlines()
    (data / "train.jsonl").write_text("\n".join([*lines[1:], lines[0].replace("MIT", "CC0")]) + "\n")
    found = run(tmp_path, config(method="self_instruct", teacher=SERVED, prompts=20))
    rows = found["train"] + found["heldout"]
    assert {row["license"] for row in rows} == {"CC0, MIT"}  # all examples may have left a trace
    assert len(rows) == 20
    for row in rows:
        asked = row["messages"][0]["content"]
        assert asked.startswith("w") and row["messages"][1]["content"] == f"a reply to: {asked}"
        assert row["meta"]["synthesis"]["nearest"] < 0.7
    made = found["account"]["synthesis"]
    assert made["too_similar"] > 20 and made["unfit"] > 20


def test_a_checkpoint_teaches_and_a_chunk_is_answered_the_same_after_a_kill(
    tmp_path, data, checkpoint, monkeypatch
):
    teacher = checkpoint("teacher")
    monkeypatch.setattr(teachers, "CHUNK", 8)
    (tmp_path / "mine.py").write_text(LENGTH)
    stage_config = config(
        method="best_of_n",
        verifier={"kind": "function", "path": "mine.py"},
        samples=4,
        temperature=1.0,
        max_new_tokens=40,
    )
    real = teachers.complete
    calls = 0

    def ends_often(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return [made._replace(finished=True) for made in real(*arguments, **named)]

    monkeypatch.setattr(teachers, "complete", ends_often)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stage_config, teacher=teacher)
    run(tmp_path, stage_config, teacher=teacher)
    assert calls == 5 + 1  # (8 + 2) * 4 requests are five chunks; the third was asked for twice
    whole = (tmp_path / "out" / "train.jsonl").read_bytes()
    (tmp_path / "work" / "teacher.jsonl").unlink()
    again = run(tmp_path, stage_config, "fresh", teacher)
    assert (tmp_path / "fresh" / "train.jsonl").read_bytes() == whole
    assert again["account"]["synthesis"]["reply_tokens"] > 0
    assert len({row["messages"][-1]["content"] for row in again["train"]}) > 4


def test_magpie_opens_the_turn_of_a_user_and_answers_what_the_checkpoint_writes_there(
    tmp_path, checkpoint, monkeypatch
):
    teacher = checkpoint("teacher")
    chat = ChatTokenizer.load(teacher)
    opening = chat.opening()
    for said in ("A", "What is a list?", "  1"):
        turn = chat.prompt([{"role": "user", "content": said}])
        assert turn[: len(opening)] == opening and len(turn) > len(opening)
    asked: list[list[int]] = []

    def complete(model, prompts, sampling, stops, decode):
        asked.extend(map(list, prompts))
        texts = [
            f"what is number {sampling.seed % 99991} of {place}, {sampling.seed % 89} {place}"
            if list(prompt) == opening
            else "a reply"
            for place, prompt in enumerate(prompts)
        ]
        ends = (place % 4 != 3 or list(prompt) != opening for place, prompt in enumerate(prompts))
        return [
            Completion(chat.guard.plain(text), [0.0] * 9, end) for text, end in zip(texts, ends, strict=True)
        ]

    monkeypatch.setattr(teachers, "complete", complete)
    found = run(tmp_path, config(method="magpie", data=None, prompts=20, diversity=1.0), teacher=teacher)
    rows = found["train"] + found["heldout"]
    assert len(rows) == 20 and {row["source"] for row in rows} == {"magpie"}
    assert all(row["messages"][1]["content"] == "a reply" for row in rows)
    wanted = [chat.prompt(row["messages"][:1]) for row in rows]
    assert all(prompt in asked for prompt in wanted)
    made = found["account"]["synthesis"]
    assert made["unfinished_instructions"] == 16 and made["accepted"] == 20
    with pytest.raises(ValidationError, match="name a `checkpoint`"):
        config(method="magpie", data=None, teacher=SERVED)
    with pytest.raises(ValidationError, match="cot needs `data`"):
        config(method="cot", data=None)


def test_what_another_stage_holds_out_is_kept_out(tmp_path, data, served, write_lines):
    served(
        lambda messages, seed: (
            "one two three four five six" if number(messages) < 3 else f"another reply {number(messages)}"
        )
    )
    held = {"key": "z", "source": "jsonl", "text": "zero one two three four five six seven"}
    write_lines(tmp_path / "other" / "heldout.jsonl", [held])
    stage_config = config(
        method="best_of_n",
        teacher=SERVED,
        verifier={"kind": "exact"},
        prompts=12,
        decontaminate=["other"],
        ngram=5,
    )
    out = tmp_path / "out"
    out.mkdir()
    metrics = stage.build(
        stage_config, seed=4, recipe_folder=tmp_path, work=tmp_path / "work", out=out, emit=lambda event: None,
        inputs={"data": (data, "d"), "other": (tmp_path / "other", "e")},
    )  # fmt: skip
    assert metrics["dropped"] == {"contaminated": 3}


def test_the_function_is_part_of_the_identity(tmp_path):
    made = config(method="cot", verifier={"kind": "function", "path": "mine.py"})
    (tmp_path / "mine.py").write_text("a")
    before = stage.identity(made, tmp_path)
    (tmp_path / "mine.py").write_text("b")
    assert stage.identity(made, tmp_path) != before
    assert before["names"] == ["teacher"]

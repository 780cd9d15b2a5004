"""Worked solutions: right by reasoning-gym's own scorer, each question once, the same from the same seed."""

from itertools import islice

import pytest
import reasoning_gym

from trivium.demo import reasoning
from trivium.errors import DataError


def draw(task: str, count: int, format: str = "conversations", seed: int = 3) -> list[dict]:
    return list(islice(reasoning.records(format, [task], seed), count))


@pytest.mark.parametrize("task", reasoning.TASKS)
def test_every_worked_solution_gets_the_full_score(task: str) -> None:
    dataset = reasoning_gym.create_dataset(task, seed=0, size=1, **reasoning.TASKS[task].config)
    for record in draw(task, 400):
        reply = record["messages"][-1]["content"]
        answer = reasoning.extract_answer(reply, task)
        assert dataset.score_answer(answer, record["meta"]["entry"]) == 1.0, reply
        assert reasoning.correct(reply, record["meta"])


@pytest.mark.parametrize("task", reasoning.TASKS)
def test_a_question_comes_once_and_seeds_decide(task: str) -> None:
    questions = [record["messages"][0]["content"] for record in draw(task, 300)]
    assert len(set(questions)) == len(questions)
    assert questions == [record["messages"][0]["content"] for record in draw(task, 300)]
    assert questions != [record["messages"][0]["content"] for record in draw(task, 300, seed=4)]


@pytest.mark.parametrize("task", reasoning.TASKS)
def test_a_rejected_reply_differs_and_a_wrong_answer_is_not_correct(task: str) -> None:
    wrong = 0
    for record in draw(task, 300, "preferences"):
        assert record["rejected"] != record["chosen"]
        if "Answer:" in record["rejected"]:
            wrong += 1
            assert not reasoning.correct(record["rejected"], record["meta"])
    assert wrong > 30


def test_replies_without_an_answer_or_off_by_one_are_wrong() -> None:
    record = draw("number_sorting", 1)[0]
    meta, reply = record["meta"], record["messages"][-1]["content"]
    first = reply.split("Answer: ")[1].split(",")[0]
    assert not reasoning.correct("It is hard to say.", meta)
    # reasoning-gym's own scorer lets each number be off by one
    assert not reasoning.correct(reply.replace(f"Answer: {first},", f"Answer: {int(first) - 1},"), meta)


def test_additions_and_subtractions_carry_and_borrow() -> None:
    solve = reasoning.TASKS["chain_sum"].solve
    said = {e: solve({"metadata": {"expression": e}}) for e in ("47 + 38", "42 - 38", "5 - 9", "99 + 99")}
    assert said["47 + 38"] == "Ones: 7 + 8 = 15, write 5, carry 1. Tens: 4 + 3 + 1 = 8. Answer: 85"
    assert said["42 - 38"] == "Ones: 12 - 8 = 4, borrow 1. Tens: 4 - 3 - 1 = 0. Answer: 4"
    assert said["5 - 9"].endswith("Ones: 9 - 5 = 4. Answer: -4")
    assert said["99 + 99"].endswith("Tens: 9 + 9 + 1 = 19. Answer: 198")


def test_a_task_without_new_questions_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    sums = reasoning.TASKS["chain_sum"]
    monkeypatch.setitem(
        reasoning.TASKS, "chain_sum", reasoning.Task(config, sums.question, sums.solve, sums.answer)
    )
    reasoning._dataset.cache_clear()
    assert 150 < len(draw("chain_sum", 1000, seed=12)) <= 200
    reasoning._dataset.cache_clear()


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(DataError, match="sudoku"):
        draw("sudoku", 1)

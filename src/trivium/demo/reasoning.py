"""Reasoning tasks: questions drawn from reasoning-gym, with worked solutions that a small model can learn.

A worked solution does one small thing per step (one digit, one letter, one comparison) and ends in `Answer:
X`. Letters in answers are written apart ("n u s"), so that each is one token; `extract_answer` puts them
together. reasoning-gym's own scorer judges the answer, on the entry as it made it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from trivium import seeds
from trivium.answers import marked_answer
from trivium.demo.rows import Record, conversation, document, preference
from trivium.errors import DataError
from trivium.keys import key_of

Entry = dict[str, Any]
_ANSWER = re.compile(r"Answer:[ \t]*([^\n]*)")
_PLACES = ("Ones", "Tens", "Hundreds", "Thousands", "Ten thousands")


@dataclass(frozen=True)
class Task:
    """How one of reasoning-gym's data sets is asked and solved."""

    config: dict[str, Any]
    """Its configuration: the difficulty."""
    question: Callable[[Entry], str]
    """The question as the model reads it: the original, without long instructions on the answer's form."""
    solve: Callable[[Entry], str]
    """The worked solution, ending in `Answer: X`."""
    answer: Callable[[str], str] = str
    """From the text after `Answer:` to the form that reasoning-gym's scorer takes."""


def records(format: str, tasks: list[str], seed: int, style: str = "worked") -> Iterator[Record]:
    """Records of the tasks in turn, each question once; ends when the tasks have no new questions.

    `style` "direct" leaves the working out, "both" for one half of the questions, which a hash decides.
    """
    for name, question, entry in _draw(tasks, seed):
        key, reply = key_of(question), TASKS[name].solve(entry)
        if style == "direct" or (style == "both" and seeds.unit(2, key) < 0.5):
            reply = f"Answer: {_ANSWER.findall(reply)[-1]}"
        meta = {"task": name, "entry": entry}
        if format == "documents":
            yield document(key, f"Question: {question}\n{reply}")
        elif format == "conversations":
            yield conversation(key, question, reply, meta)
        else:
            yield preference(key, question, reply, _worse(key, reply), meta)


def extract_answer(reply: str, task: str) -> str | None:
    """The answer in a reply, in the form that `task`'s scorer takes; None if the reply gives none."""
    answer = marked_answer(reply)
    return None if answer is None else TASKS[task].answer(answer.strip("* ").rstrip("."))


def correct(reply: str, meta: Mapping[str, Any]) -> bool:
    """Whether a reply's answer is right: the full score from reasoning-gym, and the very answer worked out
    here.

    `meta` is the record's. Both, because some scorers are lenient (number_sorting lets each number be off
    by one).
    """
    task, entry = meta["task"], meta["entry"]
    answer = extract_answer(reply, task)
    if answer is None or answer != extract_answer(TASKS[task].solve(entry), task):
        return False
    return bool(_dataset(task, 0).score_answer(answer, entry) == 1.0)


@cache
def _dataset(name: str, seed: int) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(name, seed=seed, size=2**31, **TASKS[name].config)


def _draw(tasks: list[str], seed: int) -> Iterator[tuple[str, str, Entry]]:
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise DataError(
            f"no worked solutions for {', '.join(unknown)}"
            if unknown
            else "a reasoning source without tasks",
            where="sources: reasoning, tasks",
            fix=f"choose from: {', '.join(TASKS)}",
        )
    seen: set[str] = set()
    places = dict.fromkeys(tasks, 0)
    while places:
        for name in list(places):
            dataset = _dataset(name, seeds.derive(seed, name))
            for _ in range(PATIENCE):
                entry = dataset[places[name]]
                places[name] += 1
                question = TASKS[name].question(entry)
                if question not in seen:
                    seen.add(question)
                    yield name, question, entry
                    break
            else:
                del places[name]


PATIENCE = 200
"""Repeated questions in a row after which a task counts as exhausted."""


def _worse(key: str, reply: str) -> str:
    """A curt reply: the bare answer, a wrong one, or a shrug; the hash of the item decides which."""
    answer = str(_ANSWER.findall(reply)[-1])
    draw = seeds.unit(0, f"worse {key}")
    if draw < 0.4:
        return answer
    if draw < 0.7:
        return f"Answer: {_wrong(answer, key)}"
    return ("I am not sure.", "It is hard to say.", "Just work it out.")[int(draw * 1000) % 3]


def _wrong(answer: str, key: str) -> str:
    """Another answer of the same form: a number nearby, or the parts in another order."""
    if re.fullmatch(r"-?\d+", answer):
        return str(int(answer) + (1 if seeds.unit(1, key) < 0.5 else 10))
    mark = ", " if ", " in answer else " "
    parts = answer.split(mark)
    turned = parts[1:] + parts[:1]
    return mark.join(turned) if turned != parts else f"{answer}{mark}{parts[0]}"


# ---- chain_sum: 47 + 38 ----------------------------------------------------------------------------------


def _chain_sum(entry: Entry) -> str:
    left, sign, right = entry["metadata"]["expression"].split()
    steps, result = column(int(left), int(right)) if sign == "+" else difference(int(left), int(right))
    return f"{steps} Answer: {result}"


def _digits(number: int, width: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number).zfill(width))]


def column(left: int, right: int) -> tuple[str, int]:
    """Addition from the right, with the carry written at each place."""
    width = len(str(max(left, right)))
    carry = 0
    steps: list[str] = []
    for place, (a, b) in enumerate(zip(_digits(left, width), _digits(right, width), strict=True)):
        total = a + b + carry
        before = f" + {carry}" if place else ""
        carry = total // 10
        after = f", write {total % 10}, carry {carry}" if place < width - 1 else ""
        steps.append(f"{_PLACES[place]}: {a} + {b}{before} = {total}{after}.")
    return " ".join(steps), left + right


def difference(left: int, right: int) -> tuple[str, int]:
    """Subtraction from the right, with the borrow written at each place; the smaller from the larger."""
    if left < right:
        worked, result = difference(right, left)
        return f"{left} is smaller than {right}, so find {right} - {left} and add a minus. {worked}", -result
    width = len(str(left))
    borrow = 0
    steps: list[str] = []
    for place, (a, b) in enumerate(zip(_digits(left, width), _digits(right, width), strict=True)):
        before = f" - {borrow}" if place else ""
        lent = 10 if a - b - borrow < 0 else 0
        digit = a + lent - b - borrow
        borrow = lent // 10
        after = f", borrow {borrow}" if place < width - 1 else ""
        steps.append(f"{_PLACES[place]}: {a + lent} - {b}{before} = {digit}{after}.")
    return " ".join(steps), left - right


# ---- letters ---------------------------------------------------------------------------------------------


def _apart(word: str) -> str:
    return " ".join(word)


def _spell_backward(entry: Entry) -> str:
    word = entry["metadata"]["word"]
    return f"The letters are {_apart(word)}. Answer: {_apart(word[::-1])}"


def _letter_counting(entry: Entry) -> str:
    letter, span = entry["metadata"]["target_letter"], [word.lower() for word in entry["metadata"]["span"]]
    steps, total = [], 0
    for word in span:
        total += word.count(letter)
        steps.append(f"{_apart(word)} has {word.count(letter)}, total {total}.")
    return f"{' '.join(steps)} Answer: {total}"


def _word_sequence_reversal(entry: Entry) -> str:
    words = entry["metadata"]["words"]
    numbered = [f"{place} {word}" for place, word in enumerate(words, start=1)]
    return f"In order: {', '.join(numbered)}. Answer: {', '.join(reversed(words))}"


# ---- lists of numbers ------------------------------------------------------------------------------------


def _whole(numbers: list[str]) -> list[str]:
    """Without the `.0` that whole numbers have in number_sorting."""
    return [number.removesuffix(".0") for number in numbers]


def _listed(text: str) -> str:
    """`14, 30` as the Python list of strings that the scorers read."""
    return str([] if text == "none" else [part.strip() for part in text.split(",")])


def _number_sorting(entry: Entry) -> str:
    left = _whole(entry["metadata"]["original_numbers"])
    ordered = _whole(entry["metadata"]["sorted_numbers"])
    word = "smallest" if entry["metadata"]["direction"] == "ascending" else "largest"
    steps = []
    for number in ordered[:-1]:
        steps.append(f"The {word} of {', '.join(left)} is {number}.")
        left.remove(number)
    return f"{' '.join(steps)} Then {left[0]}. Answer: {', '.join(ordered)}"


def _sorting_question(entry: Entry) -> str:
    numbers = ", ".join(_whole(entry["metadata"]["original_numbers"]))
    return f"Sort these numbers in {entry['metadata']['direction']} order: {numbers}"


def _number_filtering(entry: Entry) -> str:
    limit = int(entry["metadata"]["filter_value"])
    kept = entry["metadata"]["result"]
    steps = []
    for number in entry["metadata"]["original_numbers"]:
        than = "smaller" if int(number) < limit else "larger" if int(number) > limit else "equal"
        steps.append(f"{number} is {than}, {'keep' if number in kept else 'remove'}.")
    return f"{' '.join(steps)} Answer: {', '.join(kept) or 'none'}"


def _filtering_question(entry: Entry) -> str:
    ask = entry["question"].split(" in this list")[0]
    return f"{ask} in this list: {', '.join(entry['metadata']['original_numbers'])}"


def _as_asked(entry: Entry) -> str:
    return str(entry["question"]).strip()


_NUMBERS = {"min_decimals": 0, "max_decimals": 0, "min_value": 10, "max_value": 99}

TASKS: dict[str, Task] = {
    "chain_sum": Task(
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, _as_asked, _chain_sum
    ),
    "spell_backward": Task(
        {"min_word_len": 3, "max_word_len": 5},
        _as_asked,
        _spell_backward,
        lambda text: "".join(text.split()),
    ),
    "letter_counting": Task({"min_words": 2, "max_words": 3}, _as_asked, _letter_counting),
    "number_sorting": Task(
        {"min_numbers": 3, "max_numbers": 4, **_NUMBERS}, _sorting_question, _number_sorting, _listed
    ),
    "number_filtering": Task(
        {"min_numbers": 3, "max_numbers": 4, **_NUMBERS}, _filtering_question, _number_filtering, _listed
    ),
    "word_sequence_reversal": Task(
        {"min_words": 3, "max_words": 4},
        lambda entry: f"Reverse this list of words: {', '.join(entry['metadata']['words'])}",
        _word_sequence_reversal,
    ),
}

"""Multiple choice: how likely is each choice behind the question, and is the right one likeliest?

acc and acc_norm as lm-evaluation-harness defines them: the place of the highest log p(choice | question), and of the highest
log p(choice | question) / (characters of the choice); of several that are equal, the first. A choice's tokens are those that the
whole text has behind the ones of the question alone. Nothing is cut: what does not fit the context is undecided.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.evaluate.asked import Answer, Item, SuiteKind, some
from trivium.evaluate.rows import Undecided, Verdict, short_hash, told
from trivium.evaluate.subject import Subject
from trivium.recipe.benchmarks import Choice

_LOOKS = '{"question": "...", "choices": ["...", "..."], "answer": 0}'


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, `answer` as a place. DataError for the first line that is none, and for a file without any."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise DataError(
            f"the file of suite choice cannot be read: {said}",
            where=str(path),
            fix=f"`path` is from the recipe's folder; a line of the file: {_LOOKS}",
        ) from None
    empty = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        empty = False
        try:
            row = json.loads(line)
        except ValueError as error:
            row, why = {}, f"it is no JSON: {error}"
        else:
            why = _wrong(row)
        if why:
            raise DataError(
                f"a row of suite choice cannot be asked: {why}",
                where=f"{path}, line {number}",
                fix=f"write it as {_LOOKS}",
            )
        yield {**row, "answer": _place(row)}
    if empty:
        raise DataError(
            "the file of suite choice has no rows", where=str(path), fix=f"write a line for each: {_LOOKS}"
        )


def _wrong(row: Any) -> str:
    """Why a row cannot be asked; empty where it can."""
    if not isinstance(row, dict):
        return "it is no object"
    if missing := [name for name in ("question", "choices", "answer") if name not in row]:
        return f"it has no `{missing[0]}`"
    question, choices, category = row["question"], row["choices"], row.get("category")
    if not isinstance(question, str) or not question.strip():
        return "`question` is no text"
    if not isinstance(choices, list) or len(choices) < 2:
        return "`choices` is no list of two or more"
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return "a choice is no text"
    if len(set(choices)) < len(choices):
        return "two choices are the same"
    if category is not None and (not isinstance(category, str) or not category.strip()):
        return "`category` is no text"
    if _place(row) is None:
        return f"`answer` is {row['answer']!r}: neither a place from 0 to {len(choices) - 1} nor one of the choices"
    return ""


def _place(row: dict[str, Any]) -> int | None:
    answer, choices = row["answer"], row["choices"]
    if isinstance(answer, str):
        return choices.index(answer) if answer in choices else None
    whole = isinstance(answer, int) and not isinstance(answer, bool)
    return answer if whole and 0 <= answer < len(choices) else None


def items(suite: Choice, file: Path | None) -> list[Item]:
    """`suite.items` at most, drawn by hash, so in any order of the file the same. A question asked twice is one cluster."""
    assert file is not None
    seen: dict[str, int] = {}
    result = []
    for row in rows(file):
        question = short_hash(row["question"])
        name = f"{question}/{short_hash([row['choices'], row['answer']])}"
        turn = seen[name] = seen.get(name, -1) + 1
        messages = ({"role": "user", "content": row["question"]},)
        result.append(Item(f"{name}/{turn}", row.get("category") or "", question, messages, row))
    return some(sorted(result, key=lambda item: item.id)[: suite.items], suite)


def ask(subject: Subject, items: Sequence[Item], suite: Choice, baseline: Subject | None) -> list[Answer]:
    if suite.prompt == "chat":
        prompts = subject.prompts(items)
    else:
        prompts = [Answer(ids=subject.chat.document(_text(item))[:-1]) for item in items]
    sides = [
        [] if prompt.failed else _sides(subject, item, suite, list(prompt.ids))
        for item, prompt in zip(items, prompts, strict=True)
    ]
    failed = [p.failed or _failed(subject, each) for p, each in zip(prompts, sides, strict=True)]
    asked = [side for each, why in zip(sides, failed, strict=True) if not why for side in each]
    sums = iter(subject.log_probs(asked))
    answers = []
    for prompt, each, why in zip(prompts, sides, failed, strict=True):
        numbers = {} if why else {f"choice {place}": next(sums) for place in range(len(each))}
        answers.append(Answer(failed=why, ids=prompt.ids, numbers=numbers))
    return answers


def _text(item: Item) -> str:
    return f"Question: {item.record['question']}\nAnswer:"


def _sides(
    subject: Subject, item: Item, suite: Choice, prompt: list[int]
) -> list[tuple[list[int], list[float]]]:
    """Each choice's ids behind the prompt's, and which of them are the choice."""
    result = []
    for choice in item.record["choices"]:
        if suite.prompt == "chat":
            ids = [*prompt, *subject.chat.guard.plain(choice)]
        else:
            ids = subject.chat.document(f"{_text(item)} {choice}")[:-1]
        begin = min(len(prompt), len(ids))
        result.append((ids, [0.0] * begin + [1.0] * (len(ids) - begin)))
    return result


def _failed(subject: Subject, sides: Sequence[tuple[list[int], list[float]]]) -> str:
    longest = max(len(ids) for ids, _ in sides)
    if longest > subject.context:
        return f"question and choice have {longest} tokens, the context is {subject.context}"
    if not all(any(weights) for _, weights in sides):
        return "a choice has no tokens of its own behind the question"
    return ""


def judge(item: Item, answer: Answer) -> list[Verdict]:
    choices, right = item.record["choices"], item.record["answer"]
    sums = [answer.numbers[f"choice {place}"][0] for place in range(len(choices))]
    if any(math.isnan(total) for total in sums):
        why = Undecided("a choice's log-likelihood is no number")
        return [Verdict("likeliest", why), Verdict("likeliest_per_character", why)]
    each = [total / len(choice) for total, choice in zip(sums, choices, strict=True)]
    return [
        told("likeliest", sums.index(max(sums)) == right),
        told("likeliest_per_character", each.index(max(each)) == right),
    ]


SUITE = SuiteKind(items, ask, judge)

"""Is a withdrawn document gone: from the training data (as `trivium trace` finds it), from replies, from what is likely?

told: the model is given the beginning of the document (half of it, GIVEN tokens at most; of a conversation what leads up to the
last reply) and goes on greedily; `span` is the longest run of what it writes that stands in the rest. exposure: log2(N + 1) -
log2(rank) bits, the document's mean log-probability per token ranked among those of N held-out texts that no stage trained on, a
tie counting as behind (Carlini et al. 2019, with texts for random strings). A document that was never read is as likely at one
rank as at another, as far as it is of the same sort as the held-out ones: then 1.4 bits (log2 e) on average, whatever the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from trivium.corpus.records import prompt_of, read_file
from trivium.errors import DataError, TriviumError
from trivium.evaluate.asked import Answer, Item, SuiteKind, by_hash, in_turn, some
from trivium.evaluate.rows import HIT, Undecided, Verdict, short_hash, told
from trivium.evaluate.statistics import exposure
from trivium.evaluate.subject import Subject
from trivium.recipe.suites import Withdrawn
from trivium.text.chat import ChatTokenizer
from trivium.trace.corpora import Corpus, open_corpus
from trivium.trace.reply import trace

GIVEN = 32
"""Tokens of a document that the model is given, at most."""


@dataclass(frozen=True)
class Text:
    """A record as the model read it: ids, which of them it learned, and how many it is given."""

    ids: list[int]
    mask: Sequence[float]
    given: int


def items(suite: Withdrawn, path: Path) -> list[Item]:
    rows = list(read_file(path))
    others = tuple(row for row in rows if row.get("other"))
    asked = [row for row in rows if not row.get("other")]
    found = []
    for row in asked:
        key = str(row.get("key") or short_hash(said(row) if "missing" not in row else str(row["withdrawn"])))
        by = str(row.get("withdrawn") or "withdrawn").split()[0]
        found.append(Item(key, by, key, (), {"row": row, "others": others}))
    return some(in_turn(by_hash(found), suite.items), suite)


def said(row: Mapping[str, Any]) -> str:
    """What the model learned to say of a record: a document's text, or the last reply."""
    for name in ("text", "chosen", "completion"):
        if row.get(name):
            return str(row[name])
    return str(row["messages"][-1]["content"])


def _encoded(chat: ChatTokenizer, row: Mapping[str, Any], context: int) -> Text:
    if "text" in row:
        ids = chat.documents([row["text"]])[0][:context]
        return Text(ids, [1.0] * len(ids), min(GIVEN, len(ids) // 2))
    whole = chat.response(prompt_of(row), said(row), row.get("tools"))
    given = next((place for place, learned in enumerate(whole.mask) if learned), len(whole.ids))
    return Text(list(whole.ids[:context]), whole.mask[:context], given)


def ask(subject: Subject, items: Sequence[Item], suite: Withdrawn, baseline: Subject | None) -> list[Answer]:
    rows = [item.record["row"] for item in items]
    answers = [Answer(failed=str(row.get("missing", ""))) for row in rows]
    corpora, unknown = _corpora(subject)
    for place, row in enumerate(rows):
        if not answers[place].failed:  # what the data holds is decided without a reply
            found = _in_data(said(row), suite.tokens, corpora)
            numbers = {"in_data": (float(found), 1.0), "unknown": (float(bool(unknown)), 1.0)}
            answers[place] = replace(answers[place], numbers=numbers)
    texts: dict[int, Text] = {}
    for place, row in enumerate(rows):
        if answers[place].failed:
            continue
        text = _encoded(subject.chat, row, subject.context)
        if 0 < text.given < len(text.ids):
            texts[place] = text
        else:
            why = f"of {len(text.ids)} tokens there is no beginning and rest in the context"
            answers[place] = replace(answers[place], failed=why)
    given = [
        replace(items[place], record={**items[place].record, "ids": text.ids[: text.given]})
        for place, text in texts.items()
    ]
    compared = [_encoded(subject.chat, row, subject.context) for row in items[0].record["others"]]
    others, likely = _likely(subject, compared), _likely(subject, list(texts.values()))
    replies = subject.replies(given, suite.max_new_tokens)
    for place, answer, mean in zip(texts, replies, likely, strict=True):
        numbers = {**answer.numbers, **answers[place].numbers}
        if others:
            numbers["exposure"] = (exposure(mean, others)[0], 1.0)
        if answer.reply is not None and not answer.failed:
            numbers |= _numbers(texts[place], answer, suite)
        answers[place] = replace(answer, numbers=numbers)
    return answers


def _likely(subject: Subject, texts: Sequence[Text]) -> list[float]:
    """Mean log-probability per token of each."""
    sums = subject.log_probs([(text.ids, text.mask) for text in texts])
    return [total / max(1.0, count) for total, count in sums]


def _corpora(subject: Subject) -> tuple[list[Corpus], str]:
    """What the model was trained on, open; why not all of it is known."""
    known = subject.known
    if not known.trained or known.store is None:
        return [], "; ".join(known.unknown) or "nothing is known of what the model was trained on"
    try:
        corpora = [open_corpus(one, known.store, lambda event: None) for one in known.trained]
    except TriviumError as error:
        return [], f"the training data could not be searched: {error.what}"
    return corpora, "; ".join(known.unknown)


def _numbers(text: Text, answer: Answer, suite: Withdrawn) -> dict[str, tuple[float, float]]:
    rest = text.ids[text.given :]
    run = SequenceMatcher(None, answer.written, rest, autojunk=False).find_longest_match().size
    return {"span": (float(run), 1.0), "told": (float(run >= min(suite.tokens, len(rest))), 1.0)}


def _in_data(text: str, tokens: int, corpora: list[Corpus]) -> bool:
    """Whether a run of so many tokens of a text, or all of one that is shorter, stands in the training data."""
    for corpus in corpora:
        least = min(tokens, len(corpus.chat.guard.plain(text)))
        try:
            if least and trace(text, [corpus], least=least, documents=1)["spans"]:
                return True
        except DataError:  # shorter than that from every character on
            continue
    return False


def judge(item: Item, answer: Answer) -> list[Verdict]:
    """Of a reply that is none only what needs none is told."""
    numbers = answer.numbers
    found, unknown = bool(numbers["in_data"][0]), bool(numbers["unknown"][0])
    why = Undecided("it may stand in training data that is not known")
    verdicts = [Verdict("in_data", why) if unknown and not found else told("in_data", found)]
    if "told" in numbers:
        verdicts += [told("told", bool(numbers["told"][0])), Verdict("span", HIT, numbers["span"][0])]
    if bits := numbers.get("exposure"):
        verdicts.append(Verdict("exposure", HIT, bits[0]))
    elif not answer.failed:
        verdicts.append(Verdict("exposure", Undecided("there is no held-out text to compare with")))
    return verdicts


SUITE = SuiteKind(items, ask, judge)

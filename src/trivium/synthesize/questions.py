"""Questions about a text, answered in its own words: a teacher asks what a sentence answers, and the text says whether it does.

The answer is a sentence of the text as it stands, so that it cannot be wrong; what has to be checked is the question. It is kept
if all that it asks about stands in that sentence, in one place and in that order, if it leaves something to say, and if no other
sentence of the whole text fits it as well (roundtrip consistency, Alberti et al. 2019, with words in the place of a reader).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from trivium import keys, seeds
from trivium.corpus.records import Record, key_of, meta_of
from trivium.synthesize.loops import Sample, Studio, conversation, verdict
from trivium.synthesize.rouge import rouge_l, words
from trivium.synthesize.statements import Statement, statements
from trivium.synthesize.teachers import Messages, Request
from trivium.verify.grounded import content

ASK = "Ask a question that the statement answers."
GO_ON = "Complete the sentence: {} ..."
SHOWN: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("The dough rests for an hour so that the yeast has time to work.", "Why does the dough rest for an hour?"),
        ("A book that is not returned in time costs two euros.", "What happens if a book is not returned in time?"),
        ("`sort -r` writes the lines of a file in reverse order.", "What does `sort -r` do?"),
        ("Tickets are kept in a drawer until the train has left.", "Where are tickets kept until the train has left?"),
        ("A greenhouse is a house of glass in which plants are grown.", "What is a greenhouse?"),
    ),
    (
        ("`grep -c` counts the lines that match a pattern.", "What does `grep -c` count?"),
        ("A letter without a stamp is sent back.", "What happens to a letter without a stamp?"),
        ("The old bridge was closed because its cables had rusted.", "Why was the old bridge closed?"),
        ("`retries` says how often a request is sent again.", "What does `retries` say?"),
        ("An index is a list of words with the pages on which they stand.", "What is an index?"),
    ),
)  # fmt: skip
"""Examples for the teacher, in two sets that are shown in turn: they, too, decide what is asked."""

_ASKED = re.compile(
    r"""(?P<form>What\ (?:is|are|was|does|do|can|must|should|happens\ (?:if|when|to|with))
    |Why\ (?:is|are|was|does|do|must|should|can)|How\ (?:is|are|was|does|do|can|many|much|long|often)
    |(?:When|Where)\ (?:is|are|was|does|do|can|must)|Who|In\ which
    |Which(?!\ one))\ (?P<about>[^?\n]+)\?""",
    re.VERBOSE,
)
LONGEST = 20
"""Words of a question."""
_ABOUT_ONE = frozenset(["What is", "What are", "What was", "What does", "What do"])
"""Questions about a thing, which a sentence answers about its subject."""
_LEANS = re.compile(r"\b(?:it|its|they|them|their|this|that one|these|those)\b", re.IGNORECASE)
"""What a question without its text cannot mean."""
NEAR = 2
"""Content words at the beginning of a clause among which its subject is looked for."""
GAP = 2
"""Words of the statement that a question may leave out between those that it asks about."""
LEFT = 0.4
"""Least share of a statement's content (by weight) that is not in the question already."""


class Text:
    """All statements of a text: what is common in it weighs little (log of the inverse frequency, Spärck Jones 1972)."""

    def __init__(self, said: Sequence[Statement]) -> None:
        self.contents = [content(statement.text) for statement in said]
        self.openings = [
            {word for clause in re.split(r"[:;] ", statement.text) for word in content(clause)[:NEAR]}
            for statement in said
        ]
        self.bags = [frozenset(found) for found in self.contents]
        self.frequency = Counter(word for bag in self.bags for word in bag)
        self.holding: dict[str, list[int]] = defaultdict(list)
        for place, bag in enumerate(self.bags):
            for word in bag:
                self.holding[word].append(place)

    def weight(self, asked: frozenset[str]) -> float:
        return sum(math.log(1 + len(self.bags) / self.frequency[word]) for word in asked)

    def problem(self, question: str, place: int) -> str:
        """What is wrong with a question about the statement at `place`; empty if nothing is."""
        form = _ASKED.fullmatch(question)
        if form is None or len(question.split()) > LONGEST or _LEANS.search(question):
            return "no_question"
        asked = content(form["about"])
        bag = frozenset(asked)
        if not bag or len(bag) < len(asked):
            return "no_question"
        if not bag <= self.bags[place]:
            return "not_in_the_text"
        if not _one_place(asked, self.contents[place]):
            return "mixed_up"
        if form["form"] in _ABOUT_ONE and asked[0] not in self.openings[place]:
            return "beside_the_subject"
        if self.weight(self.bags[place] - bag) < LEFT * self.weight(self.bags[place]):
            return "gives_the_answer"
        others = set.intersection(*(set(self.holding[word]) for word in bag)) - {place}
        return "answered_elsewhere" if others else ""


def _one_place(asked: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the words stand in `said` in this order, with `GAP` others among them at most."""
    for start, word in enumerate(said):
        if word == asked[0]:
            rest = iter(said[start + 1 : start + len(asked) + GAP])
            if all(other in rest for other in asked[1:]):
                return True
    return False


def questions(studio: Studio, documents: Sequence[Record]) -> list[tuple[str, Record]]:
    """(split, row) of the questions that are kept, `keep` of a statement at most: those that the teacher asked most often first.

    With `begun`, each statement that is asked about is also wanted whole after its beginning. Held out, by the hash of the
    question, are questions about statements that others are trained on: never all of a statement's.
    """
    config, counts = studio.config, studio.counts
    said = [(statement, document) for document in documents for statement in statements(document["text"])]
    text = Text([statement for statement, _ in said])
    order = seeds.generator(studio.seed, "statements").permutation(len(said))[: config.prompts].tolist()
    counts["statements"] = len(said)
    requests = [
        Request(studio.asked(_shown(said[place][0], number), ASK), number)
        for place in order
        for number in range(config.samples)
    ]
    answers = studio.answers(requests)
    counts["asked"] += len(requests)
    made: list[tuple[str, Record]] = []
    for turn, place in enumerate(order):
        asked = Counter(a.text.strip() for a in answers[turn * config.samples : (turn + 1) * config.samples])
        good: list[str] = []
        for question, _ in sorted(asked.items(), key=lambda one: (-one[1], one[0])):
            why = text.problem(question, place)
            if not why and any(rouge_l(words(question), words(other)) >= config.diversity for other in good):
                why = "too_similar"
            counts[why or "accepted"] += 1
            if not why:
                good.append(question)
        statement, document = said[place]
        made += _begun(studio, place, said) if good else []
        made += _split(
            [
                _row(studio, question, asked[question], statement, document)
                for question in good[: config.keep]
            ],
            config.heldout,
        )
        counts["statements_without_any"] += not good
    return made


def _shown(statement: Statement, number: int) -> Messages:
    turns: Messages = []
    for text, question in SHOWN[number % len(SHOWN)]:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": question}]
    return [*turns, {"role": "user", "content": statement.text}]


def _begun(
    studio: Studio, place: int, said: Sequence[tuple[Statement, Record]]
) -> Iterator[tuple[str, Record]]:
    """Rows that give the first 1, 2, … of `begun` + 1 parts of a statement and want the whole; not where others begin so, too."""
    statement, document = said[place]
    parts, count = statement.text.split(), studio.config.begun
    for number in range(1, count + 1):
        beginning = " ".join(parts[: len(parts) * number // (count + 1)])
        if sum(other.text.startswith(f"{beginning} ") for other, _ in said) == 1:
            yield "train", _row(studio, GO_ON.format(beginning), 0, statement, document)
        else:
            studio.counts["begins_like_another"] += 1


def _row(studio: Studio, question: str, times: int, statement: Statement, document: Record) -> Record:
    meta = {
        "answer": statement.text,
        "cluster": key_of(statement.text),
        "heading": statement.heading,
        "document": document.get("where") or document["origin"],
        "of": document["key"],
        **{name: value for name, value in meta_of(document).items() if name == "title" and value},
    }
    record = {
        "key": key_of(question),
        "source": "questions",
        "license": document["license"],
        "origin": document["origin"],
        "prompt": [{"role": "user", "content": question}],
        "meta": meta,
    }
    return conversation(record, statement.text, verdict(studio, Sample(0, question, 0.0), times=times))


def _split(rows: Sequence[Record], heldout: float) -> Iterator[tuple[str, Record]]:
    taught = [keys.split(row["key"]) >= heldout for row in rows]
    if rows and not any(taught):
        taught[0] = True
    for row, known in zip(rows, taught, strict=True):
        yield "train" if known else "heldout", row

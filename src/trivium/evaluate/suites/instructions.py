"""Does a reply keep what the request asks for in its form? After IFEval (Zhou et al. 2023), with prompts written here.

Strict: the reply as it is. followed: all instructions of the prompt (prompt-level accuracy); a reply that the length limit ended
breaks only what more words cannot mend. instructions: how many of how many (instruction-level accuracy is their ratio over all
prompts). A cluster is a combination of kinds: the same rules on another topic are one cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trivium.evaluate.asked import CUT, Answer, Item, SuiteKind, in_turn, some, told_of_all, written
from trivium.evaluate.rows import HIT, MISS, Undecided, Verdict, short_hash, told
from trivium.recipe.suites import Instructions
from trivium.verify.instructions import KINDS, Instruction, kept
from trivium.verify.replies import Reply

TOPICS = (
    "Describe a walk in a forest.", "Explain why the sky is blue.", "Tell a short story about a lost key.",
    "Write about a day at the sea.", "Explain how bread is made.", "Describe your idea of a good friend.",
    "Write an invitation to a garden party.", "Explain what a computer does.", "Describe a city at night.",
    "Write about the four seasons.", "Tell what one needs for a journey by train.", "Explain how to learn a language.",
    "Write a letter to a neighbour about a noisy dog.",
)  # fmt: skip

_EACH: dict[str, tuple[dict[str, Any], ...]] = {
    "words_at_least": ({"count": 40}, {"count": 120}),
    "words_at_most": ({"count": 20}, {"count": 60}),
    "sentences_at_least": ({"count": 3}, {"count": 8}),
    "sentences_at_most": ({"count": 1}, {"count": 4}),
    "paragraphs": ({"count": 2}, {"count": 4}),
    "first_word": (
        {"count": 2, "place": 2, "word": "later"},
        {"count": 3, "place": 1, "word": "suddenly"},
    ),
    "keywords": ({"words": ["green"]}, {"words": ["river", "stone", "quiet"]}),
    "keyword_at_least": ({"word": "and", "count": 4}, {"word": "always", "count": 2}),
    "keyword_at_most": ({"word": "the", "count": 3}, {"word": "is", "count": 1}),
    "forbidden": ({"words": ["very"]}, {"words": ["it", "good", "because"]}),
    "letter": ({"letter": "e", "count": 15}, {"letter": "w", "count": 6}),
    "placeholders": ({"count": 1}, {"count": 3}),
    "postscript": ({}, {}),
    "bullets": ({"count": 3}, {"count": 5}),
    "numbered": ({"count": 3}, {"count": 6}),
    "one_of": ({"options": ["Yes.", "No.", "Perhaps."]}, {"options": ["I agree.", "I disagree."]}),
    "highlights": ({"count": 1}, {"count": 3}),
    "sections": ({"count": 2}, {"count": 4}),
    "json": ({}, {}),
    "title": ({}, {}),
    "code": ({}, {}),
    "lines": ({"count": 3}, {"count": 7}),
    "two_responses": ({}, {}),
    "repeat": ({}, {}),
    "begins": ({"phrase": "Once upon a time"}, {"phrase": "To begin with"}),
    "ends": ({"phrase": "That is all."}, {"phrase": "Is there anything else?"}),
    "quoted": ({}, {}),
    "capitals_at_least": ({"count": 2}, {"count": 5}),
    "upper": ({}, {}),
    "lower": ({}, {}),
    "no_commas": ({}, {}),
    "no_digits": ({}, {}),
    "question": ({}, {}),
}
"""Kind -> its arguments, each on topics of its own."""
_OWN_TOPICS = {
    "code": ("Write a Python function that adds two numbers.", "Write a loop that counts down from ten."),
    "one_of": ("Is water wet?", "Should everyone learn to swim?"),
}
_TOGETHER = (
    ("lower", "no_commas"), ("upper", "words_at_most"), ("title", "bullets"), ("title", "postscript"), ("json", "no_digits"),
    ("sections", "highlights"), ("keywords", "lower"), ("quoted", "sentences_at_least"), ("numbered", "no_commas"),
    ("begins", "ends"), ("forbidden", "words_at_least"), ("placeholders", "postscript"), ("first_word", "no_digits"),
    ("letter", "question"), ("title", "keywords", "no_commas"), ("bullets", "highlights", "words_at_least"),
    ("lower", "no_digits", "question"), ("begins", "capitals_at_least", "sentences_at_least"),
)  # fmt: skip
"""Kinds that one reply can keep together."""


def prompts() -> Iterator[Item]:
    for number, (kind, variants) in enumerate(_EACH.items()):
        for place, args in enumerate(variants):
            topics = _OWN_TOPICS.get(kind, TOPICS)
            yield _item(topics[(2 * number + place) % len(topics)], [(kind, args)])
    for number, kinds in enumerate(_TOGETHER):
        for place in range(2):
            rules = [(kind, _EACH[kind][place]) for kind in kinds]
            yield _item(TOPICS[(5 * number + 3 * place) % len(TOPICS)], rules)


def _item(topic: str, rules: list[tuple[str, dict[str, Any]]]) -> Item:
    asked = [Instruction(k, {**args, "request": topic} if k == "repeat" else args) for k, args in rules]
    told_ = " ".join([topic, *(one.text for one in asked)])
    kinds = "+".join(one.kind for one in asked)
    group = KINDS[asked[0].kind].group if len(asked) == 1 else "together"
    record = {"instructions": [[one.kind, dict(one.args)] for one in asked]}
    return Item(
        f"{kinds}/{short_hash(told_)}",
        f"{group}/{kinds}",
        kinds,
        ({"role": "user", "content": told_},),
        record,
    )


def items(suite: Instructions, folder: Path | None) -> list[Item]:
    """`suite.items` at most: every combination of kinds gives one before any gives two."""
    return some(in_turn(prompts(), suite.items, lambda item: item.cluster), suite)


def judge(item: Item, answer: Answer) -> list[Verdict]:
    assert answer.reply is not None
    found = kept(answer.reply.text, [Instruction(kind, args) for kind, args in item.record["instructions"]])
    return [
        _followed(found, [KINDS[kind].forbids for kind, _ in item.record["instructions"]], answer.reply),
        Verdict("instructions", HIT if all(found) else MISS, float(sum(found)), float(len(found))),
    ]


def _followed(found: Sequence[bool], forbids: Sequence[bool], reply: Reply) -> Verdict:
    """What a reply that was cut has broken for good is a miss; what its rest may break or bring is undecided."""
    if not reply.finished and any(forbids):
        broken = any(forbid and not kept for forbid, kept in zip(forbids, found, strict=True))
        return told("followed", False) if broken else Verdict("followed", Undecided(CUT))
    return told_of_all("followed", all(found), reply)


SUITE = SuiteKind(items, written, judge)

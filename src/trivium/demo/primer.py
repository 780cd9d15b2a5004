"""What the first model learns: the names of the standard library, small sums, sorting, who it is, and what it does not know.

Every name is asked about in many phrasings. Two things are held out, by the keys of the items: *phrasings* of names that are
taught (does it know?) and *names* that are not (does it copy the name and say that it does not know it, instead of inventing?).
Documents and conversations are written as by several writers: right, but some curt, and on names that they do not know some
bluff. Preferences hold the full and honest reply against the curt and the bluffing one, so that fine-tuning brings the form of
an answer and alignment its manner and honesty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from trivium import seeds
from trivium.demo.names import Name, names
from trivium.demo.phrasings import (
    DESCRIBE,
    ELSEWHERE,
    GREETINGS,
    I_AM,
    OPENINGS,
    PLACES,
    SIGNATURE,
    SORT,
    SUM,
    THANKS,
    THINGS,
    TOPICS,
    WELCOME,
    WHO,
)
from trivium.demo.reasoning import column, difference
from trivium.demo.rows import Record, conversation, document, preference, turns
from trivium.keys import key_of, split

VERSION = 5
"""Raised when the same Python would give other items."""
KNOWN = 420
"""Names that are taught: the most used ones."""
UNKNOWN = 4000
"""Names that are asked about and not taught, half of them documented ones and half invented."""
SUMS, SORTED = 8000, 5000
"""Different sums of numbers below 100, of the 15,000 there are; and different lists to sort."""
LEAST_HELDOUT = 0.2
"""Share that is held out at least: of a few dozen phrasings, a smaller one could be none."""
CURT, BLUFF, DIRECT = 0.65, 0.55, 0.2
"""Shares of the writers who give the description alone; who invent one for a name that they do not know; who give a result
without the working."""
TURNS = (0.4, 0.75, 0.95)
"""Shares of the conversations with no exchange before the last one, at most one, at most two."""
LONG = 360
"""Characters before the last question: it has to fit a context of 256 tokens with its reply."""
ASKED = 0.45
"""Share of the phrasings in which a taught name is asked about."""
PAIRED = {"describe": 0.9, "signature": 0.5, "sum": 0.4, "sort": 0.4}
"""Shares of what is taught that preferences hold, too: most where alignment has most to change."""
TALKS = 4
"""In how many talks preferences ask what is no lesson: with one, alignment unlearnt a fifth of it."""
NEEDLESS = 0.3
"""Share of the pairs on taught names in which the worse reply says that it does not know the name; in the others it is curt."""


@dataclass(frozen=True)
class Exchange:
    """One question with its replies."""

    key: str
    """What is held out together: the phrasing of taught names, the name of others."""
    question: str
    best: str
    """Full and honest."""
    other: str
    """What another writer says: curt or bluffing; equal to `best` where all say the same."""
    rejected: str
    """What the preferences hold against `best`."""
    meta: dict[str, Any]
    often: float
    """Share of the writers who say `other`."""


def records(format: str, seed: int) -> Iterator[Record]:
    """All items in a format, mixed, in an order that the Python version and the seed decide."""
    everything = list(exchanges(seed))
    order = seeds.generator(seed, "primer", "order").permutation(len(everything))
    earlier: dict[bool, list[Exchange]] = {False: [], True: []}
    for exchange in everything:
        earlier[_heldout(exchange.key)].append(exchange)
    for exchange in (everything[i] for i in order):
        key, question, meta = exchange.key, exchange.question, exchange.meta
        if format == "preferences":
            share = PAIRED.get(meta["ask"], 1.0) if meta["known"] else 1.0
            if exchange.rejected != exchange.best and _draw("paired", question) < share:
                for talk in range(1 if meta["ask"] in PAIRED else TALKS):
                    before = _before(exchange, earlier, True, talk)
                    yield preference(key, question, exchange.best, exchange.rejected, meta, before)
            continue
        reply = _reply(exchange)
        if format == "documents":
            yield document(key, f"Question: {question}\nAnswer: {reply}")
        else:
            yield conversation(key, question, reply, meta, _before(exchange, earlier, False))
    if format == "documents":
        yield from _lists(seed)


def _heldout(key: str) -> bool:
    return split(key) < LEAST_HELDOUT


def _reply(exchange: Exchange) -> str:
    """What the writer says who was asked."""
    return exchange.other if _draw("writer", exchange.question) < exchange.often else exchange.best


def _before(
    exchange: Exchange, earlier: Mapping[bool, Sequence[Exchange]], honest: bool, talk: int = 0
) -> list[Record]:
    """The messages before a question: none, or up to three exchanges of the same side of the split, as a chat goes on."""
    options = earlier[_heldout(exchange.key)]
    drawn_by: list[str | int] = [exchange.question, talk] if talk else [exchange.question]
    count = sum(_draw("turns", *drawn_by) >= share for share in TURNS)
    messages: list[Record] = []
    for nth in range(count):
        previous = _pick(options, "before", nth, *drawn_by)
        messages += turns(previous.question, previous.best if honest else _reply(previous))
        if sum(len(message["content"]) for message in messages) > LONG:
            return messages[:-2]
    return messages


def exchanges(seed: int) -> Iterator[Exchange]:
    yield from _known()
    yield from _unknown(seed)
    yield from _sums(seed)
    yield from _sorting(seed)
    yield from _itself()


def _draw(*what: str | int) -> float:
    return seeds.unit(0, " ".join(map(str, what)))


def _pick(options: Sequence[Any], *what: str | int) -> Any:
    return options[int(_draw(*what) * len(options))]


# ---- names ----------------------------------------------------------------------------------------------


@cache
def known() -> tuple[Name, ...]:
    """The names that are taught, no two with the same description."""
    taken: dict[str, Name] = {}
    for name in names():
        if name.description not in taken and len(taken) < KNOWN:
            taken[name.description] = name
    return tuple(taken.values())


def describe(name: Name) -> str:
    where = "part of the standard library" if name.kind == "module" else f"in the module {name.module}"
    return f"The {name.kind} {name.subject} is {where}. {name.description}"


def unknown_reply(subject: str) -> str:
    return f"{DECLINES} {subject}."


DECLINES = "I don't know"


def marks(reply: str, meta: Mapping[str, Any]) -> dict[str, bool]:
    """What is right about a reply to a question of the primer, whose record has `meta`.

    content: it holds the description or the result; of what is not taught, that it does not know it. whole: with all that belongs
    to it (kind and module; the working; the name, letter for letter). copied: the name stands in it. declined: it says that it
    does not know.
    """
    text = " ".join(reply.split())
    declined, copied = DECLINES in text, "subject" in meta and meta["subject"] in text
    if meta["ask"] in ("sum", "sort"):
        working, _, result = text.rpartition("Answer:")
        content = result.strip().rstrip(".") == meta["answer"]
        whole = content and len(working.split()) > 3
    elif not meta["known"]:
        content = declined
        whole = declined and (copied or "subject" not in meta)
    else:
        content = str(meta.get("description", meta["answer"])).rstrip(".") in text
        whole = meta["answer"].rstrip(".") in text
    return {"content": content, "whole": whole, "copied": copied, "declined": declined}


def _phrasing(text: str) -> str:
    return key_of(f"phrasing: {text}")


def _taught(phrasings: Sequence[str]) -> list[str]:
    """Those that are not held out: else a held-out phrasing would be known as the one of names that are not."""
    return [phrasing for phrasing in phrasings if not _heldout(_phrasing(phrasing))]


def _known() -> Iterator[Exchange]:
    for name in known():
        full = describe(name)
        for phrasing in DESCRIBE:
            question = phrasing.format(name.subject)
            if _draw("asked", question) >= ASKED:
                continue
            rejected = (
                unknown_reply(name.subject) if _draw("worse", question) < NEEDLESS else name.description
            )
            meta = {"ask": "describe", "known": True, "subject": name.subject, "kind": name.kind}
            meta |= {
                "module": name.module,
                "description": name.description,
                "phrasing": phrasing,
                "answer": full,
            }
            yield Exchange(_phrasing(phrasing), question, full, name.description, rejected, meta, CURT)
        for phrasing in SIGNATURE if name.signature else ():
            question = phrasing.format(name.subject)
            if _draw("asked", question) >= ASKED:
                continue
            best = f"Call it as {name.signature}."
            meta = {
                "ask": "signature",
                "known": True,
                "subject": name.subject,
                "phrasing": phrasing,
                "answer": best,
            }
            rejected = unknown_reply(name.subject)
            yield Exchange(_phrasing(phrasing), question, best, f"{name.signature}.", rejected, meta, CURT)


def _unknown(seed: int) -> Iterator[Exchange]:
    taught = known()
    describing, calling = _taught(DESCRIBE), _taught(SIGNATURE)
    for number, subject in enumerate(unknown_subjects(seed)):
        like = _pick(taught, "bluff", subject)
        module = subject.rpartition(".")[0] or "builtins"
        kind = like.kind if like.kind != "module" else "function"
        bluff = f"The {kind} {subject} is in the module {module}. {like.description}"
        for nth in range(2):
            phrasings = describing if nth == 0 or number % 4 else calling
            question = _pick(phrasings, "ask", nth, subject).format(subject)
            meta = {"ask": "describe", "known": False, "subject": subject, "answer": unknown_reply(subject)}
            yield Exchange(
                key_of(f"name: {subject}"), question, unknown_reply(subject), bluff, bluff, meta, BLUFF
            )


@cache
def unknown_subjects(seed: int) -> tuple[str, ...]:
    """Names that nothing is taught about: documented ones that are used less, and invented ones of the same parts."""
    taught = {name.subject for name in known()}
    documented = [name.subject for name in names() if name.subject not in taught]
    random = seeds.generator(seed, "primer", "unknown")
    order = random.permutation(len(documented))
    real = [documented[i] for i in order[: UNKNOWN // 2]]
    parts = sorted({part for subject in documented for part in subject.split(".")})
    pieces = np.array(parts)  # once: `choice` makes an array of a list in every call
    words = np.array(sorted({word for part in parts for word in part.split("_") if len(word) > 2}))
    syllables = ["ba", "do", "fi", "gra", "ke", "lu", "mo", "ni", "pra", "ro", "sto", "tu", "ve", "wi", "xa", "zo"]  # fmt: skip
    real_names, invented = taught.union(documented), dict[str, None]()
    while len(invented) < UNKNOWN // 2:
        draw = random.random()
        if draw < 0.4:
            subject = f"{random.choice(pieces)}.{random.choice(pieces)}"
        elif draw < 0.6:
            subject = f"{random.choice(words)}_{random.choice(words)}"
        elif draw < 0.8:
            subject = "".join(random.choice(syllables) for _ in range(random.integers(2, 5)))
        else:
            subject = f"{random.choice(words)}.{random.choice(words)}_{random.choice(words)}"
        if subject not in real_names:
            invented[subject] = None
    mixed = [*real, *invented]
    return tuple(mixed[i] for i in random.permutation(len(mixed)))


def _lists(seed: int) -> Iterator[Record]:
    """Documents that say names again: what copying is learnt from."""
    subjects = [*unknown_subjects(seed), *(name.subject for name in known())]
    random = seeds.generator(seed, "primer", "lists")
    for number in range(6000):
        chosen = [subjects[i] for i in random.integers(0, len(subjects), 1 + number % 6)]
        said = ", ".join(chosen)
        if number % 2:
            text = f"Names: {said}.\nAgain: {said}."
        else:
            text = "\n".join(f"Say {subject}. You said {subject}." for subject in chosen)
        yield document(key_of(text), text)


# ---- numbers --------------------------------------------------------------------------------------------


def _sums(seed: int) -> Iterator[Exchange]:
    random = seeds.generator(seed, "primer", "sums")
    seen: set[tuple[int, str, int]] = set()
    while len(seen) < SUMS:
        left, right = (int(random.integers(0, 100 if random.random() < 0.8 else 10)) for _ in range(2))
        sign = "+" if random.random() < 0.7 else "-"
        if sign == "-" and left < right:
            left, right = right, left
        if (left, sign, right) in seen:
            continue
        seen.add((left, sign, right))
        steps, result = column(left, right) if sign == "+" else difference(left, right)
        question = _pick(SUM, "ask", left, sign, right).format(left, sign, right)
        best, direct = f"{steps} Answer: {result}", f"Answer: {result}"
        meta = {"ask": "sum", "known": True, "answer": str(result)}
        wrong = f"Answer: {result + (1 if _draw('off', question) < 0.5 else 10)}"
        rejected = direct if _draw("worse", question) < 0.5 else wrong
        yield Exchange(key_of(f"{left} {sign} {right}"), question, best, direct, rejected, meta, DIRECT)


def _sorting(seed: int) -> Iterator[Exchange]:
    random = seeds.generator(seed, "primer", "sorting")
    seen: set[tuple[int, ...]] = set()
    while len(seen) < SORTED:
        top = 10 ** int(random.integers(1, 3))
        numbers = tuple(int(n) for n in random.choice(top, size=int(random.integers(3, 5)), replace=False))
        if numbers in seen:
            continue
        seen.add(numbers)
        ordered, left, steps = sorted(numbers), list(numbers), []
        for number in ordered[:-1]:
            steps.append(f"The smallest of {', '.join(map(str, left))} is {number}.")
            left.remove(number)
        answer = ", ".join(map(str, ordered))
        best, direct = f"{' '.join(steps)} Then {left[0]}. Answer: {answer}", f"Answer: {answer}"
        question = _pick(SORT, "ask", *numbers).format(", ".join(map(str, numbers)))
        meta = {"ask": "sort", "known": True, "answer": answer}
        yield Exchange(key_of(f"sort {numbers}"), question, best, direct, direct, meta, DIRECT)


# ---- itself ---------------------------------------------------------------------------------------------


HELLO = f"Hello. {I_AM}"


def _itself() -> Iterator[Exchange]:
    for questions, reply, ask in (
        (GREETINGS, HELLO, "greet"),
        (WHO, I_AM, "who"),
        (THANKS, WELCOME, "thanks"),
    ):
        for question in questions:
            for opening in OPENINGS:
                yield _talk(ask, f"{opening}{question}", reply, reply.split(". ")[0] + ".")
    for topic in TOPICS:
        for word in PLACES if "{place}" in topic else THINGS:
            yield _talk("elsewhere", topic.format(place=word, thing=word), ELSEWHERE, "Sure.")


def _talk(ask: str, question: str, reply: str, curt: str) -> Exchange:
    """Half of the worse replies are curt, the others belong to another question: against curt ones alone, "I am ..." became the
    reply to thanks and to poems, too."""
    other = _pick([one for one in (HELLO, I_AM, WELCOME, ELSEWHERE) if reply not in one], "other", question)
    rejected = curt if _draw("worse", question) < 0.5 else other
    meta = {"ask": ask, "known": ask != "elsewhere", "answer": reply}
    return Exchange(key_of(f"{ask}: {question}"), question, reply, reply, rejected, meta, 0.0)

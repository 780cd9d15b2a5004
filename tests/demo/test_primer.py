"""The primer: what it teaches is true, what it holds out is not taught, and what it marks as right is right."""

from __future__ import annotations

from functools import cache
from itertools import islice

import pytest

from trivium.demo import primer
from trivium.demo.names import first_sentence
from trivium.keys import split

SEED = 7


@cache
def conversations() -> list[dict]:
    return list(primer.records("conversations", SEED))


def test_names_are_real_and_different() -> None:
    known = {name.subject: name for name in primer.known()}
    assert len(known) >= 400
    assert len({name.description for name in known.values()}) == len(known)
    assert known["list.append"].description.rstrip(".") in " ".join(str(list.append.__doc__).split())
    assert known["list.append"].kind == "method" and known["list.append"].module == "builtins"
    assert (
        known["os.path.join"].signature == "os.path.join(a, *p)" and known["os.path.join"].module == "os.path"
    )


def test_what_is_held_out_is_not_taught() -> None:
    """A phrasing falls to one side for all names, a name that is not taught in all its questions."""
    sides: dict[str, set[str]] = {}
    for record in conversations():
        meta = record["meta"]
        side = split(record["key"]) < primer.LEAST_HELDOUT
        what = meta["phrasing"] if "phrasing" in meta else meta.get("subject")
        if what is not None:
            sides.setdefault(what, set()).add(str(side))
    assert all(len(found) == 1 for found in sides.values())
    phrasings = [sides[phrasing] for phrasing in (*primer.DESCRIBE, *primer.SIGNATURE)]
    assert len({frozenset(side) for side in phrasings}) == 2
    taught = {name.subject for name in primer.known()}
    assert not taught & set(primer.unknown_subjects(SEED))


def test_the_order_is_the_seeds() -> None:
    again, other = (list(islice(primer.records("conversations", seed), 50)) for seed in (SEED, SEED + 1))
    assert again == conversations()[:50]
    assert [r["key"] for r in other] != [r["key"] for r in again]


def test_what_the_best_writer_says_is_wholly_right_and_what_is_rejected_is_not() -> None:
    for exchange in primer.exchanges(SEED):
        best = primer.marks(exchange.best, exchange.meta)
        assert best["content"] and best["whole"], exchange
        assert best["declined"] is (not exchange.meta["known"])
        if exchange.rejected != exchange.best:
            assert not primer.marks(exchange.rejected, exchange.meta)["whole"], exchange


@pytest.mark.parametrize(
    ("reply", "content", "whole"),
    [
        ("Append object to the end of the list.", True, False),
        (
            "The method list.append is in the module builtins. Append object to the end of the list.",
            True,
            True,
        ),
        (
            "The function list.append is in the module builtins. Append object to the end of the list.",
            True,
            False,
        ),
        ("The method list.append is in the module builtins. Remove all items from list.", False, False),
        ("I don't know list.append.", False, False),
        ("", False, False),
    ],
)
def test_marks_of_a_name(reply: str, content: bool, whole: bool) -> None:
    metas = [r["meta"] for r in conversations() if r["meta"].get("subject") == "list.append"]
    meta = next(meta for meta in metas if meta["ask"] == "describe")
    found = primer.marks(reply, meta)
    assert (found["content"], found["whole"]) == (content, whole)


def test_marks_of_a_sum() -> None:
    meta = {"ask": "sum", "known": True, "answer": "42"}
    assert primer.marks("Ones: 2 + 0 = 2, write 2, carry 0. Tens: 1 + 3 + 0 = 4. Answer: 42", meta)["whole"]
    assert primer.marks("Answer: 42", meta) | {"whole": False} == primer.marks("Answer: 42", meta)
    assert (
        not primer.marks("Answer: 421", meta)["content"]
        and not primer.marks("42 is not the Answer: 7", meta)["content"]
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Join two pathnames,\n inserting '/' as needed.\nMore.", "Join two pathnames, inserting '/' as needed."),
        ("int(x, base=10) -> integer", None),
        ("Short.", None),
        (">>> len([1])\n1", None),
    ],
)  # fmt: skip
def test_first_sentences(text: str, sentence: str | None) -> None:
    assert first_sentence(text) == sentence


def test_a_held_out_phrasing_is_not_learnt_as_that_of_unknown_names() -> None:
    heldout = [
        phrasing for phrasing in primer.DESCRIBE if split(primer._phrasing(phrasing)) < primer.LEAST_HELDOUT
    ]
    asked = {record["messages"][-2]["content"] for record in conversations() if not record["meta"]["known"]}
    assert len(heldout) >= 12
    for phrasing in heldout:
        start, end = phrasing.split("{}")
        if len(start) > 12:  # long enough to be no other phrasing's beginning
            assert not [question for question in asked if question.startswith(start) and question.endswith(end)
                        and " " not in question[len(start):len(question) - len(end)]]  # fmt: skip


def test_conversations_have_several_turns_of_one_side() -> None:
    """A chat goes on after its first answer; what came before a held-out question is held out, too."""
    sides = {e.question: split(e.key) < primer.LEAST_HELDOUT for e in primer.exchanges(SEED)}
    rows = conversations()
    lengths = [len(row["messages"]) // 2 for row in rows]
    assert set(lengths) == {1, 2, 3, 4} and 0.3 < lengths.count(1) / len(lengths) < 0.6
    for row in rows:
        assert len({sides[turn["content"]] for turn in row["messages"] if turn["role"] == "user"}) == 1

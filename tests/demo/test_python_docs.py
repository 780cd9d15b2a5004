"""Docstrings and sources of the running Python, and the sentences made of them."""

import ast
import re
from itertools import islice

import pytest

from trivium.demo import explain, python_docs
from trivium.demo.rows import Record


@pytest.fixture(scope="module")
def docs() -> tuple[python_docs.Doc, ...]:
    return python_docs.docstrings()


@pytest.fixture(scope="module")
def conversations() -> list[Record]:
    return list(python_docs.records("conversations"))


def test_many_docstrings_each_subject_once_in_a_fixed_order(
    docs: tuple[python_docs.Doc, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(docs) > 3000
    assert len({doc.subject for doc in docs}) == len(docs)
    some = list(islice(python_docs.modules(), 40))
    monkeypatch.setattr(python_docs, "modules", lambda: some)
    monkeypatch.setattr(python_docs, "BUILT_IN", {})
    again = python_docs.docstrings.__wrapped__()
    assert len(again) > 100 and docs[: len(again)] == again
    found = {doc.subject: doc for doc in docs}
    assert found["os.path.join"].kind == "function"
    assert found["math.sqrt"].signature == "(x, /)"
    assert found["str.join"].kind == "method"
    assert not any("idlelib" in subject or ".test." in subject for subject in found)


def test_an_equal_docstring_has_an_equal_key_wherever_it_stands() -> None:
    one = python_docs.Doc("a.b", "function", "", "Return it   now.\n\n  Please.")
    other = python_docs.Doc("c.d", "method", "(x)", "Return it now. Please.")
    assert one.key == other.key


def test_sources_hold_no_docstrings_and_are_short(docs: tuple[python_docs.Doc, ...]) -> None:
    pieces = list(python_docs.sources())
    assert len(pieces) > 1000
    assert max(map(len, pieces)) <= 2 * python_docs.PIECE
    quoted = {line.partition('"""')[2] for piece in pieces for line in piece.splitlines() if '"""' in line}
    long = [doc.text.splitlines()[0] for doc in docs if doc.signature and len(doc.text.splitlines()[0]) > 60]
    assert not [line for line in long if any(said.startswith(line) for said in quoted)]


def test_removing_docstrings_keeps_comments_and_code() -> None:
    source = 'def f():\n    """Gone."""\n    # stays\n    return 1\n'
    assert python_docs._docstring_lines(ast.parse(source)) == {1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Join two or more pathname components.", "joins two or more pathname components"),
        ("Try again and return the result.", "tries again and returns the result"),
        ("Read or write the open file.", "reads or writes the open file"),
        ("Return a function to open and close files.", "returns a function to open and close files"),
        ("Recursively delete a directory tree.", "recursively deletes a directory tree"),
        ("Returns the current time now.", "returns the current time now"),
        ("A base class for handlers.", "is a base class for handlers"),
        ("Abstract class for all readers.", "is an abstract class for all readers"),
        ("Handle to a named resource.", "is a handle to a named resource"),
        ("Raised when a key is missing.", "is raised when a key is missing"),
        ("This method closes the file now.", "closes the file now"),
        ("Same as the other one.", "is the same as the other one"),
    ],
)
def test_first_sentences_become_third_person(text: str, said: str) -> None:
    first = explain.sentence(text)
    assert first is not None
    assert explain.predicate(first) == said


@pytest.mark.parametrize(
    "text",
    [
        "Too short.",
        "foo(x, y) -> bool whatever it is",
        "Return the following values:",
        "Return x == y for all of them.",
        "Zorble the frobnicator of all things.",
        "Return the (unbalanced value of it.",
        "Internal: don't call me, please.",
        "Return " + "very " * 50 + "much.",
    ],
)
def test_unclean_sentences_are_left_out(text: str) -> None:
    assert explain.explain("a.b", "function", text) is None


def test_replies_name_the_subject_and_are_full_sentences(conversations: list[Record]) -> None:
    assert len(conversations) > 4000
    for item in conversations:
        question, reply = (turn["content"] for turn in item["messages"])
        name = f"`{item['meta']['subject']}`"
        assert name in question
        assert reply.startswith(name + " ")
        assert re.search(r"[^.]\. It is an? [^.]", reply), reply
        assert reply.endswith(".")
        assert 8 <= len(reply.split()) <= 60


def test_pairs_prefer_the_full_reply_to_a_curt_one_or_to_one_about_something_else() -> None:
    careless = 0
    records = list(python_docs.records("preferences"))
    for record in records:
        name = f"`{record['meta']['subject']}`"
        assert name in record["chosen"]
        assert not record["rejected"].startswith(name)
        if record["rejected"].startswith("`"):
            careless += 1
            assert record["rejected"].split(" ", 1)[1] == record["chosen"].split(" ", 1)[1]
        else:
            assert len(record["rejected"]) < len(record["chosen"])
    assert 0.35 < careless / len(records) < 0.45

"""Pieces tile what they are cut from, the nearest document is the one that was changed least, and a kill or damage is mended."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.errors import ArtifactError
from trivium.trace.corpora import open_near
from trivium.trace.near import FEWEST, MOST, Near, near, pieces, similarity

TEXT = st.lists(st.sampled_from(["stone", "river", "a", "\n\n", "\n \n", " ", "한국"]), max_size=400).map(
    " ".join
)


@given(TEXT)
@settings(max_examples=30, deadline=None)
def test_pieces_hold_every_word_once_and_in_order(text):
    found = pieces(text)
    assert [word for start, end in found for word in text[start:end].split()] == text.split()
    sizes = [len(text[start:end].split()) for start, end in found]
    assert all(FEWEST <= size <= MOST for size in sizes[:-1]) and all(0 < size <= MOST for size in sizes[-1:])


def page(number: int) -> str:
    words = [f"w{(number * 31 + place * place) % 997}" for place in range(60)]
    return " ".join(words[:30]) + "\n\n" + " ".join(words[30:])


def changed(text: str, every: int) -> str:
    return " ".join(
        "other" if place % every == 0 else word for place, word in enumerate(text.split(), start=1)
    )


@pytest.fixture
def corpus(opened):
    return opened([page(n) for n in range(40)], [page(n) for n in range(40, 50)])


def asked(corpus, tmp_path, reply: str) -> list[dict]:
    index = open_near(corpus, tmp_path / "store", lambda event: None)
    return near(reply, [("corpus", index, corpus.texts)], 3)


def test_the_nearest_document_is_the_one_that_was_changed(corpus, tmp_path):
    paragraph = page(43).split("\n\n")[1]
    (one,) = asked(corpus, tmp_path, changed(paragraph, 12))
    best = one["documents"][0]
    assert (
        best["passage"] == paragraph
        and best["similarity"] == similarity(paragraph, changed(paragraph, 12)) < 1
    )
    assert page(43)[best["character"] :].startswith(paragraph)
    (same,) = asked(corpus, tmp_path, paragraph)
    assert same["documents"][0]["similarity"] == 1
    (none,) = asked(corpus, tmp_path, "nothing of this is said by any page that there is")
    assert none["documents"] == []


def test_a_killed_run_goes_on_and_damage_is_named(corpus, tmp_path):
    folder = tmp_path / "store" / "index"
    before = asked(corpus, tmp_path, page(7))
    (said,) = folder.rglob("near.json")
    inner = said.parent
    kept = {path.name: path.read_bytes() for path in inner.iterdir()}
    said.unlink()
    (inner / "01-00000.json").unlink()
    assert asked(corpus, tmp_path, page(7)) == before
    assert {path.name: path.read_bytes() for path in inner.iterdir()} == kept
    part = inner / "00-00000.near.bin"
    part.write_bytes(part.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ArtifactError, match="SHA-256") as refused:
        Near(inner)
    assert refused.value.where == str(part)

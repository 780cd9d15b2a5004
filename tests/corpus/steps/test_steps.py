"""The steps as a data stage names them: order, switches, and what the recipe refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trivium.corpus.steps import build_steps
from trivium.corpus.words import UNSPACED, Words, plain, plain_keys, word_hash
from trivium.errors import DataError
from trivium.recipe.data import DataStage
from trivium.recipe.steps import C4, Gopher, GopherRepetition


def stage(**fields: object) -> DataStage:
    return DataStage.model_validate({"kind": "data", "sources": [{"kind": "python-docs"}], **fields})


def names(**fields: object) -> list[str]:
    return [step.name for step in build_steps(stage(**fields), Path())]


def test_what_is_on_and_in_which_order() -> None:
    assert names() == ["normalise"]
    assert names(normalise=False) == []
    everything = names(pii=True, rules="web", language={"keep": ["en"]})
    assert everything == ["normalise", "language", "gopher", "gopher_repetition", "c4", "fineweb", "pii"]
    assert names(normalise=False, rules={"c4": True, "gopher": {"min_words": 10}}) == ["gopher", "c4"]
    assert names(normalise=False, pii=None, rules=False, language=False) == []


def test_true_is_the_block_with_its_defaults() -> None:
    assert stage(rules={"gopher": True}) == stage(rules={"gopher": {}})
    assert stage(pii=True) == stage(pii={})


def test_web_is_what_fineweb_ran() -> None:
    rules = stage(rules="web").rules
    assert rules is not None
    assert (rules.gopher, rules.gopher_repetition) == (Gopher(), GopherRepetition())
    assert rules.c4 == C4(terminal_punctuation=False, min_sentences=5, min_words_per_line=3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rules": True}, "write `web`"),
        ({"rules": "gopher"}, "rules"),
        ({"language": {"keep": []}}, "nothing would be kept"),
        ({"language": {"keep": ["english"]}}, "pattern"),
        ({"rules": {"gopher": {"max_hashes": -1}}}, "greater than or equal to 0"),
        ({"rules": {"fineweb": {"max_short_lines": 1.5}}}, "less than or equal to 1"),
        ({"normalise": {"form": "NFD"}}, "NFC"),
        ({"pii": {"mail": True}}, "mail"),
    ],
)
def test_mistakes_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        stage(**fields)


def test_a_missing_quality_model_is_found_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="quality train"):
        build_steps(stage(quality={"model": "nowhere"}), tmp_path)


def test_a_document_goes_through_all_steps() -> None:
    text = (
        "\ufeffThe river runs to the sea, and people have lived with it. Write to jane@uni-bonn.de or call!\r\n"
        * 2
    )
    document = {"text": text + "Another line of it, with words that nobody has written before.", "key": "k"}
    for step in build_steps(stage(pii=True, language={}), Path()):
        assert step(document) is None
    assert document["text"].startswith("The river") and "<EMAIL>" in document["text"]
    assert "\r" not in document["text"]
    assert (document["language"], document["pii"]) == ("en", {"email": 2})


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aZb.'’ \n1_-…!中ไ\u3000é\t\u0301\U0001f600あ\ud800々ｶ𠀀")))
def test_words_as_arrays_are_those_of_the_pattern(text: str) -> None:
    words = Words(text)
    assert len(words) == len(words.all)
    assert words.lengths.tolist() == [len(word) for word in words.all]
    assert words.hashes.tolist() == [word_hash(word) for word in words.all]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("aZbİß.'’ \n1_-…!中ไ\u0e4f\u3000éǅ\t\u0301\x1c²Ⅷあ")))
def test_plain_is_the_words_in_lower_case(text: str) -> None:
    spaced = re.sub(f"([{UNSPACED}])", r" \1 ", text.lower())
    assert plain(text) == " ".join(re.findall(r"\w+", spaced))


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("abAB 中!İ\n")),
    st.text(alphabet=st.sampled_from("ab 中")),
    st.integers(1, 4),
)
def test_keys_of_plain_words_are_equal_where_the_words_are(left: str, right: str, n: int) -> None:
    rows, keys = [], []
    for text in (left, right):
        words = plain(text).split()
        rows += [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]
        keys += plain_keys(text, n).tolist()
    assert len(keys) == len(rows)
    assert len(set(keys)) == len(set(rows)) == len(set(zip(keys, rows, strict=True)))


def test_code_is_left_as_it_is_and_keeps_its_language() -> None:
    text = "x = 'cafe\u0301\u200b'\n\n\n\n\n\ny = 1\n"
    document = {"text": text, "key": "k", "kind": "code", "language": "Python"}
    for step in build_steps(stage(language={"keep": ["de"]}), Path()):
        assert step(document) is None
    assert (document["text"], document["language"]) == (text, "Python")

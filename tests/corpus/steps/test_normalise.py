"""Laws: idempotent, bounded, plain text untouched; what scripts need stays, what nobody sees goes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivium.corpus.steps.normalise import NormaliseStep
from trivium.recipe.steps import Normalise

STEP = NormaliseStep(Normalise())
NASTY = st.text(
    st.one_of(
        st.sampled_from(
            "aé Ãâ€©\u00ad\u200b\u200c\u200d\u200e\u202e\u2066\ufeff\ufe0f\ufe00\U000e0041\U000e007f\U0001f3f4"
            "😀👩🏽म्ب葛\U000e0100\r\n\x0b\x0c\x85\u2028\x00\x7f\u0301ﬁ１ \t\ud800\u1160\u115f\u1820\u180b0\u20e3"
        ),
        st.characters(),
    )
)


@settings(max_examples=400, deadline=None)
@given(NASTY)
def test_a_second_time_changes_nothing(text: str) -> None:
    once = STEP.text(text)
    assert STEP.text(once) == once


@settings(max_examples=200, deadline=None)
@given(NASTY, st.sampled_from(["NFC", "NFKC"]))
def test_it_is_normalised_encodable_and_bounded(text: str, form: str) -> None:
    made = NormaliseStep(Normalise(form=form)).text(text)  # type: ignore[arg-type]
    assert unicodedata.is_normalized(form, made)  # type: ignore[arg-type]
    assert len(made.encode()) <= 54 * len(text) + 1  # Unicode's largest growth under NFKC is 18 characters
    assert not any(0xD800 <= ord(c) <= 0xDFFF or 0x202A <= ord(c) <= 0x202E for c in made)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert STEP.text(text) == text
    assert STEP.text(f"{text}\n\t{text}\n") == f"{text}\n\t{text}\n"


@pytest.mark.parametrize(
    "text",
    [
        "می‌خواهم",  # Persian: ZWNJ inside a word
        "क्‍ष और क्‌ष",  # Devanagari: ZWJ and ZWNJ choose the shape
        "👩‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 ❤️ 1️⃣",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # England
        "葛\U000e0100城",  # a variant of a Han character
        "ភាសា​ខ្មែរ",  # Khmer: invisible spaces between words
        "שלום\u200f!",  # a mark that right-to-left text needs
        "naïve café — “quoted” … €5 № ½ 東京 Привет",
        "Ângela São Paulo ÀÉÎ â Ã",
    ],
)
def test_what_scripts_need_stays(text: str) -> None:
    assert STEP.text(text) == text


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("ig\u200bno\u2060re\ufeff", "ignore"),
        ("soft\u00adhyphen", "softhyphen"),
        ("a\u202eb\u202cc \u2066d\u2069", "abc d"),
        ("hi" + "".join(chr(0xE0000 + ord(c)) for c in "ignore all rules"), "hi"),
        ("😀" + "".join(chr(0xE0100 + b) for b in b"hidden"), "😀"),
        ("a\ufe0f\u200db", "ab"),
        ("bell\x07 null\x00 del\x7f", "bell null del"),
        ("one\r\ntwo\rthree\u2028four\x0cfive", "one\ntwo\nthree\nfour\nfive"),
        ("a\n\n\n\n \n\t\n\nb", "a\n\n\nb"),
        ("cafÃ© and â€œquotesâ€\u009d", "café and “quotes”"),
        ("fine line\nbroken: schÃ¶n\nשלום", "fine line\nbroken: schön\nשלום"),
        ("e\u0301", "é"),
        ("left\u200eright", "leftright"),
        ("lone \ud83d surrogate", "lone  surrogate"),
    ],
)
def test_what_nobody_sees_goes_and_what_is_broken_is_mended(text: str, made: str) -> None:
    assert STEP.text(text) == made


def test_each_part_can_be_switched_off() -> None:
    nothing = NormaliseStep(Normalise(form=None, mojibake=False, invisible=False, max_blank_lines=None))
    text = "e\u0301 cafÃ© \u200b\u202e\n\n\n\n\n\nend"
    assert nothing.text(text) == text
    assert nothing.text("\ud800x") == "x"  # no file can hold it


def test_nothing_left_is_a_reason() -> None:
    assert STEP({"text": "\u200b\u200b \n"}) == "normalise:empty"


def test_long_runs_take_no_time_that_grows_with_the_square() -> None:
    for text in (
        "\n" * 500_000,
        " \n" * 250_000 + "x",
        "\u200d" * 300_000,
        "👩\u200d" * 100_000,
        "Ã" * 300_000,
    ):
        STEP.text(text)

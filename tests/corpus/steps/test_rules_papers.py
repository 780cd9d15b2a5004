"""Gopher's, C4's and FineWeb's rules: each by a case of its own, and all against datatrove's on the same words."""

from __future__ import annotations

import pydoc_data.topics
import random
from collections import Counter
from functools import cache
from typing import Any

import pytest

from trivium.corpus.steps.c4 import C4Step, count_sentences
from trivium.corpus.steps.fineweb import FineWebStep
from trivium.corpus.steps.gopher import GopherRepetitionStep, GopherStep, duplicates, top_characters
from trivium.corpus.words import Splitter, Words
from trivium.recipe.steps import C4, FineWeb, Gopher, GopherRepetition

GOOD = """\
The river begins high in the mountains and runs to the sea, more than nine hundred miles away.
People have lived along its banks for a very long time, with boats of reed and houses of clay.
In spring the water rises; fields that seemed dead turn green within a week or two.
Nobody knows who built the first bridge, though many villages would like to be asked.
Today there are forty bridges, and each of them has a story that somebody still tells.
A walk from source to mouth takes two months if you stop to listen."""


def gopher(text: str, language: str | None = None, **limits: Any) -> str | None:
    return GopherStep(Gopher(**limits), Splitter(), "en")({"text": text, "language": language})


def test_good_text_passes_every_rule() -> None:
    assert gopher(GOOD) is None
    assert GopherRepetitionStep(GopherRepetition(), Splitter())({"text": GOOD}) is None
    assert FineWebStep(FineWeb(), Splitter())({"text": GOOD}) is None
    document = {"text": GOOD}
    assert C4Step(C4())(document) is None
    assert document["text"] == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the and of to " * 12, "min_words"),
        ("", "min_words"),
        (GOOD + " word" * 100_000, "max_words"),
        ("a to of I " * 30, "min_mean_word_length"),
        ("the and extraordinarilylongishword anotherextraordinarilylongword " * 20, "max_mean_word_length"),
        (GOOD + " 12345" * 60, "min_alphabetic_words"),
        (GOOD + " #the" * 40, "max_hashes"),
        (GOOD.replace(" ", "... "), "max_ellipses"),
        ("- " + GOOD.replace("\n", "\n- "), "max_bullet_lines"),
        (GOOD.replace("\n", "...\n"), "max_ellipsis_lines"),
        ("words without any small helpers stand here alone " * 10, "min_stop_words"),
    ],
)
def test_gopher_by_its_own_case(text: str, reason: str) -> None:
    assert gopher(text) == f"gopher:{reason}"
    if text:
        assert gopher(text, **{reason: None}) != f"gopher:{reason}"


def test_a_word_with_brackets_has_letters_and_a_ruler_is_one_word() -> None:
    code = "the values and trades[3]. of prices[0], have volumes[1]; with orders[2]) to be limits[4], " * 12
    assert gopher(code, "en") is None
    assert [len(Words(text)) for text in ("-" * 46, "a ===== b", "x...", '"-----"')] == [1, 3, 2, 3]


def test_lines_of_scripts_without_spaces_have_words() -> None:
    text = "これは一つの長い文です。\nもう一つの長い文です。\n三つ目の文もあります。"
    document = {"text": text}
    assert C4Step(C4(terminal_punctuation=False))(document) is None and document["text"] == text


def test_stop_words_follow_the_language() -> None:
    german = "Der Fluss fließt durch das Tal und die Stadt liegt daran, wie jeder weiß. " * 6
    assert gopher(german, "en") == "gopher:min_stop_words"
    assert gopher(german, "de") is None  # no list: not held to it
    assert gopher(german, "de", stop_words={"de": ["nicht", "ein"]}) == "gopher:min_stop_words"
    assert gopher(german, "de", stop_words={"de": ["und", "die"]}) is None
    assert gopher(german, None) == "gopher:min_stop_words"


def test_scripts_without_spaces_are_not_held_to_word_lengths() -> None:
    assert gopher("これは日本語の文章です。山と川があります。" * 10, "ja") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (
            "\n\n".join([*"abcde", "same one here", "same one here", "same one here", "same one here"]),
            "duplicate_paragraphs",
        ),
        ("\n\n".join([GOOD, GOOD, *"abc"]), "duplicate_paragraph_characters"),
        ("a\nb\nc\nd\ne\nf\ng\n" + "x\n" * 6 + GOOD.replace(".\n", ". "), "duplicate_lines"),
        ("\n".join([*GOOD.split("\n"), *GOOD.split("\n")[:3], *"abc"]), "duplicate_line_characters"),
        ("red fox " * 3 + "one two three four five six seven", "top_2gram"),
    ],
)
def test_repetition_by_its_own_case(text: str, reason: str) -> None:
    assert (
        GopherRepetitionStep(GopherRepetition(), Splitter())({"text": text}) == f"gopher_repetition:{reason}"
    )


def test_c4_drops_lines_then_documents() -> None:
    kept = "This line is kept, as it should be. And it has two sentences!\nAnother one [12] stays here too[edit]."
    dropped = "\nno mark at its end\nToo short.\nPlease enable JavaScript to see this page.\nRead our privacy policy first.\n"
    dropped += f"{'x' * 1001} is a word much too long.\nIt trails off into nothing at all...\n"
    document = {"text": kept + dropped}
    assert C4Step(C4())(document) is None
    assert document["text"] == kept.replace("[12]", "").replace("[edit]", "")
    assert C4Step(C4(min_sentences=4))({"text": kept}) == "c4:min_sentences"
    assert C4Step(C4())({"text": kept + "\nA line that has a { bracket in it."}) == "c4:curly_bracket"
    assert C4Step(C4())({"text": kept + "\nLorem ipsum dolor sit amet et cetera."}) == "c4:lorem_ipsum"
    everything = C4(
        terminal_punctuation=False, min_sentences=None, min_words_per_line=None, max_word_length=None, javascript=False,
        policy=False, citations=False, lorem_ipsum=False, curly_bracket=False,
    )  # fmt: skip
    document = {"text": kept + dropped.rstrip("\n")}
    assert C4Step(everything)(document) is None
    assert document["text"] == kept + dropped.rstrip("\n")


@pytest.mark.parametrize(
    ("line", "count"), [("One. Two! Three?", 3), ("No end", 1), ("Is 3.5 more? Yes.", 2), ("", 0), ('He said "no." Then left', 2),
     ("Mr. J. R. Smith of Acme Inc. met Dr. Lee at 5 p.m. in St. Louis.", 1), ("He waited... then left. Gone", 2),
     ("Well... Then he left.", 2), ("See e.g. Fig. 3 for it. Done.", 2), ("他来了。她走了！好吗？", 3), ("By J. Smith et al.", 1)]
)  # fmt: skip
def test_sentences_are_counted(line: str, count: int) -> None:
    assert count_sentences(line) == count


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n\n", "empty"),
        (
            "a line that does not end in a mark but goes on\n" * 9 + "One that does end in one.",
            "min_terminal_lines",
        ),
        ("Short one.\n" * 1 + "\n".join(f"Line {n}." for n in range(9)), "max_short_lines"),
        ("\n".join([*(GOOD.split("\n")), GOOD.split("\n")[0]]), "max_duplicate_line_characters"),
        (
            "\n\n\n".join(f"A line of {n} that is long." for n in range(9)) + "\n" * 20,
            "max_newlines_per_word",
        ),
    ],
)
def test_fineweb_by_its_own_case(text: str, reason: str) -> None:
    assert FineWebStep(FineWeb(short_line=20), Splitter())({"text": text}) == f"fineweb:{reason}"


@cache
def pages() -> list[str]:
    """Real texts (the interpreter's help pages), and the same damaged at random so that every rule meets its edge."""
    texts = sorted(pydoc_data.topics.topics.values())
    draw = random.Random(5)
    for text in [*texts]:
        lines = text.split("\n")
        for _ in range(3):
            some = [
                draw.choice(lines[: draw.randint(1, len(lines))]) for _ in range(draw.randint(1, len(lines)))
            ]
            texts.append("\n".join(line + draw.choice(["", "", ".", "...", "!"]) for line in some))
        words = draw.choices(text.split(), k=draw.randint(5, 400))
        texts.append(" ".join(words * draw.randint(1, 2)))
    return [text for text in texts if text.strip()]


GOPHER = {
    "gopher_short_doc": "min_words", "gopher_long_doc": "max_words", "gopher_below_avg_threshold": "min_mean_word_length",
    "gopher_above_avg_threshold": "max_mean_word_length", "gopher_too_many_hashes": "max_hashes",
    "gopher_too_many_ellipsis": "max_ellipses", "gopher_too_many_bullets": "max_bullet_lines",
    "gopher_too_many_end_ellipsis": "max_ellipsis_lines", "gopher_below_alpha_threshold": "min_alphabetic_words",
    "gopher_enough_stop_words": "min_stop_words", "dup_para_frac": "duplicate_paragraphs", "empty": "empty",
    "dup_para_char_frac": "duplicate_paragraph_characters", "dup_line_frac": "duplicate_lines",
    "dup_line_char_frac": "duplicate_line_characters",
    **{f"top_{n}_gram": f"top_{n}gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"duplicate_{n}gram" for n in range(5, 11)},
    "line_punct_ratio": "min_terminal_lines", "short_line_ratio": "max_short_lines", "list_ratio": "max_newlines_per_word",
    "char_dup_ratio": "max_duplicate_line_characters", "too_few_sentences": "min_sentences",
    "curly_bracket": "curly_bracket", "lorem_ipsum": "lorem_ipsum",
}  # fmt: skip


def datatrove_filters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """datatrove's blocks at the same thresholds, counting our words and sentences instead of spaCy's."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
        monkeypatch.setattr(module, "split_into_words", lambda text, language: Words(text).all)
    monkeypatch.setattr(
        c4_filters, "split_into_sentences", lambda text, language: [""] * count_sentences(text)
    )
    return {
        "gopher": GopherQualityFilter(max_non_alpha_words_ratio=None),
        "gopher_repetition": GopherRepetitionFilter(),
        "c4": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(char_duplicates_ratio=0.1),
    }


def test_decisions_are_those_of_datatrove(monkeypatch: pytest.MonkeyPatch) -> None:
    from datatrove.data import Document

    theirs = datatrove_filters(monkeypatch)
    split = Splitter()
    ours = {
        "gopher": GopherStep(Gopher(min_alphabetic_words=None), split, "en"),
        "gopher_repetition": GopherRepetitionStep(GopherRepetition(), split),
        "c4": C4Step(C4(min_sentences=5, min_words_per_line=3)),
        "fineweb": FineWebStep(FineWeb(), split),
    }
    seen: Counter[str] = Counter()
    for text in pages():
        for name, step in ours.items():
            document, other = {"text": text}, Document(text=text, id="x")
            reason, verdict = step(document), theirs[name].filter(other)
            said = None if verdict is True else f"{name}:{GOPHER[verdict[1]]}"
            seen[str(reason)] += 1
            assert (reason is None) == (said is None), (name, reason, said, text[:300])
            if reason is None:
                assert document["text"] == other.text
            if name.startswith("gopher"):
                assert reason == said
    assert len(seen) > 15, seen  # the cases are worth something: most rules decided at least once


def test_top_ngram_is_exact_against_a_plain_count() -> None:
    draw = random.Random(1)
    for _ in range(200):
        text = " ".join(draw.choices(["aa", "b", "cccc", "dd", "e"], k=draw.randint(1, 40)))
        words = text.split()
        for n in (2, 3, 4):
            grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
            expected = (lambda top: len(top[0]) * top[1])(Counter(grams).most_common(1)[0]) if grams else 0
            assert top_characters(Words(text), n)[0] == expected


def test_duplicates() -> None:
    assert duplicates(["aa", "b", "aa", "aa"]) == (0.5, 4)

"""Instructions whose keeping a program can tell, after IFEval (Zhou et al. 2023, arXiv 2311.07911): "no commas", for one.

`KINDS` says how each is put to the model and when a reply keeps it, strictly: the reply as it is, with nothing taken off. Words
are runs of letters and digits; sentences end at `.`, `!` or `?` before a blank or the end, so "e.g. this" counts as two;
paragraphs are parted by blank lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Instruction(NamedTuple):
    """A kind of instruction with its arguments, as a record can hold them."""

    kind: str
    args: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What the model is told."""
        between = " / " if "options" in self.args else ", "
        shown = {k: between.join(v) if isinstance(v, list) else v for k, v in self.args.items()}
        return KINDS[self.kind].says.format(**shown)


class Kind(NamedTuple):
    group: str
    says: str
    """Its words, with the arguments' names in braces."""
    keeps: Callable[..., bool]
    """(reply, **arguments) -> whether the reply keeps it."""
    forbids: bool = False
    """More words can break it, and never mend it."""


def kept(reply: str, instructions: Sequence[Instruction]) -> list[bool]:
    """Of each instruction, whether the reply keeps it. KeyError for an unknown kind."""
    return [bool(reply.strip()) and KINDS[kind].keeps(reply, **args) for kind, args in instructions]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _sentences(text: str) -> int:
    return sum(bool(_words(part)) for part in re.split(r"[.!?]+[\"'”’)\]]*(?=\s|$)", text))


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _times(text: str, phrase: str) -> int:
    """How often it stands there as a word or words of its own, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _lines(text: str, pattern: str) -> int:
    return sum(re.match(pattern, line) is not None for line in text.splitlines())


def _is_json(text: str) -> bool:
    """An object or a list and nothing else, also in one fence of code."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, re.DOTALL | re.IGNORECASE)

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def _first_word(text: str, count: int, place: int, word: str) -> bool:
    parts = _paragraphs(text)
    return len(parts) == count and [w.lower() for w in _words(parts[place - 1])[:1]] == [word.lower()]


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _sections(text: str, count: int) -> bool:
    found = re.findall(r"^[\s#*]*Section (\d+)\b", text, re.MULTILINE)
    return found == [str(number) for number in range(1, count + 1)]


def _numbered(text: str, count: int) -> bool:
    found = re.findall(r"^\s*(\d+)[.)]\s+\S", text, re.MULTILINE)
    return found == [str(number) for number in range(1, count + 1)]


def _parted(text: str, count: int) -> bool:
    parts = re.split(r"^\s*\*\*\*\s*$", text, flags=re.MULTILINE)
    return len(parts) == count and all(part.strip() for part in parts)


def _repeats(text: str, request: str) -> bool:
    said = text.strip().lower()
    return said.startswith(request.strip().lower()) and bool(_words(said[len(request.strip()) :]))


def _quoted(text: str) -> bool:
    said = text.strip()
    return len(said) > 2 and (said[0], said[-1]) in (('"', '"'), ("“", "”"))


_HIGHLIGHT = re.compile(r"\*\*(?=\S)[^\n*]*[^\s*]\*\*|\*(?=\S)[^\n*]*[^\s*]\*")

KINDS: dict[str, Kind] = {
    "words_at_least": Kind(
        "length", "Write at least {count} words.", lambda t, count: len(_words(t)) >= count
    ),
    "words_at_most": Kind(
        "length", "Write no more than {count} words.", lambda t, count: len(_words(t)) <= count, True
    ),
    "sentences_at_least": Kind(
        "length", "Write at least {count} sentences.", lambda t, count: _sentences(t) >= count
    ),
    "sentences_at_most": Kind(
        "length", "Write no more than {count} sentences.", lambda t, count: _sentences(t) <= count, True
    ),
    "paragraphs": Kind(
        "length",
        "Write exactly {count} paragraphs, with a line of three asterisks (***) between them.",
        _parted,
    ),
    "first_word": Kind(
        "length",
        "Write exactly {count} paragraphs with a blank line between them. Paragraph {place} begins with the word {word}.",
        _first_word,
    ),
    "keywords": Kind(
        "keywords", "Use these words: {words}.", lambda t, words: all(_times(t, w) for w in words)
    ),
    "keyword_at_least": Kind(
        "keywords",
        "Use the word {word} at least {count} times.",
        lambda t, word, count: _times(t, word) >= count,
    ),
    "keyword_at_most": Kind(
        "keywords",
        "Use the word {word} no more than {count} times.",
        lambda t, word, count: _times(t, word) <= count,
        True,
    ),
    "forbidden": Kind(
        "keywords",
        "Do not use these words: {words}.",
        lambda t, words: not any(_times(t, w) for w in words),
        True,
    ),
    "letter": Kind(
        "keywords",
        "The letter {letter} appears at least {count} times.",
        lambda t, letter, count: t.lower().count(letter) >= count,
    ),
    "placeholders": Kind(
        "content",
        "Leave at least {count} placeholders in square brackets, such as [name].",
        lambda t, count: len(re.findall(r"\[[^\[\]\n]*\w[^\[\]\n]*\]", t)) >= count,
    ),
    "postscript": Kind(
        "content",
        "Add a postscript at the end that begins with P.S.",
        lambda t: re.search(r"^\s*P\.\s?S\..*\w", t, re.MULTILINE) is not None,
    ),
    "bullets": Kind(
        "format",
        "Make exactly {count} bullet points, each on a line that begins with * or -.",
        lambda t, count: _lines(t, r"\s*[*-]\s+\S") == count,
    ),
    "numbered": Kind("format", "Make a numbered list of exactly {count} points: 1. and so on.", _numbered),
    "one_of": Kind(
        "format",
        "Answer with one of these and nothing else: {options}",
        lambda t, options: t.strip() in options,
    ),
    "highlights": Kind(
        "format",
        "Highlight at least {count} parts with asterisks, *like this*.",
        lambda t, count: len(_HIGHLIGHT.findall(t)) >= count,
    ),
    "sections": Kind(
        "format", "Make {count} sections; each begins with a line Section X, such as Section 1.", _sections
    ),
    "json": Kind("format", "The whole answer is one JSON object.", _is_json),
    "title": Kind(
        "format",
        "Give it a title in double angle brackets, such as <<a day at sea>>.",
        lambda t: re.search(r"<<[^\n<>]*\w[^\n<>]*>>", t) is not None,
    ),
    "code": Kind(
        "format",
        "Put the code into one block between lines of three backticks.",
        lambda t: (
            re.search(r"^```\w*\n.*?\S.*?\n```\s*$", t, re.MULTILINE | re.DOTALL) is not None
            and t.count("```") == 2
        ),
    ),
    "lines": Kind(
        "format",
        "Write exactly {count} lines.",
        lambda t, count: len([x for x in t.splitlines() if x.strip()]) == count,
    ),
    "two_responses": Kind(
        "whole", "Give two different answers, with six asterisks (******) between them.", _two_responses
    ),
    "repeat": Kind("whole", "First repeat this request word for word, then answer it: {request}", _repeats),
    "begins": Kind(
        "whole", "Begin with exactly these words: {phrase}", lambda t, phrase: t.lstrip().startswith(phrase)
    ),
    "ends": Kind(
        "whole",
        "End with exactly these words, and nothing after them: {phrase}",
        lambda t, phrase: t.rstrip().endswith(phrase),
    ),
    "quoted": Kind("whole", "Put the whole answer into double quotation marks.", _quoted),
    "capitals_at_least": Kind(
        "case",
        "Write at least {count} words in capital letters.",
        lambda t, count: sum(w.isupper() and len(w) > 1 for w in _words(t)) >= count,
    ),
    "upper": Kind("case", "Write in capital letters only.", lambda t: t.upper() == t and t.lower() != t),
    "lower": Kind("case", "Write in small letters only.", lambda t: t.lower() == t and t.upper() != t),
    "no_commas": Kind("marks", "Use no commas.", lambda t: "," not in t),
    "no_digits": Kind("marks", "Use no digits.", lambda t: not any(c.isdigit() for c in t)),
    "question": Kind("marks", "End with a question mark.", lambda t: t.rstrip().endswith("?")),
}
"""Name -> group, words and rule."""

"""Sentences of prose that say something by themselves, out of Markdown, plain text, or the text of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

SHORTEST, LONGEST = 8, 40
"""Words of a statement."""
FIGURES = 0.2
"""Largest share of words that hold digits: more is a row of measurements."""

_FENCE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1[ \t]*$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FRONT = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_UNDERLINED = re.compile(r"^(\S.*)\n(?:={3,}|-{3,})[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$", re.MULTILINE)
_ITEM = re.compile(r"\n(?=\s*(?:[-*+•]|\d+[.)])\s)")
_MARK = re.compile(r"^\s*(?:[-*+•>]|\d+[.)])\s+")
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_EMPHASIS = re.compile(r"(\*\*|__|(?<![\w*])\*(?=\w)|(?<=\w)\*(?![\w*]))")
_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(`]?[A-Z0-9`])")
_SHORTENED = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|al|approx|dr|mrs?|ms|st|fig|eq)|\b[a-z])\.$", re.IGNORECASE
)
_LEANING = re.compile(
    r"""(?:It|They|This|That|These|Those|He|She|We|You|I|Its|Their|His|Her|Our|Your|Ours|Yours|Both|Here|There|So|But|And|
    Or|Then|Such|Others?|Either|Neither|Each|Also|Instead|Otherwise|However|Therefore|Still|Yet|Again|One|Two|Three|Some|None|
    All|Most|Nothing|What|Not|No|(?:The\ )?(?:first|second|third|last|latter|former|rest|others?|same|two|three)|
    The\ (?:table|figures?|columns?|results?|goal|target))\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""Beginnings of sentences that lean on the one before them."""
_POINTING = re.compile(r"\b(?:this|these)\b", re.IGNORECASE)


class Statement(NamedTuple):
    text: str
    heading: str
    """That of its section; empty if there is none."""


def statements(text: str) -> list[Statement]:
    """The statements of a document, each once, in their order, without marks of Markdown. Code, tables and headings are none."""
    found: dict[str, Statement] = {}
    heading = ""
    bare = _COMMENT.sub("", _FENCE.sub("", _FRONT.sub("", text.replace("\r\n", "\n"))))
    apart = _HEADING.sub(r"\n# \1\n", _UNDERLINED.sub(r"# \1", bare))
    for block in re.split(r"\n[ \t]*\n", apart):
        if named := _HEADING.fullmatch(block.strip()):
            heading = _plain(named[1])
        elif not block.lstrip("\n").startswith(("    ", "\t", "|", "<")):
            for sentence in _sentences(block):
                if stands_alone(sentence):
                    found.setdefault(sentence, Statement(sentence, heading))
    return list(found.values())


def _sentences(block: str) -> Iterator[str]:
    for item in _ITEM.split(block):
        rest = ""
        for piece in _END.split(_plain(_MARK.sub("", item))):
            rest = f"{rest} {piece}" if rest else piece
            if not _SHORTENED.search(rest):
                yield rest
                rest = ""
        if rest:
            yield rest


def _plain(text: str) -> str:
    return " ".join(_EMPHASIS.sub("", _LINK.sub(r"\1", text)).split())


def stands_alone(sentence: str) -> bool:
    """Whether a sentence is whole, of fair length, and can be read without the ones before it."""
    words = sentence.split()
    return (
        SHORTEST <= len(words) <= LONGEST
        and sentence.endswith((".", "!"))
        and sentence.count("(") == sentence.count(")")
        and sentence.count("`") % 2 == sentence.count('"') % 2 == 0
        and not _LEANING.match(sentence)
        and not _POINTING.search(sentence)
        and sum(any(letter.isdigit() for letter in word) for word in words) <= FIGURES * len(words)
    )

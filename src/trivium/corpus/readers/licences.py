"""Which licence code is under: SPDX headers, and licence files held against the texts of the well-known licences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from trivium.corpus import extras

NAMES = re.compile(r"^(?:un)?licen[cs]e(?:[-._].*)?$|^copying(?:[-._].*)?$", re.IGNORECASE)
"""Files that hold a licence: LICENSE, LICENCE.txt, LICENSE-MIT, COPYING, UNLICENSE."""
_CODE = re.compile(r"\.(?:py|js|ts|c|h|go|rs|java|rb|html)$", re.IGNORECASE)
_HEADER = re.compile(rb"SPDX-License-Identifier:[ \t]*([^\r\n*]{1,200})")
_COPYRIGHT = re.compile(r"^\s*(?:copyright|©|\(c\)|all rights reserved).*$", re.IGNORECASE | re.MULTILINE)
_WORD = re.compile(r"[a-z0-9]+")
_TOKEN = re.compile(r"[()]|[\w.+-]+")
INSIDE, ALONE = 0.9, 0.5
"""Share of a licence's 3-grams that a file must hold, and share of the file's that the licence must explain."""


def is_licence_file(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return bool(NAMES.match(base)) and not _CODE.search(base)


def header(data: bytes) -> str | None:
    """The SPDX expression in a file's first lines."""
    found = _HEADER.search(data, 0, 4096)
    return found[1].decode("utf-8", "replace").strip().rstrip("-/>").strip() if found else None


def of_text(text: str) -> str | None:
    """The SPDX id of a licence's text; None if it is no well-known one, or several in one file.

    Word 3-grams, as copies differ in line breaks, names and years; a licence that contains another one (BSD-3-Clause
    and BSD-2-Clause) wins by what it explains.
    """
    own = _grams(text[:200_000])
    if not own:
        return None
    best: tuple[float, int, str] | None = None
    for name, grams in _known():
        shared = len(own & grams)
        inside, alone = shared / len(grams), shared / len(own)
        if inside >= INSIDE and alone >= ALONE:
            candidate = (round(2 * shared / (len(own) + len(grams)), 3), len(grams), name)
            best = max(best or candidate, candidate)
    return best[2] if best else None


@cache
def _known() -> tuple[tuple[str, frozenset[str]], ...]:
    with extras.needed("data", "identify"):
        from identify.vendor.licenses import LICENSES
    return tuple((name, _grams(text)) for name, text in LICENSES)


def _grams(text: str) -> frozenset[str]:
    words = _WORD.findall(_COPYRIGHT.sub("", text).lower())
    return frozenset(" ".join(words[place : place + 3]) for place in range(len(words) - 2))


def allowed(expression: str, names: Iterable[str]) -> bool:
    """Whether an SPDX expression can be fulfilled with the licences in `names`: one side of OR, both sides of AND.

    `WITH` an exception only ever allows more. What is no expression is not allowed.
    """
    known = {name.lower() for name in names}
    tokens = _TOKEN.findall(expression.lower())
    place = 0

    def either() -> bool:
        nonlocal place
        value = both()
        while tokens[place : place + 1] == ["or"]:
            place += 1
            value = both() or value
        return value

    def both() -> bool:
        nonlocal place
        value = one()
        while tokens[place : place + 1] == ["and"]:
            place += 1
            value = one() and value
        return value

    def one() -> bool:
        nonlocal place
        token = tokens[place] if place < len(tokens) else ""
        place += 1
        if token == "(":
            value = either() and tokens[place : place + 1] == [")"]
            place += 1
        else:
            value = token in known or token.removesuffix("+") in known
        if tokens[place : place + 1] == ["with"]:
            place += 2
        return value

    try:
        value = either()
    except RecursionError:
        return False
    return value and place == len(tokens)

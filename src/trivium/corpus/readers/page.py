"""From a page of HTML to its main text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from trivium.corpus import extras
from trivium.corpus.readers import charset, xhtml
from trivium.corpus.readers.base import Setting

DEEPEST, ATTRIBUTES = 512, 5000
LONG_TAG, WORTH_A_LOOK = 20_000, 60_000  # characters; a smaller page takes 2 seconds at the worst
_BOX = re.compile(r"<(/?)(?:div|article)\b", re.IGNORECASE)
_BOX_STARTS = ("<d", "<D", "<a", "<A")  # counting is much faster than the pattern, and nearly always enough
_TAG = re.compile(r"<[a-zA-Z]")


class Page(NamedTuple):
    text: str
    title: str


def extract(data: bytes, setting: Setting, declared: str | None = None, *, xml: bool = False) -> Page:
    """The main text of a page; empty where it has none. ValueError, with the reason, where it cannot be had.

    `declared`: the charset of the HTTP header. `xml`: the page is XHTML, by its type or its file's ending.
    """
    if len(data) > setting.caps.html:
        raise ValueError(f"page larger than the {setting.caps.html:,} bytes allowed: {len(data):,}")
    html = charset.decode(data, declared)
    _hold(html)
    if xml:
        html = xhtml.as_html(html)
        _hold(html)
    try:
        return _LIBRARIES[setting.extract](html, setting.main_content)
    except RecursionError:
        raise ValueError("page nested too deeply") from None
    except Exception as error:  # whatever a parser meets in a page is the page's fault, and is said
        raise ValueError(f"extraction failed: {type(error).__name__}: {error}") from None


def _hold(html: str) -> None:
    """ValueError for a page on which the parsers take quadratic time: 100 KB of nested `<div>` cost resiliparse 8
    seconds, 10 MB of attributes in one tag hours. Browsers stop at DEEPEST too."""
    if sum(map(html.count, _BOX_STARTS)) > DEEPEST:
        depth = 0
        for found in _BOX.finditer(html):
            depth = max(0, depth - 1) if found[1] else depth + 1
            if depth > DEEPEST:
                raise ValueError(f"page nested deeper than {DEEPEST} elements")
    if len(html) > WORTH_A_LOOK and _long_tag(html):
        for piece in html.split(">"):
            tag = _TAG.search(piece) if len(piece) > LONG_TAG else None
            if tag and len(piece[tag.start() :].split(None, ATTRIBUTES)) > ATTRIBUTES:
                raise ValueError(f"page with more than {ATTRIBUTES} attributes in one tag")


def _long_tag(html: str) -> bool:
    """Whether LONG_TAG characters somewhere hold no `>`: found by hops from one to the last within reach."""
    place = 0
    while place + LONG_TAG <= len(html):
        found = html.rfind(">", place, place + LONG_TAG)
        if found < 0:
            return True
        place = found + 1
    return False


def whole(data: bytes, setting: Setting) -> Page:
    """All text of a book's page, which is XHTML and has no menus around it. ValueError as `extract`."""
    return extract(data, replace(setting, extract="resiliparse", main_content=False), xml=True)


def _resiliparse(html: str, main_content: bool) -> Page:
    with extras.needed("data", "resiliparse"):
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    tree = HTMLTree.parse(html)
    title = " ".join((tree.title or "").split())
    return Page(extract_plain_text(tree, main_content=main_content, list_bullets=True), title)


def _trafilatura(html: str, main_content: bool) -> Page:
    with extras.needed("data", "trafilatura"):
        import trafilatura
    found = trafilatura.extract(html, include_comments=False) if main_content else trafilatura.html2txt(html)
    about = trafilatura.extract_metadata(html)
    return Page(found or "", (about.title if about else None) or "")


_LIBRARIES: dict[str, Callable[[str, bool], Page]] = {
    "resiliparse": _resiliparse,
    "trafilatura": _trafilatura,
}

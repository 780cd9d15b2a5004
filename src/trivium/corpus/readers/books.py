"""Books: EPUB and PDF, one document per chapter, with title and author."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from trivium.corpus import extras
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import epub, locate, page
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.endings import BOOKS, bare
from trivium.corpus.readers.text import whole_file
from trivium.recipe import sources

_HYPHEN = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zà-ÿ])")


class Chapter(NamedTuple):
    title: str
    text: str
    place: int
    """Place in the spine of an EPUB, first page (from 0) of a PDF."""


class Books(Source):
    config: sources.Books
    endings = BOOKS

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
        return locate.small(found, self.setting.index, self.setting.folder)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for name in part.files:
            data = whole_file(self, name, dead, self.setting.caps.book)
            if data is None:
                continue
            read = _pdf if data.startswith(b"%PDF") or bare(name).endswith(".pdf") else self._epub
            try:
                about, chapters = read(data, name, dead)
            except Exception as error:  # the libraries raise whatever a damaged file makes of them
                dead.add(name, None, f"damaged book: {type(error).__name__}: {error}")
                continue
            yield from self._documents(name, about, chapters)

    def _documents(self, name: str, about: dict[str, Any], chapters: list[Chapter]) -> Iterator[Document]:
        if not any(chapter.text.strip() for chapter in chapters):
            yield self.dropped(
                self.document(name, "", name, meta=about), "no text in the book: scanned pages?"
            )
            return
        for number, chapter in enumerate(chapters, start=1):
            meta = {**about, "chapter": chapter.title, "number": number}
            where = f"{name}@{chapter.place}"
            found = self.document(f"{name}#{number}", chapter.text.strip(), where, meta=meta)
            short = len(chapter.text.strip()) < self.config.min_chapter
            yield self.dropped(found, "chapter shorter than min_chapter") if short else found

    def _epub(self, data: bytes, name: str, dead: DeadLetters) -> tuple[dict[str, Any], list[Chapter]]:
        def lost(member: str, reason: str) -> None:
            dead.add(f"{name}#{member}", None, reason)

        book = epub.Epub(data, self.setting.caps, lost)
        chapters: list[Chapter] = []
        for place, member, content in book.pages():
            try:
                text, own = page.whole(content, self.setting)
            except ValueError as error:
                dead.add(f"{name}#{member}", place, str(error))
                continue
            title = book.titles.get(member)
            if title is None and book.titles and chapters:  # a chapter that goes on in another file
                last = chapters[-1]
                chapters[-1] = last._replace(text=f"{last.text}\n\n{text}")
            else:
                chapters.append(Chapter(title or ("" if book.titles else own), text, place))
        about = {"title": book.title, "author": ", ".join(book.authors)}
        return {**about, "rights": "; ".join(book.rights)} if book.rights else about, chapters


def _pdf(data: bytes, name: str, dead: DeadLetters) -> tuple[dict[str, Any], list[Chapter]]:
    with extras.needed("data", "pypdf"):
        import pypdf
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it says every oddity of every file
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise ValueError("encrypted")
    starts = _outline(reader)
    about = reader.metadata
    texts: list[str] = []
    for number, sheet in enumerate(reader.pages):
        try:
            texts.append(sheet.extract_text())
        except Exception as error:
            dead.add(name, number, f"damaged page: {type(error).__name__}: {error}")
            texts.append("")
    bounds = sorted({0, *starts, len(texts)})
    chapters = [
        Chapter(starts.get(start, ""), _HYPHEN.sub("", "\n".join(texts[start:stop])), start)
        for start, stop in pairwise(bounds)
    ]
    title, author = (about.title, about.author) if about else (None, None)
    return {"title": str(title or ""), "author": str(author or "")}, chapters


def _outline(reader: Any) -> dict[int, str]:
    """First page -> title of the outline's top level; empty if there is none or it is damaged."""
    found: dict[int, str] = {}
    try:
        for entry in reader.outline:
            if not isinstance(entry, list):
                start = reader.get_destination_page_number(entry)
                if start is not None and start >= 0:
                    found.setdefault(start, " ".join(str(entry.title or "").split()))
    except Exception:  # an outline that cannot be read only costs the chapters' bounds
        return {}
    return {start: title for start, title in found.items() if start < len(reader.pages)}

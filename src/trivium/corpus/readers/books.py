"""Books: EPUB and PDF, one document per chapter, with title and author."""

from __future__ import annotations

import io
import logging
import re
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from trivium.corpus import extras
from trivium.corpus.caps import Caps
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import archives, locate, page
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.text import whole_file

BOOKS = (".epub", ".pdf")
_READ = (".xhtml", ".html", ".htm", ".xml", ".opf", ".ncx")
"""Members of an EPUB that are read; pictures, fonts and sounds are not."""
_HYPHEN = re.compile(r"(?<=[^\W\d_])-\n(?=[a-zà-ÿ])")


class Chapter(NamedTuple):
    title: str
    text: str
    place: int
    """Place in the spine of an EPUB, first page (from 0) of a PDF."""


class Books(Source):
    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.find(self.config.path, self.setting.folder, BOOKS)
        return locate.small(found, self.setting.index, self.setting.folder)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for name in part.files:
            data = whole_file(self, name, dead, self.setting.caps.book)
            if data is None:
                continue
            read = _pdf if data.startswith(b"%PDF") or name.lower().endswith(".pdf") else self._epub
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
        with extras.needed("data", "ebooklib"):
            from ebooklib import epub
        caps = self.setting.caps
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if len(archive.infolist()) > caps.members:
                raise ValueError(f"more than the {caps.members:,} members allowed")

        class Reader(epub.EpubReader):  # type: ignore[misc]
            """Reads members within limits, and those that hold text only; one that is damaged costs itself."""

            def read_file(self, inside: str) -> bytes:
                return _member(self.zf, epub.zip_path.normpath(inside), name, caps, dead)

        reader = Reader(io.BytesIO(data), {"ignore_ncx": False})
        book = reader.load()
        titles = _titles(book.toc)
        chapters: list[Chapter] = []
        for place, (identity, _) in enumerate(book.spine):
            item = book.get_item_with_id(identity)
            if item is None or isinstance(item, epub.EpubNav) or not item.content:
                continue
            try:
                text = page.whole(item.content, self.setting)
            except ValueError as error:
                dead.add(f"{name}#{item.file_name}", place, str(error))
                continue
            title = titles.get(item.file_name)
            if title is None and titles and chapters:  # a chapter that goes on in another file
                last = chapters[-1]
                chapters[-1] = last._replace(text=f"{last.text}\n\n{text}")
            else:
                chapters.append(Chapter(title or "", text, place))
        authors = [str(value) for value, _ in book.get_metadata("DC", "creator")]
        about = {"title": str(book.title or ""), "author": ", ".join(authors)}
        rights = [str(value) for value, _ in book.get_metadata("DC", "rights") if value]
        return {**about, "rights": "; ".join(rights)} if rights else about, chapters


def _member(archive: zipfile.ZipFile, inside: str, name: str, caps: Caps, dead: DeadLetters) -> bytes:
    if not inside.lower().endswith(_READ):
        return b""
    try:
        return archives.zip_member(archive, archive.getinfo(inside), caps.record, caps)
    except KeyError:
        if inside == "META-INF/container.xml":
            raise
        dead.add(f"{name}#{inside}", None, "named in the book, but not there")
    except Exception as error:  # zlib.error, BadZipFile, Damaged
        dead.add(f"{name}#{inside}", None, f"damaged member: {error}")
    return b""


def _titles(toc: Any, depth: int = 0) -> dict[str, str]:
    """File -> title of the chapter that begins in it, from the table of contents down to its second level."""
    found: dict[str, str] = {}
    for entry in toc if isinstance(toc, list | tuple) else [toc]:
        head, below = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, [])
        href = str(getattr(head, "href", "") or "").split("#")[0]
        if href:
            found.setdefault(href, " ".join(str(head.title or "").split()))
        if below and depth < 1:
            for file, title in _titles(below, depth + 1).items():
                found.setdefault(file, title)
    return found


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

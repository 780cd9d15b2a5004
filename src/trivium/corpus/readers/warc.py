"""WARC files, read so that damage costs the records it touches and no others.

The compressed members (or the records of a file that is not compressed) are found here, within limits; fastwarc reads
what is in a record. A part is a byte range: a member belongs to the part that it begins in, so several workers read one
file together.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trivium.corpus import extras
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import charset, frames, locate, page, streams
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.text import said

WARC = (".warc", ".warc.gz", ".warc.zst", ".wet", ".wet.gz", ".wet.zst")
READ = (b"response", b"resource", b"conversion")
"""Types of records that hold documents; requests, metadata and the like hold none."""
HTML = ("text/html", "application/xhtml+xml")


class Warc(Source):
    endings: tuple[str, ...] | None = WARC

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.find(self.config.path, self.setting.folder, WARC)
        return locate.ranges(found, self.setting.index, self.setting.folder, splits=WARC)

    def root(self) -> Path:
        """The folder that the parts' paths are relative to."""
        return self.setting.folder

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        try:
            with locate.open_binary(part.path, self.root()) as file:
                for offset, record in self._records(file, part, dead):
                    found = self._document(part.path, offset, record, dead)
                    if found is not None:
                        yield found
        except locate.BROKEN as error:
            dead.add(part.path, part.start, f"unreadable file: {said(error)}")

    def _records(self, file: BinaryIO, part: Part, dead: DeadLetters) -> Iterator[tuple[int, bytes]]:
        """(offset of the member or record, the whole record) of each record that may hold a document."""

        said: list[str] = []

        def lost(offset: int, reason: str) -> None:
            said.append(reason)
            dead.add(part.path, offset, reason)

        start = file.read(4)
        if not start and part.start == 0:
            lost(0, "empty file")
        kind = streams.kind_of(start)
        file.seek(part.start)
        found = frames.records(file, kind, part.start, part.stop, self.setting.caps, lost)
        empty = True
        for offset, record in found:
            empty = False
            if frames.type_of(record) in READ:
                yield offset, record
        if empty and not said and part.start == 0 and part.stop is None:
            lost(0, "no WARC record in the file")

    def _document(self, name: str, offset: int, data: bytes, dead: DeadLetters) -> Document | None:
        with extras.needed("data", "fastwarc"):
            from fastwarc.warc import ArchiveIterator
        where = f"{name}@{offset}"
        caps = self.setting.caps
        try:
            archive = ArchiveIterator(io.BytesIO(data), parse_http=False, max_header_len=caps.header)
            record = next(iter(archive), None)
            if record is None:
                raise ValueError("no WARC record")
            url = record.headers.get("WARC-Target-URI") or ""
            if (record.headers.get("Content-Type") or "").startswith("application/http"):
                record.parse_http(auto_decode="transfer", max_header_len=caps.header)
            status = record.http_headers.status_code if record.http_headers else None
            mime = (
                (record.http_content_type or record.headers.get("Content-Type") or "")
                .split(";")[0]
                .strip()
                .lower()
            )
            encoding = (record.http_headers.get("Content-Encoding") or "") if record.http_headers else ""
            declared = record.http_charset
            body = record.reader.read()
            meta = {"date": record.headers.get("WARC-Date"), "status": status}
        except Exception as error:  # whatever the library raises, it is this record's fault
            dead.add(name, offset, f"unreadable record: {error}")
            return None
        key = url.split("#")[0] or where
        blank = self.document(key, "", where, url=url or None, meta=meta)
        if status not in (None, 200):
            return self.dropped(blank, f"HTTP status {status}")
        try:
            body = content(body, encoding, self)
            if mime in HTML:
                text, meta["title"] = page.extract(body, self.setting, declared)
            elif mime == "text/plain":
                text = charset.decode(body, declared)
            else:
                return self.dropped(blank, f"not a page of text: {mime or 'no type'}"[:80])
        except ValueError as error:
            dead.add(name, offset, str(error))
            return None
        if not text.strip():
            return self.dropped(blank, "no text in the page")
        return self.document(key, text, where, url=url or None, meta=meta)


def content(body: bytes, encoding: str, source: Source) -> bytes:
    """The body with its content encoding taken off, within the caps. ValueError if it cannot be."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "zstd", "deflate"):
        raise ValueError(f"content encoding not known: {encoding[:20]}")
    caps = source.setting.caps
    if encoding == "deflate":
        return streams.deflated(body, caps)
    if streams.kind_of(body) is None:
        return body  # Common Crawl decodes the body and leaves the header
    return streams.whole(streams.plain(io.BytesIO(body), caps), caps.record)

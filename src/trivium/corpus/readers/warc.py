"""WARC and ARC files, read so that damage costs the records it touches and no others.

The compressed members (or the records of a file that is not compressed) are found within limits (`frames`), what is in
them is read leniently (`http`). A part is a byte range: a member belongs to the part that it begins in, so several workers
read one file together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import charset, frames, http, locate, page, streams
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.endings import WARC, bare
from trivium.corpus.readers.text import said

READ = ("response", "resource", "conversion")
"""Types of records that hold documents; requests, metadata and the like hold none."""
SPLITS = tuple(f"{ending}{packed}" for ending in WARC for packed in ("", ".gz", ".zst"))
"""Files that several workers read together."""
LOOKED_AT = 2**16
"""Bytes by which a file's compression and format are known."""


class Record(NamedTuple):
    kind: str
    """WARC-Type, lower case."""
    headers: http.Headers
    block: bytes


class Warc(Source):
    endings: tuple[str, ...] | None = WARC

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
        return locate.ranges(found, self.setting.index, self.setting.folder, splits=SPLITS)

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

    def _records(self, file: BinaryIO, part: Part, dead: DeadLetters) -> Iterator[tuple[int, Record]]:
        """(offset of the member or record, the record) of each record that may hold a document."""
        reasons: list[str] = []

        def lost(offset: int, reason: str) -> None:
            reasons.append(reason)
            dead.add(part.path, offset, reason)

        caps = self.setting.caps
        start = file.read(LOOKED_AT)
        if not start and part.start == 0:
            lost(0, "empty file")
        file.seek(part.start)
        kind = streams.kind_of(start)
        if kind is None and part.path.lower().endswith(
            ".br"
        ):  # has no members: read as the stream that it is
            file = streams.plain(file, caps, caps.archive, name=part.path)
            start = b"" if ".arc" not in bare(part.path) else b"filedesc://"
        form = frames.form_of(streams.starts(kind, start) if kind else start)
        empty = True
        for offset, data in frames.records(file, kind, part.start, part.stop, caps, lost, form):
            empty = False
            record = of_arc(data) if form is frames.ARC else of_warc(data)
            if record.kind in READ:
                yield offset, record
        if empty and not reasons and part.start == 0 and part.stop is None:
            lost(0, "no WARC record in the file")

    def _document(self, name: str, offset: int, record: Record, dead: DeadLetters) -> Document | None:
        where, caps = f"{name}@{offset}", self.setting.caps
        url = record.headers.get("warc-target-uri").strip("<>").replace(" ", "%20")
        key = url.split("#")[0] or where
        meta: dict[str, str | int | None] = {"date": record.headers.get("warc-date") or None, "status": None}
        said_type, body = record.headers.get("content-type"), record.block
        try:
            if said_type.lower().startswith("application/http") or (
                record.kind == "response" and body[:5].upper() == b"HTTP/"
            ):
                answer = http.answer(body)
                meta["status"], said_type = answer.status, answer.headers.get("content-type")
                blank = self.document(key, "", where, url=url or None, meta=meta)
                if answer.status != 200:
                    return self.dropped(blank, f"HTTP status {answer.status}")
                body = http.body(answer, caps)
            mime = http.media_type(said_type) or http.media_type(
                record.headers.get("warc-identified-payload-type")
            )
            mime = mime or http.sniffed(body)
            declared = http.charset_of(said_type)
            if mime in (http.HTML, http.XHTML):
                text, meta["title"] = page.extract(body, self.setting, declared, xml=mime == http.XHTML)
            elif mime == http.PLAIN:
                text = charset.decode(body, declared)
            else:
                blank = self.document(key, "", where, url=url or None, meta=meta)
                return self.dropped(blank, f"not a page of text: {mime}"[:80])
        except ValueError as error:
            dead.add(name, offset, str(error))
            return None
        found = self.document(key, text, where, url=url or None, meta=meta)
        return found if text.strip() else self.dropped(found, "no text in the page")


def of_warc(data: bytes) -> Record:
    first = data.find(b"\n") + 1
    end = http.END.search(data, max(0, first - 2))
    assert end is not None  # at the latest where the data ends
    headers = http.Headers(data[first : end.start()])
    return Record(headers.get("warc-type").lower(), headers, data[end.end() :])


def of_arc(data: bytes) -> Record:
    """A record of the format before WARC (https://archive.org/web/researcher/ArcFileFormat.php), as WARC would hold it."""
    line = frames.ARC.begins.match(data)
    if line is None:
        return Record("", http.Headers(b""), b"")
    url, date = line["url"], line["date"].ljust(14, b"0").decode("ascii")
    kind = b"warcinfo" if url.startswith(b"filedesc:") else b"response"
    own = b"application/http" if url.startswith((b"http:", b"https:")) else line["type"]
    moment = f"{date[:4]}-{date[4:6]}-{date[6:8]}T{date[8:10]}:{date[10:12]}:{date[12:14]}Z".encode()
    named = {b"WARC-Type": kind, b"WARC-Target-URI": url, b"WARC-Date": moment, b"Content-Type": own}
    lines = b"\n".join(name + b": " + value for name, value in named.items())
    return Record(kind.decode(), http.Headers(lines), data[line.end() :])

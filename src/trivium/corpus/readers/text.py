"""Text and JSON lines: one document per file, and one per line."""

from __future__ import annotations

from collections.abc import Iterator

from trivium.corpus import files
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import charset, locate, streams
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.records import Record, key_of

JSONL = (*files.JSONL, *(f"{ending}{packed}" for ending in files.JSONL for packed in (".gz", ".zst")))


class TextFiles(Source):
    """Plain text, one document per file; gzip and zstd are taken off, the charset is found where it is not UTF-8."""

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.find(self.config.path, self.setting.folder)
        return locate.small(found, self.setting.index, self.setting.folder)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for name in part.files:
            data = whole_file(self, name, dead)
            if data is None:
                continue
            text = charset.decode(data)
            if not text.strip():
                dead.add(name, 0, "empty file")
            elif "\0" in text:
                dead.add(name, text.index("\0"), "binary file: it holds NUL characters")
            else:
                yield self.document(key_of(text), text, name, origin=self.config.origin or name)


class JsonLines(Source):
    """One JSON object per line with `text`, and `url`, `id`, `license`, `language`, `title` where they are there."""

    @property
    def max_dead(self) -> int | None:  # type: ignore[override]
        """The source's own limit, if the recipe gives one."""
        limit: int | None = self.config.max_bad_lines
        return limit

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.find(self.config.path, self.setting.folder, JSONL)
        return locate.ranges(found, self.setting.index, self.setting.folder, splits=files.JSONL)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        caps, empty = self.setting.caps, True
        place = part.start
        try:
            with locate.open_binary(part.path, self.setting.folder) as file:
                stream = file if part.start else streams.plain(file, caps, caps.archive)
                found_lines = streams.lines(stream, caps.line, part.start, part.stop)
                for number, (place, line) in enumerate(found_lines, start=1):
                    empty = empty and not (line is None or line.strip())
                    if line is None:
                        name = self._line(part, number)
                        dead.add(name, place, f"line longer than the {caps.line:,} bytes allowed")
                    elif line.strip():
                        found = self._row(part, number, place, line.removeprefix(b"\xef\xbb\xbf"), dead)
                        if found is not None:
                            yield found
        except locate.BROKEN as error:
            dead.add(part.path, place, f"unreadable file: {said(error)}")
            return
        if empty and part.start == 0 and part.stop is None:
            dead.add(part.path, 0, "empty file")

    def _line(self, part: Part, number: int) -> str:
        """file:line of a part's line. Only damage is named so: the lines before the part are counted for it."""
        if part.start:
            with locate.open_binary(part.path, self.setting.folder) as file:
                number += sum(1 for _ in streams.lines(file, self.setting.caps.line, 0, part.start))
        return f"{part.path}:{number}"

    def _row(self, part: Part, number: int, place: int, line: bytes, dead: DeadLetters) -> Document | None:
        try:
            row = parse(line)
            text = files._string(row, "text")
        except files.BadLine as error:
            dead.add(self._line(part, number), place, f"malformed line: {error}")
            return None
        return self.row(row, text, f"{part.path}@{place}")

    def row(self, row: Record, text: str, where: str) -> Document:
        """A document from a row of named columns (also of Parquet and of data sets)."""
        url = row.get("url")
        meta = {
            name: row[name]
            for name in ("id", "title", "author", "date")
            if isinstance(row.get(name), str | int)
        }
        own = {
            name: row[name]
            for name in ("license", "language")
            if isinstance(row.get(name), str) and row[name]
        }
        return self.document(
            key_of(text), text, where, url=url if isinstance(url, str) and url else None, meta=meta, **own
        )


def said(error: Exception) -> str:
    """The reason in an error of the system or of a library, without what differs between machines."""
    return (
        (error.strerror or type(error).__name__)
        if isinstance(error, OSError)
        else str(error) or type(error).__name__
    )


def parse(line: bytes) -> Record:
    """One line as an object. BadLine otherwise."""
    try:
        return files._parse(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise files.BadLine(f"not UTF-8: byte 0x{line[error.start]:02x} at {error.start}") from None


def whole_file(source: Source, name: str, dead: DeadLetters, limit: int | None = None) -> bytes | None:
    """A file's bytes, gzip and zstd taken off; None, with a dead letter, if it cannot be read or is too large."""
    caps = source.setting.caps
    limit = limit or caps.record
    try:
        with locate.open_binary(name, source.setting.folder) as file:
            return streams.whole(streams.plain(file, caps), limit)
    except locate.BROKEN as error:
        dead.add(name, 0, f"unreadable file: {said(error)}")
        return None

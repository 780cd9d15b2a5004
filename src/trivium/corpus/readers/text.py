"""Text and JSON lines: one document per file, and one per line."""

from __future__ import annotations

from collections.abc import Iterator

from trivium.corpus import rows
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import charset, locate, streams
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.endings import JSONL
from trivium.corpus.records import Record, key_of
from trivium.corpus.rows import BadRow, EmptyRow
from trivium.recipe import sources


class TextFiles(Source):
    """Plain text, one document per file; compression is taken off, the charset is found where it is not UTF-8."""

    endings = ()

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
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


class Rows(Source):
    """Shared by what holds rows of named columns: a row becomes a record of the stage's format."""

    what = "row"
    column = "text"

    def rows(self, part: Part, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
        """(place in the file, number within the part from 1, the row or what is wrong with it)."""
        raise NotImplementedError

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for place, number, row in self.rows(part, dead):
            where = f"{part.path}@{place}"
            try:
                if isinstance(row, BadRow):
                    raise row
                yield self.row(row, where)
            except BadRow as error:
                dead.add(self.named(part, number), place, f"malformed {self.what}: {error}")
            except EmptyRow as error:
                yield self.dropped(self.document(key_of(""), "", where), f"read:{error}")

    def row(self, row: Record, where: str) -> Document:
        """A document, or a record of another format, from a row of named columns. BadRow or EmptyRow."""
        record = rows.record(row, self.setting.format, self.column)
        own = {
            name: row[name]
            for name in ("license", "language", "url")
            if isinstance(row.get(name), str) and row[name]
        }
        about = {
            name: row[name]
            for name in ("id", "title", "author", "date")
            if isinstance(row.get(name), str | int)
        }
        if self.setting.format == "documents":
            meta = {**about, **record["meta"]}
            return self.document(record["key"], record["text"], where, meta=meta, **own)
        if (
            "url" in own
        ):  # in `meta`, not as the row's: many conversations are about one page, and are no copies
            about["url"] = own["url"]
        record["meta"] = {**about, **record["meta"]}
        return {**self.item(record, where, license=own.get("license")), "language": own.get("language")}

    def named(self, part: Part, number: int) -> str:
        """The file as a dead letter names it."""
        return part.path


class JsonLines(Rows):
    """One JSON object per line; of documents `text`, and `url`, `id`, `license`, `language`, `title`, `meta` if there."""

    config: sources.Jsonl | sources.Table

    what = "line"
    endings = JSONL

    @property
    def max_dead(self) -> int | None:  # type: ignore[override]
        """The source's own limit, if the recipe gives one."""
        limit: int | None = self.config.max_bad_lines
        return limit

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
        return locate.ranges(found, self.setting.index, self.setting.folder, splits=JSONL)

    def rows(self, part: Part, dead: DeadLetters) -> Iterator[tuple[int, int, Record | BadRow]]:
        caps, empty = self.setting.caps, True
        place = part.start
        try:
            with locate.open_binary(part.path, self.setting.folder) as file:
                stream = file if part.start else streams.plain(file, caps, caps.archive, name=part.path)
                found_lines = streams.lines(stream, caps.line, part.start, part.stop)
                for number, (place, line) in enumerate(found_lines, start=1):
                    empty = empty and not (line is None or line.strip())
                    if line is None:
                        yield place, number, BadRow(f"longer than the {caps.line:,} bytes allowed")
                    elif line.strip():
                        yield place, number, _parsed(line.removeprefix(b"\xef\xbb\xbf"))
        except locate.BROKEN as error:
            dead.add(part.path, place, f"unreadable file: {said(error)}")
            return
        if empty and part.start == 0 and part.stop is None:
            dead.add(part.path, 0, "empty file")

    def named(self, part: Part, number: int) -> str:
        """file:line of a part's line. Only damage is named so: the lines before the part are counted for it."""
        if part.start:
            with locate.open_binary(part.path, self.setting.folder) as file:
                number += sum(1 for _ in streams.lines(file, self.setting.caps.line, 0, part.start))
        return f"{part.path}:{number}"


def _parsed(line: bytes) -> Record | BadRow:
    try:
        return rows.parse(line)
    except BadRow as error:
        return error


def said(error: Exception) -> str:
    """The reason in an error of the system or of a library, without what differs between machines."""
    return (
        (error.strerror or type(error).__name__)
        if isinstance(error, OSError)
        else str(error) or type(error).__name__
    )


def whole_file(source: Source, name: str, dead: DeadLetters, limit: int | None = None) -> bytes | None:
    """A file's bytes, compression taken off; None, with a dead letter, if it cannot be read or is too large."""
    caps = source.setting.caps
    limit = limit or caps.record
    try:
        with locate.open_binary(name, source.setting.folder) as file:
            return streams.whole(streams.plain(file, caps, name=name), limit)
    except locate.BROKEN as error:
        dead.add(name, 0, f"unreadable file: {said(error)}")
        return None

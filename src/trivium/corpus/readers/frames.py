"""WARC and ARC records cut out of a stream: compressed members or plain, with everything that can be wrong with them.

A record is found by the length in its header and must be followed by the end or by the next record; if it is not, the
length lies, and reading goes on at the next header at the start of a line. A member that cannot be inflated, or that
grows beyond the caps, costs itself: reading goes on at the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from trivium.corpus.caps import Caps
from trivium.corpus.readers import streams

Lost = Callable[[int, str], None]
"""Takes (offset, reason) of what could not be read."""
_LENGTH = re.compile(rb"\ncontent-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_GAP = re.compile(rb"[\r\n]*")
_FIELDS = (
    rb"(?P<url>[a-z][\w+.-]*:\S[^\r\n]{0,8192}?) (?P<ip>[\da-fA-F.:]{1,45}) (?P<date>\d{8,17}) "
    rb"(?P<type>[^\r\n]{1,200}?)(?: \d{3} \S+ \S+ \d+ \S+)? (?P<length>\d{1,18})[ \t]*"
)
STEP = 2**16


@dataclass(frozen=True)
class Form:
    """How the records of an archive format begin."""

    name: str
    begins: re.Pattern[bytes]
    """Matched at the first bytes of a record."""
    partly: re.Pattern[bytes]
    """Matched at first bytes that are too few for that."""
    head: re.Pattern[bytes]
    """Searched for the end of its header."""
    length: re.Pattern[bytes]
    """In the header: the bytes that follow it."""
    next: re.Pattern[bytes]
    """What to look for where a record is lost; the next one begins at the end of the match."""

    def could_begin(self, data: bytes | bytearray) -> bool:
        """Whether a record begins here, as far as the data goes."""
        if self.begins.match(data):
            return True
        return self.partly.match(data, 0, LINE) is not None


LINE = 2**14
"""Longest header line of an ARC record."""
WARC = Form(
    "warc",
    re.compile(rb"WARC/"),
    re.compile(rb"W?A?R?C?\Z"),
    re.compile(rb"\r?\n\r?\n"),
    _LENGTH,
    re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.)"),
)
ARC = Form(
    "arc",
    re.compile(_FIELDS + rb"\r?\n"),
    re.compile(rb"[a-z][\w+.-]*:[^\r\n]*\Z"),
    re.compile(rb"\r?\n"),
    re.compile(rb" (\d{1,18})[ \t]*\r?\n"),
    re.compile(rb"\n(?=" + _FIELDS + rb"\r?\n)"),
)


def form_of(start: bytes) -> Form:
    """The format by an archive's first bytes, decompressed."""
    start = start.lstrip(b"\r\n")
    return ARC if start.startswith(b"filedesc://") or ARC.begins.match(start) else WARC


def records(
    file: BinaryIO, kind: str | None, start: int, stop: int | None, caps: Caps, lost: Lost, form: Form = WARC
) -> Iterator[tuple[int, bytes]]:
    """(offset, record with its header) for all that begin in [start, stop) of a file that stands at `start`.

    The offset is that of the record in a plain file, that of the member in a compressed one.
    """
    if kind is None:
        yield from _plain(file, start, stop, caps, lost, form)
        return
    window = Window(file, start, form)
    if start and not window.seek_member(kind, start):
        return
    while window.fill() and (stop is None or window.place < stop):
        offset = window.place
        if not window.at(kind):
            if window.padding():
                continue
            lost(offset, f"corrupt {kind}: no member begins here")
        else:
            framer = Framer(caps, lost, offset, form)
            try:
                for piece in window.inflate(kind, caps):
                    for _, record in framer.feed(piece):
                        yield offset, record
                for _, record in framer.feed(b"", end=True):
                    yield offset, record
                continue
            except streams.Damaged as error:
                lost(offset, str(error))
        if not window.seek_member(kind, offset + 1):
            return


def _plain(
    file: BinaryIO, start: int, stop: int | None, caps: Caps, lost: Lost, form: Form
) -> Iterator[tuple[int, bytes]]:
    framer = Framer(caps, lost, start, form, positions=True)
    if start:
        back = min(start, 4)  # the blank lines before a record that begins exactly here
        file.seek(start - back)
        framer = Framer(caps, lost, start - back, form, positions=True, seeking=True)
    while True:
        chunk = file.read(streams.CHUNK)
        for offset, record in framer.feed(chunk, end=not chunk):
            if stop is not None and offset >= stop:
                return
            if offset >= start:
                yield offset, record
        if not chunk or (stop is not None and framer.place >= stop):
            return


class Framer:
    """Cuts a stream of decompressed bytes into records. Holds at most one record and what was fed with it."""

    def __init__(
        self,
        caps: Caps,
        lost: Lost,
        offset: int,
        form: Form,
        *,
        positions: bool = False,
        seeking: bool = False,
    ) -> None:
        self.caps, self.lost, self.offset, self.form, self.positions = caps, lost, offset, form, positions
        self.data = bytearray()
        self.place = offset
        """Offset of the first byte held."""
        self.seeking = seeking
        """Whether bytes are skipped up to the next record."""
        self.wanted = 0
        """Bytes that must be there before another look is worth it."""

    def feed(self, piece: bytes, end: bool = False) -> Iterator[tuple[int, bytes]]:
        """The records that are complete now. `end`: nothing more comes."""
        self.data += piece
        while self.data and (end or len(self.data) >= self.wanted):
            self.wanted = 0
            if self.seeking and not self._seek(end):
                return
            gap = _GAP.match(self.data)
            self._drop(gap.end() if gap else 0)
            if not self.data or (not end and len(self.data) < 5):
                return
            if not self.form.could_begin(self.data):
                self._lost(f"no {self.form.name.upper()} record where one should begin")
                self._resync(0)
                continue
            size = self._size(end)
            if size is None:
                if self.seeking:
                    continue
                return
            yield self.place, bytes(self.data[:size])
            self._drop(size)

    def _size(self, end: bool) -> int | None:
        """Length of the record at the front; None if more bytes are needed, or if it is lost."""
        head = self.form.head.search(self.data, 0, self.caps.header)
        if head is None:
            if end or len(self.data) > self.caps.header:
                self._lost("truncated record: its header does not end")
                self._resync(1)
            return None
        length = self.form.length.search(self.data, 0, head.end())
        if length is None:
            self._lost("record without a length")
            self._resync(head.start())
            return None
        size = head.end() + int(length[1])
        if int(length[1]) > self.caps.record:
            self._lost(
                f"record larger than the {self.caps.record:,} bytes allowed: it says {int(length[1]):,}"
            )
            self._resync(head.start())
            return None
        after = size + (
            9 if self.form is WARC else 4096
        )  # the blank lines and the beginning of the next record
        if len(self.data) < after and not end:
            self.wanted = after
            return None
        if len(self.data) < size:
            self._lost(
                f"truncated record: {int(length[1]):,} bytes said, {len(self.data) - head.end():,} there"
            )
            self._resync(head.start())
            return None
        rest = bytes(self.data[size:after]).lstrip(b"\r\n")
        if rest and not self.form.could_begin(rest):
            self._lost("wrong Content-Length: the record does not end where it says")
            self._resync(head.start())
            return None
        return size

    def _lost(self, reason: str) -> None:
        self.lost(self.place if self.positions else self.offset, reason)

    def _resync(self, skip: int) -> None:
        """From here on, look for the next record, beginning `skip` bytes on."""
        self._drop(skip)
        self.seeking = True

    def _seek(self, end: bool) -> bool:
        found = self.form.next.search(self.data)
        if found is None:
            kept = 16 if self.form is WARC else LINE
            self._drop(len(self.data) if end else max(0, len(self.data) - kept))
            self.wanted = len(self.data) + 1
            return False
        self._drop(found.start())
        self.seeking = False
        return True

    def _drop(self, count: int) -> None:
        del self.data[:count]
        self.place += count


class Window:
    """A view of a compressed file that moves on, and knows where it is."""

    def __init__(self, file: BinaryIO, place: int, form: Form) -> None:
        self.file, self.data, self.place, self.form = file, b"", place, form
        """`place`: offset in the file of the first byte of `data`."""

    def fill(self) -> bool:
        """Whether there is something to read."""
        if not self.data:
            self.data = self.file.read(streams.CHUNK)
        return bool(self.data)

    def _longer(self, least: int) -> None:
        while len(self.data) < least:
            more = self.file.read(streams.CHUNK)
            if not more:
                return
            self.data += more

    def at(self, kind: str) -> bool:
        """Whether a member begins here."""
        self._longer(4)
        return streams.kind_of(self.data) == kind or (kind == "zstd" and streams.skippable(self.data))

    def padding(self) -> bool:
        """Moves over zero bytes, which may stand between members; whether there were any."""
        left = self.data.lstrip(b"\0")
        moved = len(self.data) - len(left)
        self._to(moved)
        return moved > 0

    def _to(self, count: int) -> None:
        self.data = self.data[count:]
        self.place += count

    def inflate(self, kind: str, caps: Caps) -> Iterator[bytes]:
        """The pieces of the member that begins here; afterwards the window stands behind it.

        Damaged if it cannot be inflated or grows beyond the caps. The window then stands somewhere in it.
        """
        decoder = streams.decoder(kind)
        taken = given = 0
        while True:
            if not decoder.waiting and not self.fill():
                raise streams.Damaged(f"truncated {kind}: the last member ends in the middle")
            try:
                piece, rest, ended = decoder.step(self.data, STEP)
            except Exception as error:
                raise streams.Damaged(f"corrupt {kind}: {error}") from None
            moved = len(self.data) - len(rest)
            taken, given = taken + moved, given + len(piece)
            self._to(moved)
            if given > caps.free and given > caps.ratio * max(1, taken):
                raise streams.Bomb(f"decompression bomb: more than {caps.ratio} bytes per compressed byte")
            if piece:
                yield piece
            if ended:
                return

    def seek_member(self, kind: str, least: int) -> bool:
        """Moves to the first member at or after `least` that holds a WARC record; whether there is one."""
        if self.place > least or not self.data:
            self.file.seek(least)
            self.data, self.place = b"", least
        else:
            self._to(least - self.place)
        magic = streams.MAGIC[kind]
        while True:
            self._longer(len(magic))
            found = self.data.find(magic)
            if found < 0:
                self._to(max(0, len(self.data) - len(magic) + 1))
                before = len(self.data)
                self._longer(streams.CHUNK)
                if len(self.data) == before:
                    self._to(before)
                    return False
                continue
            self._to(found)
            self._longer(4096)
            if self._begins(streams.starts(kind, self.data[:4096])):
                return True
            self._to(1)

    def _begins(self, start: bytes) -> bool:
        return bool(start) and self.form.could_begin(start.lstrip(b"\r\n"))

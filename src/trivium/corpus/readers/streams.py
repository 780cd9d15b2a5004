"""Bytes read with limits: lines of bounded length, and compressed ones inflated piece by piece with byte and ratio caps.

One-shot decompression is not used anywhere: zstandard's `max_output_size` does not hold where the frame's header names
a size, and gzip reaches 1,029 bytes per byte.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from trivium.corpus import extras
from trivium.corpus.caps import Caps

CHUNK = 2**18
MAGIC = {
    "gzip": b"\x1f\x8b\x08",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh",
}


class Damaged(ValueError):
    """A stream that cannot be read on. `str()` is the reason for the dead letter."""


class Bomb(Damaged):
    """A stream that grows beyond the caps."""


class Inflated(io.RawIOBase):
    """A compressed stream, read as what is inside: all gzip members or zstd frames one after another.

    Raises Damaged (also its subclass Bomb) from `read`. `total`: decompressed bytes that it gives at most.
    """

    def __init__(self, stream: BinaryIO, kind: str, caps: Caps, total: int | None = None) -> None:
        self.stream, self.kind, self.caps, self.total = stream, kind, caps, total
        self.taken = self.given = 0
        self.pending = b""
        self.decoder = decoder(kind)
        self.started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while True:
            if not self.pending and not self.decoder.waiting:
                self.pending = self.stream.read(CHUNK)
                self.taken += len(self.pending)
                if not self.pending:
                    if self.started:
                        raise Damaged(f"truncated {self.kind}: it ends in the middle")
                    return 0
            piece = self._step(len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)

    def _step(self, room: int) -> bytes:
        """At most `room` bytes of output; moves to the next member where one ends."""
        self.started = True
        try:
            piece, self.pending, ended = self.decoder.step(self.pending, room)
        except Exception as error:  # each library has its own
            raise Damaged(f"corrupt {self.kind}: {error}") from None
        self.given += len(piece)
        self._hold()
        if ended:
            self.decoder, self.started = decoder(self.kind), False
            if self.kind == "gzip":
                self.pending = self.pending.lstrip(b"\0")  # padding after the last member is allowed
        return piece

    def _hold(self) -> None:
        if self.total is not None and self.given > self.total:
            raise Bomb(f"decompresses to more than {self.total:,} bytes")
        if self.given > self.caps.free and self.given > self.caps.ratio * self.taken:
            raise Bomb(f"decompression bomb: more than {self.caps.ratio} bytes per compressed byte")


class Gzip:
    """One gzip member, inflated in bounded steps."""

    def __init__(self) -> None:
        self.inflate = zlib.decompressobj(31)

    @property
    def waiting(self) -> bool:
        """Whether output is ready without more input."""
        return False

    def step(self, data: bytes, room: int) -> tuple[bytes, bytes, bool]:
        """(output of at most `room` bytes, input not used yet, whether the member is complete)."""
        piece = self.inflate.decompress(data, room)
        rest = self.inflate.unused_data if self.inflate.eof else self.inflate.unconsumed_tail
        return piece, rest, self.inflate.eof


class Zstd:
    """One zstd frame. The library inflates a whole input block at once, so the input is fed in small slices."""

    SLICE = 1024
    """Input bytes a step: at 32,750:1 that is 32 MiB of output at the very most, held until it is taken."""
    WINDOW = 128 * 2**20
    """Largest window accepted (what `zstd --long` needs); a frame may ask for gigabytes."""

    def __init__(self) -> None:
        with extras.needed("data", "zstandard"):
            import zstandard
        self.inflate = zstandard.ZstdDecompressor(max_window_size=self.WINDOW).decompressobj()
        self.ready = b""

    @property
    def waiting(self) -> bool:
        return bool(self.ready)

    def step(self, data: bytes, room: int) -> tuple[bytes, bytes, bool]:
        """As `Gzip.step`."""
        rest = data
        if not self.ready and not self.inflate.eof:
            self.ready = self.inflate.decompress(data[: self.SLICE])
            unused = self.inflate.unused_data if self.inflate.eof else b""
            rest = unused + data[self.SLICE :]
        piece, self.ready = self.ready[:room], self.ready[room:]
        return piece, rest, self.inflate.eof and not self.ready


class Bounded:
    """One xz or bzip2 stream: both libraries hold to a limit on the output themselves."""

    MEMORY = 256 * 2**20
    """What an xz stream may ask for; `xz -9` needs 65 MiB."""

    def __init__(self, kind: str) -> None:
        self.inflate = lzma.LZMADecompressor(memlimit=self.MEMORY) if kind == "xz" else bz2.BZ2Decompressor()

    @property
    def waiting(self) -> bool:
        return not self.inflate.needs_input and not self.inflate.eof

    def step(self, data: bytes, room: int) -> tuple[bytes, bytes, bool]:
        """As `Gzip.step`. The libraries keep the input that they have not used."""
        if self.waiting:
            return self.inflate.decompress(b"", room), data, self.inflate.eof
        piece = self.inflate.decompress(data, room)
        return piece, self.inflate.unused_data if self.inflate.eof else b"", self.inflate.eof


class Brotli:
    """One brotli stream. The library's limit on the output is soft."""

    def __init__(self) -> None:
        with extras.needed("data", "Brotli"):
            import brotli
        self.inflate = brotli.Decompressor()
        self.ready = b""

    @property
    def waiting(self) -> bool:
        return bool(self.ready) or not self.inflate.can_accept_more_data()

    def step(self, data: bytes, room: int) -> tuple[bytes, bytes, bool]:
        """As `Gzip.step`. The library keeps the input that it has not used."""
        rest = data
        if not self.ready and not self.inflate.is_finished():
            fresh = self.inflate.can_accept_more_data()
            self.ready = self.inflate.process(data if fresh else b"", output_buffer_limit=room)
            rest = b"" if fresh else data
        piece, self.ready = self.ready[:room], self.ready[room:]
        return piece, rest, self.inflate.is_finished() and not self.ready


Decoder = Gzip | Zstd | Bounded | Brotli
_DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": Gzip,
    "zstd": Zstd,
    "xz": lambda: Bounded("xz"),
    "bzip2": lambda: Bounded("bzip2"),
    "brotli": Brotli,
}


def decoder(kind: str) -> Decoder:
    return _DECODERS[kind]()


def kind_of(start: bytes) -> str | None:
    """gzip, zstd, xz, bzip2 or None, by a stream's first bytes."""
    return next((kind for kind, magic in MAGIC.items() if start.startswith(magic)), None)


def skippable(start: bytes) -> bool:
    """Whether a zstd frame that holds no data begins here."""
    return start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F


def starts(kind: str, data: bytes) -> bytes:
    """The first decompressed bytes of a member, as far as `data` goes; empty if it is none."""
    try:
        return decoder(kind).step(data, 64)[0]
    except Exception:
        return b""


def deflated(data: bytes, caps: Caps) -> bytes:
    """HTTP's `deflate`: zlib or, as some servers send it, raw. Damaged beyond the caps, if it is cut or if it is neither."""
    for bits in (15, -15):
        inflate = zlib.decompressobj(bits)
        try:
            found = inflate.decompress(data, caps.record + 1)
        except zlib.error:
            continue
        if len(found) > max(caps.free, min(caps.record, caps.ratio * len(data))):
            raise Bomb(
                f"decompression bomb: {len(data):,} bytes of deflate hold more than {len(found) - 1:,}"
            )
        if not inflate.eof:
            raise Damaged("truncated deflate: it ends in the middle")
        return found
    raise Damaged("corrupt deflate")


class Borrowed(io.RawIOBase):
    """A stream from its beginning, of which some bytes have been looked at; closing it leaves the stream open."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self.head[: len(buffer)] or self.stream.read(len(buffer))
        self.head = self.head[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def plain(stream: BinaryIO, caps: Caps, total: int | None = None, *, name: str = "") -> BinaryIO:
    """The stream with any compression around it taken off, buffered; `total` caps what comes out.

    `name`: that of the file, since brotli is known by its ending alone.
    """
    head = stream.read(max(map(len, MAGIC.values())))
    kind = kind_of(head) or ("brotli" if name.lower().endswith(".br") else None)
    borrowed = Borrowed(head, stream)
    if kind is None:
        return io.BufferedReader(borrowed, CHUNK)
    return inflated(cast(BinaryIO, borrowed), kind, caps, total)


def inflated(stream: BinaryIO, kind: str, caps: Caps, total: int | None = None) -> BinaryIO:
    """What is in a compressed stream, buffered."""
    return io.BufferedReader(Inflated(stream, kind, caps, total), CHUNK)


def whole(stream: BinaryIO, limit: int) -> bytes:
    """All of a stream. Damaged if it is longer than `limit` bytes; hardly more than that is ever held."""
    pieces: list[bytes] = []
    left = limit + 1
    while left > 0 and (
        piece := stream.read(min(left, CHUNK))
    ):  # asked for more, it would make room for all of it
        pieces.append(piece)
        left -= len(piece)
    if left <= 0:
        raise Damaged(f"larger than the {limit:,} bytes allowed")
    return b"".join(pieces)


def lines(
    stream: BinaryIO, limit: int, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, bytes | None]]:
    """(offset, line without its end) of the lines that begin in [start, stop); None for one longer than `limit`.

    Of a longer line no more than `limit` bytes are ever held. A range that starts within a line leaves that line to the
    range before it. `start` needs a stream that can seek.
    """
    place = start
    if start:
        stream.seek(start - 1)
        place = start - 1
        _, length = _line(stream, 0)
        place += length
    while stop is None or place < stop:
        line, length = _line(stream, limit)
        if not length:
            return
        yield place, line
        place += length


def _line(stream: BinaryIO, limit: int) -> tuple[bytes | None, int]:
    """(line or None if longer than `limit`, bytes read)."""
    line = stream.readline(limit + 2)
    length = len(line)
    if line.endswith(b"\n") or length < limit + 2:
        return line.rstrip(b"\r\n") if length <= limit + 2 else None, length
    while line and not line.endswith(b"\n"):
        line = stream.readline(CHUNK)
        length += len(line)
    return None, length

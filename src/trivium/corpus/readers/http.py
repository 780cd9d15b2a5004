"""An HTTP answer as an archive holds it: headers however they are written, and the body that a browser would show.

Archives keep what a server sent, or what a crawler made of it, with headers that may be true of the other. So a
`Transfer-Encoding` or `Content-Encoding` is taken off where the body has it, and passed over where it has not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from trivium.corpus.caps import Caps
from trivium.corpus.readers import streams

HTML, XHTML, PLAIN, BINARY = "text/html", "application/xhtml+xml", "text/plain", "application/octet-stream"
END = re.compile(rb"\r?\n\r?\n|\A\r?\n|\Z")
"""Of the header lines: CRLF, or LF alone."""
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+(\d{3})\b[^\n]*(?:\n|\Z)", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n[ \t]+")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
_LINE = re.compile(rb"\r?\n")
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s;"',]+)""", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_TAG = re.compile(
    rb"\s*<(?:!--|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s>])",
    re.IGNORECASE,
)
SNIFFED = 1445
"""Bytes that browsers look at (https://mimesniff.spec.whatwg.org)."""
PACKED = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "br": "brotli",
    "zstd": "zstd",
}
LAYERS = 4
"""Encodings around one another that are taken off."""


class Headers:
    """Header lines, looked up in any case; a name may stand there several times."""

    def __init__(self, lines: bytes) -> None:
        try:
            text = lines.decode("utf-8")
        except UnicodeDecodeError:
            text = lines.decode("latin-1")
        self.values: dict[str, list[str]] = {}
        for line in _FOLD.sub(" ", text).splitlines():
            name, colon, value = line.partition(":")
            if colon:
                self.values.setdefault(name.strip().lower(), []).append(value.strip())

    def get(self, name: str) -> str:
        """The last value, as browsers take it; empty if there is none."""
        return self.values.get(name, [""])[-1]

    def listed(self, name: str) -> list[str]:
        """All values, split at commas, lower case."""
        found = ",".join(self.values.get(name, [])).lower().split(",")
        return [value.strip() for value in found if value.strip()]


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes
    """As it stands in the archive."""


def answer(block: bytes) -> Answer:
    """Status, headers and body. ValueError if it is no HTTP answer."""
    status = _STATUS.match(block)
    if status is None:
        raise ValueError("no HTTP answer where one should be")
    end = END.search(block, max(0, status.end() - 2))
    assert end is not None
    return Answer(int(status[1]), Headers(block[status.end() : end.start()]), block[end.end() :])


def body(found: Answer, caps: Caps) -> bytes:
    """The body without its encodings. Damaged if they cannot be taken off, or if it grows beyond the caps."""
    data = found.body
    for name in found.headers.listed("transfer-encoding")[::-1][:LAYERS]:
        data = dechunked(data) if name == "chunked" else decoded(data, name, caps)
    for name in found.headers.listed("content-encoding")[::-1][:LAYERS]:
        data = decoded(data, name, caps)
    return data


def dechunked(data: bytes) -> bytes:
    """A chunked body's content; from where it is not chunked (any more) on, the body as it stands."""
    return b"".join(_chunks(data))


def _chunks(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        head = _CHUNK.match(data, place)
        if head is None:
            yield data[place:]
            return
        size = int(head[1], 16)
        if size == 0:
            return  # trailers may follow
        piece = data[head.end() : head.end() + size]
        end = _LINE.match(data, head.end() + size)
        if end is None and head.end() + size < len(data):  # a line that only looks like the head of a chunk
            yield piece if place else data
            return
        yield piece
        place = end.end() if end else len(data)


def decoded(data: bytes, name: str, caps: Caps) -> bytes:
    """The body with one encoding taken off, or as it is where it does not have it."""
    kind = PACKED.get(name)
    if kind is None or not data:
        if name in ("identity", "none", "chunked") or is_text(data):
            return data  # `none`, `utf-8` and the like: no browser knows them either
        raise streams.Damaged(f"content encoding not known: {name[:20]}")
    if kind in streams.MAGIC:
        if streams.kind_of(data) != kind:
            return data  # the crawler has taken it off and left the header
        return streams.whole(streams.plain(io.BytesIO(data), caps), caps.record)
    try:
        if kind == "brotli":
            return streams.whole(streams.inflated(io.BytesIO(data), kind, caps), caps.record)
        return streams.deflated(data, caps)
    except streams.Bomb:
        raise
    except streams.Damaged:
        if is_text(data):
            return data
        raise


def is_text(data: bytes) -> bool:
    """Whether the first bytes are those of text: no control characters, as in all that is compressed."""
    return not _CONTROL.search(data[:SNIFFED])


def media_type(said: str) -> str:
    """`text/html` of `Text/HTML; charset=x`; empty if it says nothing of use."""
    kind = said.split(";")[0].strip().lower()
    return "" if kind in ("unknown/unknown", "application/unknown", "*/*") or "/" not in kind else kind


def charset_of(said: str) -> str | None:
    found = _CHARSET.search(said)
    return found[1] if found else None


def sniffed(data: bytes) -> str:
    """The type of a body that nobody names, as browsers find it."""
    head = data[:SNIFFED].removeprefix(b"\xef\xbb\xbf")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return PLAIN
    if _TAG.match(head):
        return XHTML if b"www.w3.org/1999/xhtml" in head and b"<?xml" in head else HTML
    if head.lstrip().startswith(b"<?xml"):
        return XHTML if b"www.w3.org/1999/xhtml" in head else "application/xml"
    return PLAIN if is_text(data) else BINARY

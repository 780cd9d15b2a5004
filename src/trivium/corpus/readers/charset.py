"""From bytes to text: the charset that is declared, if it fits; otherwise the one that is found."""

from __future__ import annotations

import codecs
import re

from trivium.corpus import extras

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"""<meta[^>]{0,300}?charset\s*=\s*["']?\s*([\w.:-]{2,40})"""
    rb"""|<\?xml[^>]{0,100}?encoding=["']([\w.:-]{2,40})""",
    re.IGNORECASE,
)
SNIFFED = 4096
"""First bytes in which a page declares its charset (the HTML standard reads 1,024)."""


def decode(data: bytes, declared: str | None = None) -> str:
    """The text, always: bytes that no charset explains become U+FFFD.

    In this order: byte order mark; UTF-8, which almost no other text is by accident; what is declared (by HTTP or in
    the page), if it decodes everything; what is detected (uchardet, through resiliparse).
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\x1b" in data and (text := _strict(data, declared or in_page(data))) is not None:
        return text  # ISO-2022: seven bits, so that everything would pass for UTF-8
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.end == len(data) and error.start >= len(data) - 3 and error.start > 0
        if cut:  # cut in the middle of a character: still UTF-8
            return data.decode("utf-8", "replace")
    for name in (declared, in_page(data), _detect(data)):
        text = _strict(data, name)
        if text is not None:
            return text
    return data.decode("utf-8" if _mostly_utf8(data) else "cp1252", "replace")


def in_page(data: bytes) -> str | None:
    """The charset that a page declares in its first bytes."""
    found = _META.search(data[:SNIFFED])
    return (found[1] or found[2]).decode("ascii") if found else None


def _strict(data: bytes, name: str | None) -> str | None:
    """The text if the charset is known and explains every byte."""
    if not name:
        return None
    with extras.needed("data", "resiliparse"):
        from resiliparse.parse.encoding import map_encoding_to_html5
    try:
        mapped = map_encoding_to_html5(name, fallback_utf8=False)  # Latin-1 means Windows-1252 on the web
        text = data.decode(mapped) if mapped and mapped.lower() not in ("utf-8", "utf8") else None
    except (UnicodeError, LookupError, ValueError, TypeError):
        return None
    return text


def _detect(data: bytes) -> str | None:
    with extras.needed("data", "resiliparse"):
        from resiliparse.parse.encoding import detect_encoding
    return detect_encoding(data, html5_compatible=False)


def _mostly_utf8(data: bytes) -> bool:
    """Whether a broken text is UTF-8 with a few bad bytes, not something else."""
    text = data.decode("utf-8", "replace")
    return text.count("\ufffd") * 20 < sum(character > "\x7f" for character in text) + 20

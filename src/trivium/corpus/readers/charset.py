"""From bytes to text as browsers decode it: the WHATWG Encoding Standard (https://encoding.spec.whatwg.org), its labels
through `webencodings`, its decoders through Python's, with the standard's own way of going on after a bad byte."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from trivium.corpus import extras

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SNIFFED = 4096
"""First bytes in which a page declares its charset (the HTML standard reads 1,024)."""
_COMMENT = re.compile(rb"<!(?=--).*?-->|<!--.*", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]{1,400})", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([^\s"'>/=]+)\s*=\s*(?:"([^"]*)|'([^']*)|([^\s>]+))""")
_IN_CONTENT = re.compile(rb"""charset\s*=\s*["']?\s*([^\s;"']+)""", re.IGNORECASE)
_XML = re.compile(rb"""\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{2,40})""")
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1f\ufffd]")
_SEVEN_BITS = {"hz-gb-2312": "hz", "iso-2022-kr": "iso2022_kr"}
"""What browsers refuse, because scripts could hide in it; nothing runs here, so that it is read."""
_DECODERS = {"gbk": "gb18030", "iso-2022-jp": "iso2022_jp_ext", "x-user-defined": "cp1252"}
"""Where the standard's decoder is another of Python's than `webencodings` names."""
_DETECTED = {"cp949": "euc-kr", "euc_jp": "euc-jp", "mac-cyrillic": "x-mac-cyrillic", "cp950": "big5"}
"""What uchardet finds that is no label of the standard."""
_LEADS = {
    "cp932": (*range(0x81, 0xA0), *range(0xE0, 0xFD)),
    **dict.fromkeys(("gb18030", "big5hkscs", "cp949"), range(0x81, 0xFF)),
    "euc_jp": (0x8E, 0x8F, *range(0xA1, 0xFF)),
}
"""Bytes that begin a character of several."""
_WIDE = dict(zip(map(ord, "〜‖−¢£¬"), "～∥－￠￡￢", strict=True))
"""JIS characters that Python's EUC-JP and ISO-2022-JP take for others than the standard (and Shift_JIS) does."""
_OTHERS = {
    "cp932": dict.fromkeys(range(0xF8F0, 0xF8F4), "\ufffd"),  # the bytes A0 and FD to FF
    "euc_jp": _WIDE,
    "iso2022_jp_ext": _WIDE,
    "koi8-u": {0x255D: "ў", 0x256C: "Ў"},
}


class Charset(NamedTuple):
    name: str
    """The standard's name, lower case."""
    codec: str
    """Python's."""


def decode(data: bytes, declared: str | None = None) -> str:
    """The text, always: one U+FFFD for each character that the charset does not have.

    `declared`: the label in the HTTP header. In this order: byte order mark; UTF-16 where HTTP or the NULs say so; what is
    declared by HTTP or in the page; UTF-8; what is detected (uchardet, through resiliparse); Windows-1252. Unlike a
    browser, this one believes a declaration only if it is true: a text that is UTF-8 throughout is UTF-8 (unless a Chinese,
    Japanese or Korean page is so by accident), and one of which every twentieth letter is not in the declared charset is
    in another one.
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    header = lookup(declared)
    wide = header if header and header.codec.startswith("utf-16") and not _ascii(data) else _sixteen(data)
    if wide:
        return data.decode(wide.codec, "replace")
    found = (header if header and not header.codec.startswith("utf-16") else None) or lookup(in_page(data))
    if found is None and b"\x1b$B" in data:
        found = lookup("iso-2022-jp")
    if found and found.codec in ("hz", "iso2022_kr", "iso2022_jp_ext"):
        return _decoded(data, found)  # seven bits, so that everything would pass for UTF-8
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _not_utf8(data, found)
    if found and found.codec in _LEADS and max(data, default=0) < 0xE0:  # no character of three bytes: no CJK
        return _strict(data, found) or text
    return text


def _not_utf8(data: bytes, found: Charset | None) -> str:
    utf8 = Charset("utf-8", "utf-8")
    for charset in (found, utf8, lookup(_detect(data))):
        text = _decoded(data, charset) if charset else ""
        if text and _true(text):
            return text
    return _decoded(data, found or Charset("windows-1252", "cp1252"))


def lookup(label: str | None) -> Charset | None:
    """The charset of a label of the standard; None for one that it does not know."""
    if not label:
        return None
    with extras.needed("data", "webencodings"):
        import webencodings
    label = label.strip().lower()
    if label in _SEVEN_BITS:
        return Charset(label, _SEVEN_BITS[label])
    found = webencodings.lookup(label)
    if found is None or found.name == "replacement":
        return None
    return Charset(found.name, _DECODERS.get(found.name, found.codec_info.name))


def in_page(data: bytes) -> str | None:
    """The label that a page declares in its first bytes, comments left out."""
    head = data[:SNIFFED]
    if found := _XML.match(head):
        return found[1].decode("ascii")
    for meta in _META.finditer(_COMMENT.sub(b"", head)):
        said = {name.lower(): b"".join(values) for name, *values in reversed(_ATTRIBUTE.findall(meta[1]))}
        label = said.get(b"charset")
        if label is None and said.get(b"http-equiv", b"").lower() == b"content-type":
            inside = _IN_CONTENT.search(said.get(b"content", b""))
            label = inside[1] if inside else None
        if label and (charset := lookup(label.decode("latin-1"))):
            return "utf-8" if charset.codec.startswith("utf-16") else charset.name
    return None


def _ascii(data: bytes) -> bool:
    return data.isascii() and b"\0" not in data


def _sixteen(data: bytes) -> Charset | None:
    """UTF-16 without a mark, known by the NUL beside each Latin letter."""
    head = data[:SNIFFED]
    if b"\0" not in head:
        return None
    even, odd = head[::2].count(0), head[1::2].count(0)
    for order, many, few in (("le", odd, even), ("be", even, odd)):
        text = head.decode(f"utf-16-{order}", "replace")
        if 4 * many > len(head) // 2 and 50 * few <= many and not _BINARY.search(text[:-1]):
            return Charset(f"utf-16{order}", f"utf-16-{order}")
    return None


def _decoded(data: bytes, charset: Charset) -> str:
    text = data.decode(charset.codec, "replace" if charset.codec.startswith("utf") else BAD)
    others = _OTHERS.get(charset.codec)
    return text.translate(others) if others else text


def _strict(data: bytes, charset: Charset) -> str | None:
    text = _decoded(data, charset)
    return None if "\ufffd" in text else text


def _true(text: str) -> bool:
    """Whether a charset explains a text: a few bad bytes among its letters are damage, many are another charset."""
    return text.count("\ufffd") * 20 <= sum(character > "\x7f" for character in text) + 20


def _detect(data: bytes) -> str | None:
    with extras.needed("data", "resiliparse"):
        from resiliparse.parse.encoding import detect_encoding
    found = detect_encoding(data, html5_compatible=False)
    return None if found is None else _DETECTED.get(found, found)


def _go_on(error: UnicodeError) -> tuple[str, int]:
    """What the standard puts for a bad character, and where it goes on: behind the lead byte if the one that follows is
    ASCII (which is read again), else behind both."""
    assert isinstance(error, UnicodeDecodeError)
    data, at, codec = error.object, error.start, error.encoding
    lead, trail = data[at], data[at + 1 : at + 2]
    leads = _LEADS.get(codec)
    if leads is None:  # one byte a character, or escape sequences
        control = codec == "charmap" and 0x80 <= lead < 0xA0
        return (chr(lead) if control else "\ufffd"), max(error.end, at + 1)
    if lead not in leads or not trail or trail.isascii():
        special = {("cp932", 0x80): "\x80", ("gb18030", 0x80): "€"}
        return special.get((codec, lead), "\ufffd"), at + 1
    if codec == "euc_jp" and lead == 0x8F:
        return "\ufffd", at + (3 if data[at + 2 : at + 3] > b"\x7f" and trail > b"\xa0" else 2)
    if codec == "euc_jp" and lead > 0xA0 and trail > b"\xa0":  # NEC's and IBM's rows, which Shift_JIS has
        row, cell = lead - 0xA1, trail[0] - 0xA1
        first = row // 2 + (0x81 if row < 62 else 0xC1)
        second = cell + 0x9F if row % 2 else cell + 0x40 + (cell > 62)
        return bytes((first, second)).decode("cp932", "replace")[:1], at + 2
    return "\ufffd", at + 2


BAD = "whatwg"
codecs.register_error(BAD, _go_on)

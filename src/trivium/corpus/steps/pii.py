"""Personal data: found by shape, proved by check digits where there are any, replaced by placeholders, counted.

What identifies nobody stays: addresses of example.com and its like (RFC 2606), private, loopback and documentation ranges of IP
addresses, four small numbers that are a version (1.2.3.4), numbers whose check digits are wrong.

A text is first asked for the few characters without which no rule can match, so that clean text costs almost nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from trivium.corpus.steps.base import Document, on_lines
from trivium.corpus.steps.secrets import redact_secrets
from trivium.corpus.words import codepoints
from trivium.errors import TriviumError
from trivium.recipe.steps import Pii

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9_+%-](?:[\w.+%'-]{0,62}[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"([A-Za-z]{2,24})(?![\w-])",
    re.ASCII,
)
_RESERVED = re.compile(
    r"@(?:.*\.)?(?:example(?:\.(?:com|net|org))?|[^.]+\.(?:test|invalid|localhost|local))$", re.I
)
_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "html", "php", "py", "json", "xml")
)
"""Endings of files that stand after an @ without being a domain: logo@2x.png, pkg@latest.js."""

LEAST_DIGITS, DIGITS_WITHIN = 7, 24
"""Telephone, card and account numbers have so many digits in so few characters; other lines are not looked at."""
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
)
_VERSION = re.compile(r"(?:\bv|ver|version|release|build|section|chapter|rev|revision|§)[\s.:#(]*$", re.I)
LARGEST_VERSION = 25
"""Four numbers none of which is larger are taken for a version or a section, not for an address."""

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_IBAN_HINT = re.compile(r"[A-Z]{2}\d\d ?[A-Z0-9]{4}")
_CARD = re.compile(
    r"(?<![\w.,+-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3\d{3}([ -]?)\d{6}\2\d{5}|3\d{3}([ -]?)\d{6}\3\d{4})(?![\w-]|[.,]\d)"
)
_ISSUERS = re.compile(
    r"4\d{15}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"  # Visa, Mastercard, Amex
    r"|(?:6011|65\d\d|64[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[689]\d)\d{11}|62\d{14}"  # Discover, JCB,
)  # Diners, UnionPay
_PHONE = re.compile(r"(?<![\w.,@/+-])(?:\+|\()?\d(?:[ \u00a0().\-/]{0,2}\d){6,14}(?![\w@]|[.,-]\d)")
_SEPARATED = re.compile(r"\d[ \u00a0().\-/]+\d")
_DATE = re.compile(r"(?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d")


@cache
def _libraries() -> tuple[Any, Any, Any]:
    """phonenumbers, and python-stdnum's IBAN and Luhn."""
    try:
        import phonenumbers
        from stdnum import iban, luhn
    except ImportError:
        raise TriviumError(
            "personal data is recognised with phonenumbers and python-stdnum",
            fix="pip install 'trivium[data]'",
        ) from None
    return phonenumbers, iban, luhn


class PiiStep:
    """Replaces; counts by type in the column `pii`. Rejects nothing."""

    name = "pii"
    changes = redacts = True

    def __init__(self, config: Pii) -> None:
        self.config = config

    def __call__(self, document: Document) -> str | None:
        text, counts = redact(document["text"], self.config)
        document["text"], document["pii"] = text, dict(counts)
        return None


def redact(text: str, config: Pii) -> tuple[str, Counter[str]]:
    """(the text with placeholders, how many of each type)."""
    counts: Counter[str] = Counter()
    if config.secrets:
        text, found = redact_secrets(text)
        counts.update(found)
    text = on_lines(text, _hints(text, config), lambda line: _redact_line(line, config, counts))
    return text, counts


def _hints(text: str, config: Pii) -> list[int]:
    """Where something could be found, ascending: an @, many digits close together, colons as in an IPv6 address."""
    points = codepoints(text)
    found = [np.flatnonzero(points == ord("@"))] if config.email else []
    digit = (points >= ord("0")) & (points <= ord("9"))
    if config.ip or config.phone or config.card or config.iban:
        found.append(_close(np.flatnonzero(digit), LEAST_DIGITS, DIGITS_WITHIN))
    if config.ip and len(points) > 2:
        dots = np.flatnonzero(digit[:-2] & (points[1:-1] == ord(".")) & digit[2:])
        found.append(_close(dots, 3, 9))
        colons = np.flatnonzero(points == ord(":"))
        found += [_close(colons, 2, 2), _close(colons, 6, 31)]
    return np.unique(np.concatenate(found)).tolist() if found else []


def _close(places: np.ndarray, least: int, within: int) -> np.ndarray:
    """Those of ascending `places` that begin a group of `least` in at most `within` characters."""
    if len(places) < least:
        return places[:0]
    starts = places[: len(places) - least + 1]
    near: np.ndarray = starts[places[least - 1 :] - starts < within]
    return near


def _redact_line(line: str, config: Pii, counts: Counter[str]) -> str:
    if config.email and "@" in line:
        line = _replace(_EMAIL, "email", _is_email, line, counts)
    if config.iban and _IBAN_HINT.search(line):
        line = _IBAN.sub(lambda found: _iban(found[0], counts), line)
    if config.ip and line.count(":") > 1:
        line = _replace(_IPV6, "ip", _is_ipv6, line, counts)
    if config.ip and line.count(".") > 2:
        line = _replace(_IPV4, "ip", _is_ipv4, line, counts)
    if config.card:
        line = _replace(_CARD, "card", _is_card, line, counts)
    if config.phone:
        line = _replace(_PHONE, "phone", lambda found: _is_phone(found, config.regions), line, counts)
    return line


def _replace(pattern: re.Pattern[str], kind: str, proves: Any, text: str, counts: Counter[str]) -> str:
    def placeholder(found: re.Match[str]) -> str:
        if not proves(found):
            return found[0]
        counts[kind] += 1
        return f"<{kind.upper()}>"

    return pattern.sub(placeholder, text)


def _is_email(found: re.Match[str]) -> bool:
    return found[1].lower() not in _FILES and not _RESERVED.search(found[0])


def _is_ipv4(found: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv4Address(found[0])
    except ValueError:
        return False
    if max(address.packed) <= LARGEST_VERSION or address.is_multicast or not address.is_global:
        return False
    return not _VERSION.search(found.string, max(0, found.start() - 16), found.start())


def _is_ipv6(found: re.Match[str]) -> bool:
    if sum(character in "0123456789abcdefABCDEF" for character in found[0]) < 6:
        return False  # `std::a`, `::1`, slices and times
    try:
        address = ipaddress.IPv6Address(found[0])
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _iban(found: str, counts: Counter[str]) -> str:
    """The longest beginning of `found` that is a valid IBAN, replaced: a word in capitals may follow the number."""
    iban = _libraries()[1]
    for end in range(len(found), 14, -1):
        if found[end - 1] != " " and iban.is_valid(found[:end], check_country=False):
            counts["iban"] += 1
            return "<IBAN>" + found[end:]
    return found


def _is_card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found[0])
    return (
        bool(_ISSUERS.fullmatch(digits)) and len(set(digits)) > 1 and bool(_libraries()[2].is_valid(digits))
    )


def _is_phone(found: re.Match[str], regions: list[str]) -> bool:
    """A number with a country code, or one written with separators that is valid in one of the regions."""
    phonenumbers, written = _libraries()[0], found[0]
    if _IPV4.fullmatch(written):  # or a version, which is why it still stands there
        return False
    if written.startswith("+"):
        tried: list[str | None] = [None]
    elif _SEPARATED.search(written) and not _DATE.search(written):
        tried = [*regions]
    else:
        return False
    for region in tried:
        try:
            number = phonenumbers.parse(written, region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            return True
    return False

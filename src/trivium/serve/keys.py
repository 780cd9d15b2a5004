"""Keys of clients: 256 random bits, kept as their SHA-256 only (a slow hash would protect guessable words; these are none), and
how much each client may have."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from hmac import compare_digest
from pathlib import Path

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from trivium import files
from trivium.errors import DataError
from trivium.serve.problems import ApiError

_LINE = re.compile(
    r"(?P<name>[\w.@-]{1,64}) (?P<digest>[0-9a-f]{64})(?: requests=(?P<requests>\S+))?(?: tokens=(?P<tokens>\S+))?"
)


def rate(text: str, where: str) -> RateLimitItem:
    """A limit such as `60/minute` or `200000/day`. DataError for what is none."""
    try:
        return parse(text)
    except ValueError:
        raise DataError(
            f"{text!r} is no limit", where=where, fix="write it as 60/minute or 200000/day"
        ) from None


class Keys:
    """The keys in a file: a line each, the client's name, the SHA-256 of its key and, where it has some, its limits. `requests`
    and `tokens`: the limits of those whose line names none. DataError for a line that is none of that.

    Limits are of fixed windows. Tokens are counted as they are read and written: a client is refused once it has had its
    tokens, and what it had too much counts.
    """

    def __init__(self, path: Path, requests: str | None = None, tokens: str | None = None) -> None:
        self._digests: list[tuple[bytes, str]] = []
        self._rates: dict[str, dict[str, RateLimitItem]] = {}
        self._spent = FixedWindowRateLimiter(MemoryStorage())
        try:
            lines = files.lines(path)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the keys cannot be read: {error}", where=str(path)) from None
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                fix = "a line is NAME and the SHA-256 of a key; `trivium serve --new-key NAME` adds one"
                raise DataError("this is no key", where=f"{path}, line {number}", fix=fix)
            self._digests.append((bytes.fromhex(match["digest"]), match["name"]))
            given = {"requests": match["requests"] or requests, "tokens": match["tokens"] or tokens}
            place = f"{path}, line {number}"
            self._rates[match["name"]] = {kind: rate(text, place) for kind, text in given.items() if text}

    def owner(self, key: str) -> str | None:
        """Whose key this is. Takes as long for one that is nobody's."""
        digest, owner = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for known, name in self._digests:
            if compare_digest(digest, known):
                owner = name
        return owner

    def admit(self, client: str) -> None:
        """Counts a request. ApiError 429 with the seconds to wait where the client has had what it may."""
        for kind, limit in self._rates[client].items():
            fits = self._spent.hit if kind == "requests" else self._spent.test
            if not fits(limit, kind, client):
                wait = max(
                    1, math.ceil(self._spent.get_window_stats(limit, kind, client).reset_time - time.time())
                )
                raise ApiError(
                    429, f"{client} may have {limit.amount:,} {kind} per {limit.get_expiry():,} s; wait {wait} s",
                    code="rate_limit_exceeded", retry_after=wait,
                )  # fmt: skip

    def spend(self, client: str, tokens: int) -> None:
        """Counts tokens that a request has cost."""
        if (limit := self._rates[client].get("tokens")) is not None and tokens:
            self._spent.hit(limit, "tokens", client, cost=tokens)


def add(path: Path, name: str, requests: str | None = None, tokens: str | None = None) -> str:
    """Makes a key, adds its digest and its limits to the file, and returns the key: it is nowhere else."""
    key = f"sk-trivium-{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}"
    for kind, text in (("requests", requests), ("tokens", tokens)):
        if text is not None:
            rate(text, f"--{kind}")
            line += f" {kind}={text.replace(' ', '')}"
    if not _LINE.fullmatch(line):
        raise DataError(f"{name!r} is no name of a client", fix="use letters, digits, `.`, `@`, `_` and `-`")
    files.append(path, line)
    path.chmod(0o600)
    return key

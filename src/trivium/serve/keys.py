"""Keys of clients: 256 random bits, kept as their SHA-256 only. A slow hash would protect guessable words; these are none."""

from __future__ import annotations

import hashlib
import re
import secrets
from hmac import compare_digest
from pathlib import Path

from trivium import files
from trivium.errors import DataError

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64}) (?P<digest>[0-9a-f]{64})")


class Keys:
    """The keys in a file: a line each, the client's name and the SHA-256 of its key. DataError for a line that is neither."""

    def __init__(self, path: Path) -> None:
        self._digests: list[tuple[bytes, str]] = []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
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

    def owner(self, key: str) -> str | None:
        """Whose key this is. Takes as long for one that is nobody's."""
        digest, owner = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for known, name in self._digests:
            if compare_digest(digest, known):
                owner = name
        return owner


def add(path: Path, name: str) -> str:
    """Makes a key, adds its digest to the file, and returns the key: it is nowhere else."""
    key = f"sk-trivium-{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()}"
    if not _LINE.fullmatch(line):
        raise DataError(f"{name!r} is no name of a client", fix="use letters, digits, `.`, `@`, `_` and `-`")
    files.append(path, line)
    path.chmod(0o600)
    return key

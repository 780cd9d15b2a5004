"""What a document is recognised by: hashes of its key, URL, text and lines, and its MinHash signature.

MinHash: Broder 1997; the groups of hashes ("bands") of locality-sensitive hashing: Leskovec, Rajaraman & Ullman, Mining of
Massive Datasets, chapter 3. The signatures are Daft's own.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urldefrag

import numpy as np

from trivium.corpus import extras
from trivium.corpus.words import plain
from trivium.recipe.dedup import Fuzzy, Lines

_DIGIT = re.compile(r"\d")
_MARK = re.compile(r"[^\w\s]+")
_BARE = bytes(
    ord("0") if chr(code).isdigit() else ord(chr(code).lower()) if code < 128 else code for code in range(256)
)
_MARKS = bytes(code for code in range(128) if _MARK.match(chr(code)))
EMPTY = np.uint32(0xFFFFFFFF)
"""Every hash of a text without words."""
NONE = np.uint64(0)
"""Band of a text without words: agrees with nothing."""


def key_hash(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def url_hash(url: str | None) -> int:
    """Of the URL without its fragment; 0 if there is none."""
    return key_hash(urldefrag(url)[0]) if url else 0


def text_hash(text: str) -> tuple[int, int]:
    """128 bits of the text with white space normalised, in two halves."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


def signatures(texts: list[str], config: Fuzzy) -> np.ndarray:
    """(texts, bands * rows) uint32."""
    with extras.needed("data", "daft"):
        from daft import Series
    hashes = config.bands * config.rows
    found = Series.from_pylist([plain(text) for text in texts]).minhash(hashes, config.ngram)
    flat = found.to_arrow()
    flat = flat.combine_chunks() if hasattr(flat, "combine_chunks") else flat
    return np.asarray(flat.flatten(), np.uint32).reshape(len(texts), hashes)


def bands(signature: np.ndarray, config: Fuzzy) -> np.ndarray:
    """(texts, bands) uint64: one number for each group of `rows` hashes; NONE for texts without words.

    signature: (texts, bands * rows) uint32.
    """
    grouped = signature.reshape(len(signature), config.bands, config.rows).astype(np.uint64)
    mixed = np.full(grouped.shape[:2], 0x9E3779B97F4A7C15, np.uint64)
    for row in range(config.rows):
        mixed = (mixed ^ grouped[:, :, row]) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(32)
    mixed[mixed == NONE] = np.uint64(1)
    mixed[(signature == EMPTY).all(axis=1)] = NONE
    return mixed


def split(text: str, config: Lines) -> list[str]:
    return text.split("\n" if config.unit == "lines" else "\n\n")


def join(pieces: list[str], config: Lines) -> str:
    return ("\n" if config.unit == "lines" else "\n\n").join(pieces)


def line_hashes(text: str, config: Lines) -> np.ndarray:
    """(lines,) uint64: a hash of each line without case, digits and punctuation; 0 for those too short to compare."""
    with extras.needed("data", "daft"):
        from daft import Series
    pieces = [" ".join(piece.split()) for piece in split(_bare(text), config)]
    found = np.array(Series.from_pylist(pieces).hash().to_arrow(), np.uint64)
    short = np.fromiter((len(piece) < config.min_characters for piece in pieces), bool, len(pieces))
    found[short] = 0
    return found


def _bare(text: str) -> str:
    """In lower case, every digit a 0, without punctuation."""
    if text.isascii():  # the same, several times as fast
        return text.encode().translate(_BARE, _MARKS).decode()
    return _MARK.sub("", _DIGIT.sub("0", text.lower()))

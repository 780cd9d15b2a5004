"""What the names of files say: the endings of all readers but those of archives, in upper and lower case."""

from __future__ import annotations

import posixpath

PACKED = (".gz", ".zst", ".bz2", ".xz", ".br")
"""Compression around a file; which one is seen in its first bytes, except for brotli, which has no mark."""
HTML = (".html", ".htm", ".xhtml", ".xht")
NOTES = (*HTML, ".md", ".markdown", ".txt", ".text", ".rst")
WARC = (".warc", ".wet", ".arc")
JSONL = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
BOOKS = (".epub", ".pdf")
SEEK = PARQUET
"""Files that are read from several places, so that they cannot lie in a stream."""


def bare(name: str) -> str:
    """The file's name in lower case, without its folder and without a compression's ending: `a/B.HTML.gz` -> `b.html`."""
    base = posixpath.basename(name).lower()
    stem, packed = posixpath.splitext(base)
    return stem if packed in PACKED and stem else base


def fits(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file is one that a reader of these endings reads; every file if there are none."""
    if not endings:
        return True
    plain = posixpath.basename(name).lower()
    return plain.endswith(endings) or (bare(name).endswith(endings) and not bare(name).endswith(SEEK))

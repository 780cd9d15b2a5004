"""The limits that keep hostile or broken input from filling the memory or the clock: one place for all readers."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 2**20


@dataclass(frozen=True)
class Caps:
    """What is larger is not read on: it becomes a dead letter that names the limit. Sizes are bytes, decompressed."""

    record: int = 64 * MiB
    """One record of a WARC file, one file of text, one member of an archive, one book's chapter."""
    html: int = 16 * MiB
    """One page given to the HTML parser (Common Crawl cuts pages at 5 MiB)."""
    book: int = 512 * MiB
    """One file of a book."""
    line: int = 32 * MiB
    """One line of a JSON-lines file."""
    ratio: int = 200
    """Decompressed bytes per compressed byte, counted from `free` on. Text reaches 10 to 30; gzip can reach 1,029,
    zstd 32,750."""
    free: int = 4 * MiB
    """Decompressed bytes of a stream or member that may have any ratio (a page of spaces is no bomb)."""
    archive: int = 8192 * MiB
    """All members of one archive together."""
    members: int = 1_000_000
    """Members of one archive, pages of one PDF, documents of one EPUB."""
    header: int = MiB
    """The header lines of a WARC record or of the HTTP answer in it."""

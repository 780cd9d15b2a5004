"""Dead letters: what could not be read, each with its source and offset, and a limit that stops the run.

Nothing a reader meets is an exception for the run, and nothing is lost silently: a page that cannot be decoded, a
member that cannot be inflated, a line that is no JSON are counted here by reason and kept for the artifact's table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from trivium.errors import DataError

SHOWN = 3
"""Letters quoted in the error."""


@dataclass(frozen=True)
class DeadLetter:
    where: str
    """The file (or URL, or member of an archive) as the recipe names it."""
    offset: int | None
    """Byte offset in the file, decompressed where the file is compressed as a whole; row or page where it has rows or
    pages; None if there is none."""
    reason: str

    def __str__(self) -> str:
        place = self.where if self.offset is None else f"{self.where}, offset {self.offset}"
        return f"{place}: {self.reason}"


class DeadLetters:
    """A list with a limit. One per part while reading; `extend` adds those of other parts up."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        """How many are allowed; None: any number (whoever adds the parts up holds the limit)."""
        self.letters: list[DeadLetter] = []

    def __len__(self) -> int:
        return len(self.letters)

    def add(self, where: str, offset: int | None, reason: str) -> None:
        """One more. DataError if that is more than the limit."""
        clean = reason.encode("utf-8", "replace").decode(
            "utf-8"
        )  # half a surrogate pair cannot be written down
        self.letters.append(DeadLetter(where, offset, clean[:500]))
        self.check()

    def extend(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows as `rows()` gives them. DataError if that is more than the limit."""
        self.letters += [DeadLetter(row["where"], row["offset"], row["reason"]) for row in rows]
        self.check()

    def check(self) -> None:
        """DataError, naming the first letters, if there are more than the limit."""
        if self.limit is not None and len(self.letters) > self.limit:
            raise DataError(
                f"{len(self.letters)} inputs could not be read, more than the {self.limit} allowed; "
                f"the first:\n{self.first()}",
                where=self.letters[0].where,
                fix="mend or leave out the files named, or raise `max_dead` of the data stage "
                "(or the source's own `max_bad_lines`)",
            )

    def first(self) -> str:
        """The first letters, a line each."""
        return "\n".join(f"    {letter}" for letter in self.letters[:SHOWN])

    def rows(self) -> list[dict[str, Any]]:
        """Plain values for a table: {"where", "offset", "reason"}."""
        return [asdict(letter) for letter in self.letters]

    def reasons(self) -> Counter[str]:
        """How often each reason occurred, without what is particular to one letter (after the colon)."""
        return Counter(letter.reason.split(":")[0] for letter in self.letters)

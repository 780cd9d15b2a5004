"""Where raw text comes from: one class a kind of source."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Strict


class SourceBase(Strict):
    kind: str
    formats: ClassVar[frozenset[str]] = frozenset({"documents"})
    """What the source can be read as."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the mix (of characters for documents, of items otherwise); needed if there are several."""
    license: str | None = None
    """The licence the text is used under; None takes what the source itself declares."""
    origin: str | None = None
    """Where the text comes from; None takes what the source itself declares."""


class PythonDocs(SourceBase):
    """The documentation inside every Python: docstrings, pydoc topics, sources of the standard library."""

    kind: Literal["python-docs"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    sources: bool = True
    """Documents only: also read the modules' source code (their docstrings are separate documents)."""


class Reasoning(SourceBase):
    """Tasks with worked solutions, drawn from reasoning-gym and checked by its own scorers."""

    kind: Literal["reasoning"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    tasks: list[str] = ["chain_sum", "spell_backward", "letter_counting", "number_sorting"]
    """reasoning-gym data sets that Trivium has worked solutions for (`trivium.corpus.reasoning.TASKS`)."""


class Refusals(SourceBase):
    """Harmful requests with kind refusals, harmless look-alikes with answers: a small list of our own."""

    kind: Literal["refusals"]
    formats: ClassVar[frozenset[str]] = frozenset({"conversations", "preferences"})


class Text(SourceBase):
    """Plain text files: one document per file."""

    kind: Literal["text"]
    path: str
    """A file, a folder (read recursively) or a glob, relative to the recipe."""


class Jsonl(SourceBase):
    """One JSON object per line: `text`, `messages`, `prompt`/`completion`, `prompt`/`chosen`/`rejected` or
    `prompt`/`completion`/`label`."""

    kind: Literal["jsonl"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences", "feedback"})
    path: str
    """A file, a folder or a glob, relative to the recipe."""
    max_bad_lines: Annotated[int, Field(ge=0)] = 10
    """Malformed lines that are reported, counted and skipped before the stage stops."""


class Table(SourceBase):
    """Rows with the columns of `jsonl`, from JSON lines, Parquet or a folder that the `datasets` library saved."""

    kind: Literal["table"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences", "feedback"})
    path: str
    """A file, a folder or a glob, relative to the recipe; or one split of what `save_to_disk` wrote."""
    max_bad_lines: Annotated[int, Field(ge=0)] = 10
    """Malformed rows that are reported, counted and skipped before the stage stops."""


Source = Annotated[PythonDocs | Reasoning | Refusals | Text | Jsonl | Table, Field(discriminator="kind")]

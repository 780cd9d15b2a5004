"""The kinds of sources, opened as readers of items. A new kind is one row in `READERS`."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from trivium import seeds
from trivium.corpus import files, python_docs, reasoning, refusals, tables
from trivium.corpus.records import Item
from trivium.recipe.sources import Jsonl, PythonDocs, Reasoning, Refusals, SourceBase, Table, Text
from trivium.types import Emit


class Reader:
    """One source, opened: what it is, and its items in an order that only recipe and input decide."""

    endless = False
    """Whether there are more items than anyone asks for: read only as far as the mix needs."""
    enough = 0
    """Size of a mix (characters or items) that an endless source gives if nothing else bounds it."""
    least_heldout = 0.0
    """A share held out even where the recipe's is smaller, for small lists that would have none."""

    def __init__(
        self, kind: str, license: str, origin: str, items: Callable[[Counter[str]], Iterator[Item]]
    ) -> None:
        self.kind, self.license, self.origin = kind, license, origin
        self.items = items
        """Starts reading; the source counts in the argument what it leaves out itself, by reason."""


def open_source(source: SourceBase, format: str, seed: int, recipe_folder: Path, emit: Emit) -> Reader:
    """A reader for a source of the recipe, in one of the stage's formats."""
    reader = READERS[type(source)](source, format, seed, recipe_folder, emit)
    reader.license = source.license or reader.license
    reader.origin = source.origin or reader.origin
    return reader


def identity(source: SourceBase, recipe_folder: Path) -> dict[str, Any]:
    """What the source's items depend on beyond the recipe."""
    if isinstance(source, PythonDocs):
        return {
            "kind": source.kind,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
        }
    if isinstance(source, Reasoning):
        return {"kind": source.kind, "reasoning-gym": metadata.version("reasoning-gym")}
    if isinstance(source, Refusals):
        return {"kind": source.kind, "sha256": refusals.checksum()}
    if isinstance(source, Text | Jsonl):
        endings = files.JSONL if isinstance(source, Jsonl) else ()
        found = files.checksums(source.path, recipe_folder, endings)
        return {"kind": source.kind, "path": source.path, "files": found}
    if isinstance(source, Table):
        found = tables.sources(source.path, recipe_folder)
        return {"kind": source.kind, "path": source.path, "files": found}
    raise TypeError(f"no identity for {type(source).__name__}")


def _python_docs(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    version = platform.python_version()
    return Reader(
        source.kind,
        "PSF-2.0",
        f"Python {version} standard library",
        lambda _: python_docs.items(format, with_sources=source.sources),
    )


def _reasoning(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    version = metadata.version("reasoning-gym")
    reader = Reader(
        source.kind,
        "Apache-2.0",
        f"reasoning-gym {version}",
        lambda _: reasoning.items(format, source.tasks, seeds.derive(seed, "reasoning")),
    )
    reader.endless = True
    reader.enough = 4_000_000 if format == "documents" else 20_000
    return reader


def _refusals(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    reader = Reader(source.kind, "Apache-2.0", "Trivium", lambda _: refusals.items(format))
    reader.least_heldout = refusals.LEAST_HELDOUT
    return reader


def _text(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    return Reader(source.kind, "unknown", source.path, lambda _: files.texts(source.path, folder))


def _jsonl(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    def items(dropped: Counter[str]) -> Iterator[Item]:
        return files.jsonl(source.path, folder, format, source.max_bad_lines, emit, dropped)

    return Reader(source.kind, "unknown", source.path, items)


def _table(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    def items(dropped: Counter[str]) -> Iterator[Item]:
        rows = tables.rows(source.path, folder)
        return files.checked(rows, format, source.max_bad_lines, emit, dropped)

    return Reader(source.kind, "unknown", source.path, items)


READERS: dict[type[SourceBase], Callable[[Any, str, int, Path, Emit], Reader]] = {
    PythonDocs: _python_docs,
    Reasoning: _reasoning,
    Refusals: _refusals,
    Text: _text,
    Jsonl: _jsonl,
    Table: _table,
}

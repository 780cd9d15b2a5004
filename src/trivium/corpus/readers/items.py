"""The kinds of sources that give conversations and preferences, opened as readers of items held in memory."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from trivium import seeds
from trivium.corpus import files
from trivium.corpus.readers import tables
from trivium.corpus.records import Item
from trivium.corpus.tables import rows as table_rows
from trivium.demo import python_docs, reasoning, refusals
from trivium.errors import DataError
from trivium.recipe.sources import Jsonl, PythonDocs, Reasoning, Refusals, SourceBase, Synthetic, Table, Text
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


def open_source(
    source: SourceBase,
    format: str,
    seed: int,
    recipe_folder: Path,
    emit: Emit,
    inputs: Mapping[str, Path] | None = None,
) -> Reader:
    """A reader for a source of the recipe, in one of the stage's formats. `inputs`: stage -> its artifact's folder."""
    if isinstance(source, Synthetic):
        reader = _synthetic(source, format, (inputs or {})[source.stage])
    else:
        reader = READERS[type(source)](source, format, seed, recipe_folder, emit)
    reader.license = source.license or reader.license
    reader.origin = source.origin or reader.origin
    return reader


def _replies(record: Any) -> Item:
    """What the questions share is their form."""
    reply = record["chosen"] if "chosen" in record else record["messages"][-1]["content"]
    return Item(record, sayings=(reply,))


def _python_docs(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    version = platform.python_version()
    return Reader(
        source.kind,
        "PSF-2.0",
        f"Python {version} standard library",
        lambda _: map(_replies, python_docs.records(format, with_sources=source.sources)),
    )


def _reasoning(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    version = metadata.version("reasoning-gym")
    reader = Reader(
        source.kind,
        "Apache-2.0",
        f"reasoning-gym {version}",
        lambda _: map(
            Item, reasoning.records(format, source.tasks, seeds.derive(seed, "reasoning"), source.style)
        ),
    )
    reader.endless = True
    reader.enough = 4_000_000 if format == "documents" else 20_000
    return reader


def _refusals(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    reader = Reader(source.kind, "Apache-2.0", "Trivium", lambda _: map(Item, refusals.records(format)))
    reader.least_heldout = refusals.LEAST_HELDOUT
    return reader


def _text(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    return Reader(source.kind, "unknown", source.path, lambda _: files.texts(source.path, folder))


def _jsonl(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    limit = 10 if source.max_bad_lines is None else source.max_bad_lines

    def items(dropped: Counter[str]) -> Iterator[Item]:
        return files.jsonl(source.path, folder, format, limit, emit, dropped)

    return Reader(source.kind, "unknown", source.path, items)


def _synthetic(source: Synthetic, format: str, folder: Path) -> Reader:
    """Another stage's items, each with the licence and origin it has there unless the recipe gives one."""
    wanted = {"conversations": "messages", "preferences": "chosen"}.get(format, "text")

    def items(_: Counter[str]) -> Iterator[Item]:
        for record in tables.artifact(folder):
            if wanted not in record:
                raise DataError(
                    f"stage {source.stage} holds no {format}: a record has {', '.join(record)}",
                    where=f"sources: synthetic, {source.stage}",
                    fix="name a stage of this format, or change the stage's `format`",
                )
            own = {key: value for key, value in record.items() if key != "source"}
            for name, given in (("license", source.license), ("origin", source.origin)):
                if given is not None:
                    own[name] = given
            turns = record.get("messages") or record.get("prompt") or []
            said = tuple(str(turn["content"]) for turn in turns)
            said += tuple(str(record[name]) for name in ("text", "chosen") if name in record)
            yield Item(own, sayings=said)

    licences = tables.licences_of(folder)
    return Reader(source.kind, ", ".join(licences) or "unknown", f"stage {source.stage}", items)


def _table(source: Any, format: str, seed: int, folder: Path, emit: Emit) -> Reader:
    def items(dropped: Counter[str]) -> Iterator[Item]:
        rows = table_rows(source.path, folder)
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

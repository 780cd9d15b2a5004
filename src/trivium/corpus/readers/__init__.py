"""Where text comes from. A new kind is a model in recipe/sources.py and a row in one of the tables below.

Documents are read part by part (`open_documents`); conversations and preferences as items in memory (`open_source`).
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from trivium.corpus import tables as saved
from trivium.corpus.readers import books, code, crawl, endings, html, locate, tables, text, warc
from trivium.corpus.readers.base import Document as Document
from trivium.corpus.readers.base import DocumentSource as DocumentSource
from trivium.corpus.readers.base import Part as Part
from trivium.corpus.readers.base import Setting as Setting
from trivium.corpus.readers.base import Source
from trivium.corpus.readers.builtin import PythonDocsDocuments, ReasoningDocuments
from trivium.corpus.readers.items import Reader as Reader
from trivium.corpus.readers.items import open_source as open_source
from trivium.demo import refusals
from trivium.errors import DataError
from trivium.recipe.sources import (
    Books,
    Code,
    Crawl,
    Html,
    HuggingFace,
    Jsonl,
    Parquet,
    PythonDocs,
    Reasoning,
    Refusals,
    SourceBase,
    Synthetic,
    Table,
    Text,
    Warc,
)

DOCUMENTS: dict[type[SourceBase], type[Source]] = {
    PythonDocs: PythonDocsDocuments,
    Reasoning: ReasoningDocuments,
    Text: text.TextFiles,
    Jsonl: text.JsonLines,
    Html: html.HtmlFiles,
    Warc: warc.Warc,
    Parquet: tables.ParquetFiles,
    Books: books.Books,
    Code: code.CodeFiles,
    HuggingFace: tables.HuggingFaceRows,
    Synthetic: tables.SyntheticDocuments,
    Crawl: crawl.Crawl,
}
"""Kinds of sources -> how they are read as documents."""

ENDINGS: dict[type[SourceBase], tuple[str, ...]] = {
    Text: (),
    Jsonl: text.JSONL,
    Html: endings.HTML,
    Warc: warc.WARC,
    Parquet: tables.PARQUET,
    Books: endings.BOOKS,
    Code: (),
}
"""Kinds that read files under `path` -> which of a folder's files."""


def open_documents(source: SourceBase, setting: Setting) -> DocumentSource:
    """A source of the recipe, opened for documents."""
    opened: Any = DOCUMENTS[type(source)](source, setting)
    return opened  # type: ignore[no-any-return]


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
    if type(source) in ENDINGS:
        path: str = vars(source)["path"]
        return {
            "kind": source.kind,
            "path": path,
            "files": locate.identity(path, recipe_folder, ENDINGS[type(source)]),
        }
    if isinstance(source, Table):
        return {"kind": source.kind, "path": source.path, "files": saved.sources(source.path, recipe_folder)}
    if isinstance(source, HuggingFace):
        return {"kind": source.kind, **_data_set(source, recipe_folder)}
    if isinstance(source, Synthetic | Crawl):
        return {"kind": source.kind}  # the stage it reads is an input; a crawl is what the recipe asks for
    raise TypeError(f"no identity for {type(source).__name__}")


def _data_set(source: HuggingFace, folder: Path) -> dict[str, Any]:
    if (folder / source.name).exists():
        return {"files": locate.identity(source.name, folder)}
    if source.revision is None:
        raise DataError(
            f"{source.name} is no local folder, and for a data set on the hub its `revision` is missing",
            where="sources: huggingface",
            fix="write `revision: ...`, the commit's 40 hexadecimal digits (see the data set's Files and versions), so "
            "that the same recipe always reads the same data; or correct `name`",
        )
    return {"revision": source.revision}

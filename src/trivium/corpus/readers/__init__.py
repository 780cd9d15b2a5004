"""Where text comes from: one file, one class and one row here for each kind of source, beside its model in the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trivium.corpus.readers import books, code, crawl, demo, html, locate, notes, tables, text, warc
from trivium.corpus.readers.base import Document as Document
from trivium.corpus.readers.base import Part as Part
from trivium.corpus.readers.base import Setting as Setting
from trivium.corpus.readers.base import Source as Source
from trivium.recipe import sources as kinds
from trivium.recipe.sources import SourceBase

READERS: dict[type[SourceBase], type[Source]] = {
    kinds.PythonDocs: demo.PythonDocs,
    kinds.Reasoning: demo.Reasoning,
    kinds.Refusals: demo.Refusals,
    kinds.Primer: demo.Primer,
    kinds.Text: text.TextFiles,
    kinds.Jsonl: text.JsonLines,
    kinds.Html: html.HtmlFiles,
    kinds.Notes: notes.NoteFiles,
    kinds.Warc: warc.Warc,
    kinds.Parquet: tables.ParquetFiles,
    kinds.Books: books.Books,
    kinds.Code: code.CodeFiles,
    kinds.HuggingFace: tables.HuggingFaceRows,
    kinds.Table: tables.Table,
    kinds.Synthetic: tables.Synthetic,
    kinds.Crawl: crawl.Crawl,
}
"""Kinds of sources -> how they are read."""


def open_source(source: SourceBase, setting: Setting) -> Source:
    """A source of the recipe, opened."""
    return _reader(source)(source, setting)


def identity(source: SourceBase, recipe_folder: Path) -> dict[str, Any]:
    """What the source's items depend on beyond the recipe. DataError for files that are not there."""
    reader = _reader(source)
    own = reader.identity(source, recipe_folder)
    if not own and reader.endings is not None:
        path: str = vars(source)["path"]
        own = {"path": path, "files": locate.identity(path, recipe_folder, reader.endings)}
    return {"kind": source.kind, **own}


def _reader(source: SourceBase) -> type[Source]:
    """Our own, or what a plug-in's model says."""
    own = READERS.get(type(source))
    return own if own is not None else source.implementation()

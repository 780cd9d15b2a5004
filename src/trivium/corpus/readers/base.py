"""What a source of documents is: a list of parts, and a reader that turns one part into documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.corpus.caps import Caps
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.records import Record, text_of
from trivium.recipe.sources import SourceBase
from trivium.types import Emit

Document = dict[str, Any]
"""One document on its way to a row of the artifact, as `Source.document` makes it:

key       str         the item's identity (URL, file#chapter, hash of the text): decides the split, equal keys are duplicates
url       str | None
text      str
source    int         place of the source in the recipe
kind, license, origin  str
language  str | None  natural, or of a program; filled by the language step where the source does not say
language_score, quality  float | None   filled by steps
meta      str         JSON: title, author, status ...
where     str         file and offset it was read at
record    dict        conversations, preferences and feedback: the fields of the format and `meta`; `text` is then all of
                      their text, which is what steps judge and what is compared
reason    str | None  why the source itself leaves the document out (a page that is an image, generated code); None: kept
step      str | None  "read" where there is a reason
"""


@dataclass(frozen=True)
class Part:
    """One unit of parallel work. Plain values; the list of parts is the same on every machine."""

    source: int
    """Place of the source in the recipe."""
    path: str
    """File or URL, relative to the recipe where it can be."""
    start: int = 0
    stop: int | None = None
    """Range within the file, in the unit of the source (bytes, rows, pages); None: to the end."""
    index: int = 0
    """Place in the source's list of parts."""
    files: tuple[str, ...] = ()
    """All files, where a part is several small ones."""


@dataclass(frozen=True)
class Setting:
    """What a source needs to know beyond its own block of the recipe. Can be sent to another process."""

    index: int = 0
    """Place of the source in the recipe."""
    format: str = "documents"
    """What the stage makes of the source."""
    folder: Path = field(default_factory=Path)
    """The recipe's folder: paths are relative to it."""
    seed: int = 0
    caps: Caps = field(default_factory=Caps)
    extract: str = "resiliparse"
    """The library that turns HTML into text: resiliparse or trafilatura."""
    main_content: bool = True
    """Only the main text of a page, without menus and footers."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Stage -> folder of its artifact, for sources that read another stage's output."""
    work: Path | None = None
    """A folder that outlives a kill."""


class Source:
    """A source, opened; subclasses give `parts` and `read`. Cheap to make, so that a worker makes its own."""

    endless = False
    """Whether there is more than anyone asks for. `parts(size)` says how much to read."""
    enough = 0
    """Characters of documents, or items, that an endless source gives if nothing else bounds it."""
    least_heldout = 0.0
    """A share held out even where the recipe's is smaller."""
    max_dead: int | None = None
    """A limit on this source's own dead letters, beside the stage's."""
    declared_license = "unknown"
    declared_origin = ""
    endings: tuple[str, ...] | None = None
    """Which files of a folder are read, for kinds that read files under `path`: () all of them."""

    emit: Emit = staticmethod(lambda event: None)
    """Where `parts` tells its progress: the stage's events, in the process that opens its sources."""

    def __init__(self, config: Any, setting: Setting) -> None:
        self.config, self.setting = config, setting
        self.passed: Counter[str] = Counter()
        """Why files under `path` are not read -> how many; filled by `parts`."""
        base: SourceBase = config
        self.kind = base.kind
        self.license = base.license or self.declared_license
        self.origin = base.origin or self.declared_origin or str(getattr(config, "path", base.kind))

    def parts(self, characters: int | None = None) -> list[Part]:
        """Cheap and deterministic. DataError if there is nothing to read at all."""
        raise NotImplementedError

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        """The part's rows, extraction included. What fails is a dead letter, never an exception: the only DataError is that
        of `dead`'s own limit."""
        raise NotImplementedError

    @classmethod
    def identity(cls, config: Any, folder: Path) -> dict[str, Any]:
        """What the items depend on beyond the recipe and the files under `path` (which are looked at where this is empty)."""
        return {}

    def item(
        self, record: Record, where: str, *, license: str | None = None, origin: str | None = None
    ) -> Document:
        """A row with all its columns, of a record in any format."""
        meta = record.get("meta") or {}
        if "text" in record:
            return self.document(
                record["key"], record["text"], where, license=license, origin=origin, meta=meta
            )
        own = {name: value for name, value in record.items() if name != "key"}
        row = self.document(record["key"], text_of(record), where, license=license, origin=origin)
        return {**row, "record": {**own, "meta": meta}}

    def document(
        self,
        key: str,
        text: str,
        where: str,
        *,
        url: str | None = None,
        license: str | None = None,
        origin: str | None = None,
        language: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Document:
        """A row with all its columns. A licence or origin given in the recipe wins over the document's own."""
        return {
            "key": key,
            "url": url,
            "text": text,
            "source": self.setting.index,
            "kind": self.kind,
            "license": self.config.license or license or self.license,
            "origin": self.config.origin or origin or self.origin,
            "language": language,
            "language_score": None,
            "quality": None,
            "meta": json.dumps(meta or {}, ensure_ascii=False, sort_keys=True, default=str),
            "where": where,
            "reason": None,
            "step": None,
        }

    def dropped(self, document: Document, reason: str) -> Document:
        """The document, marked as left out by the source: no failure, but counted with its reason."""
        return {**document, "reason": reason, "step": "read"}

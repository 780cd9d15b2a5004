"""The sources that come with Trivium: what lies in `trivium.demo`, as rows of any format."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from trivium import seeds
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.records import Record
from trivium.demo import primer, python_docs, reasoning, refusals
from trivium.recipe import sources


class Demo(Source):
    """Shared: one part, whose records come in an order that the recipe alone decides."""

    @property
    def named(self) -> str:
        """What `where` names the part."""
        return self.kind

    def records(self) -> Iterator[Record]:
        raise NotImplementedError

    def parts(self, characters: int | None = None) -> list[Part]:
        return [Part(self.setting.index, self.named, stop=characters)]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        given = 0
        for place, record in enumerate(self.records()):
            if part.stop is not None and given >= part.stop:
                return
            row = self.item(record, f"{part.path}@{place}")
            given += len(row["text"]) if self.setting.format == "documents" else 1
            yield row


class PythonDocs(Demo):
    config: sources.PythonDocs
    declared_license = "PSF-2.0"
    declared_origin = f"Python {platform.python_version()} standard library"

    @property
    def named(self) -> str:
        return f"python {platform.python_version()}"

    @classmethod
    def identity(cls, config: Any, folder: Path) -> dict[str, Any]:
        return {"python": f"{platform.python_implementation()} {platform.python_version()}"}

    def records(self) -> Iterator[Record]:
        return python_docs.records(
            self.setting.format, with_sources=self.config.sources, with_docstrings=self.config.docstrings
        )


class Reasoning(Demo):
    config: sources.Reasoning
    endless = True
    declared_license = "Apache-2.0"
    declared_origin = f"reasoning-gym {metadata.version('reasoning-gym')}"

    @property
    def enough(self) -> int:  # type: ignore[override]
        """Characters of documents, items otherwise."""
        return 4_000_000 if self.setting.format == "documents" else 20_000

    @classmethod
    def identity(cls, config: Any, folder: Path) -> dict[str, Any]:
        return {"reasoning-gym": metadata.version("reasoning-gym")}

    def records(self) -> Iterator[Record]:
        seed = seeds.derive(self.setting.seed, "reasoning")
        return reasoning.records(self.setting.format, self.config.tasks, seed, self.config.style)


class Refusals(Demo):
    least_heldout = refusals.LEAST_HELDOUT
    declared_license = "Apache-2.0"
    declared_origin = "Trivium"

    @classmethod
    def identity(cls, config: Any, folder: Path) -> dict[str, Any]:
        return {"sha256": refusals.checksum()}

    def records(self) -> Iterator[Record]:
        return refusals.records(self.setting.format)


class Primer(Demo):
    least_heldout = primer.LEAST_HELDOUT
    declared_license = "PSF-2.0"
    declared_origin = f"Python {platform.python_version()} standard library, and Trivium"

    @classmethod
    def identity(cls, config: Any, folder: Path) -> dict[str, Any]:
        return {**PythonDocs.identity(config, folder), "primer": primer.VERSION}

    def records(self) -> Iterator[Record]:
        return primer.records(self.setting.format, self.setting.seed)

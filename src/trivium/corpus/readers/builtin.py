"""Sources that come with Trivium: the documentation inside Python, and made-up reasoning tasks."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from trivium import seeds
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers.base import Document, Part, Source
from trivium.demo import python_docs, reasoning


class PythonDocsDocuments(Source):
    declared_license = "PSF-2.0"
    declared_origin = f"Python {platform.python_version()} standard library"

    def parts(self, characters: int | None = None) -> list[Part]:
        return [Part(self.setting.index, f"python {platform.python_version()}")]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for place, item in enumerate(python_docs.records("documents", with_sources=self.config.sources)):
            yield self.document(item["key"], item["text"], f"{part.path}@{place}")


class ReasoningDocuments(Source):
    endless = True
    enough = 4_000_000
    declared_license = "Apache-2.0"
    declared_origin = f"reasoning-gym {metadata.version('reasoning-gym')}"

    def parts(self, characters: int | None = None) -> list[Part]:
        return [Part(self.setting.index, "reasoning", stop=self.enough if characters is None else characters)]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        given = 0
        seed = seeds.derive(self.setting.seed, "reasoning")
        for place, item in enumerate(
            reasoning.records("documents", self.config.tasks, seed, self.config.style)
        ):
            if part.stop is not None and given >= part.stop:
                return
            given += len(item["text"])
            yield self.document(item["key"], item["text"], f"{part.path}@{place}")

"""A folder as people keep their notes and manuals: Markdown and text as they are, pages of HTML by their main text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import locate
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.endings import HTML, NOTES, fits
from trivium.corpus.readers.html import HtmlFiles
from trivium.corpus.readers.text import TextFiles


class NoteFiles(Source):
    endings = NOTES

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
        return locate.small(found, self.setting.index, self.setting.folder)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for name in part.files:
            kind = HtmlFiles if fits(name, HTML) else TextFiles
            yield from kind(self.config, self.setting).read(replace(part, files=(name,)), dead)

"""Folders and globs of pages of HTML: one document per page, its main text."""

from __future__ import annotations

from collections.abc import Iterator

from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import locate, page, xhtml
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.endings import HTML, bare
from trivium.corpus.readers.text import whole_file


class HtmlFiles(Source):
    endings = HTML

    def parts(self, characters: int | None = None) -> list[Part]:
        found = locate.of(self)
        return locate.small(found, self.setting.index, self.setting.folder)

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        for name in part.files:
            data = whole_file(self, name, dead, self.setting.caps.html)
            if data is None:
                continue
            try:
                text, title = page.extract(data, self.setting, xml=bare(name).endswith(xhtml.ENDINGS))
            except ValueError as error:
                dead.add(name, 0, str(error))
                continue
            found = self.document(name, text, name, meta={"title": title})
            yield found if text.strip() else self.dropped(found, "no text in the page")

"""Source code: folders, checkouts and archives; one document per file that somebody wrote and that may be used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import archives, charset, languages, licences, locate
from trivium.corpus.readers.base import Document, Part, Source
from trivium.corpus.readers.text import said, whole_file
from trivium.corpus.records import key_of
from trivium.corpus.steps.secrets import redact_secrets
from trivium.errors import DataError
from trivium.recipe import sources
from trivium.recipe.lines import nearest

ARCHIVES = (*archives.ZIP, *archives.TAR)


class File(NamedTuple):
    """One file of code, wherever it lies."""

    name: str
    """Within the folder or archive, for rules that look at paths."""
    where: str
    data: bytes | None
    """None: too large to be read."""
    licence: str | None


class CodeFiles(Source):
    config: sources.Code
    endings = ()

    def parts(self, characters: int | None = None) -> list[Part]:
        """Archives one by one, files by the hundred. DataError for a language that Pygments does not know."""
        self._languages()
        found = locate.of(self)
        packed = [name for name in found if name.lower().endswith(ARCHIVES)]
        loose = locate.small(
            [name for name in found if name not in set(packed)], self.setting.index, self.setting.folder
        )
        parts = [*loose, *(Part(self.setting.index, name) for name in packed)]
        return [replace(part, index=index) for index, part in enumerate(parts)]

    def read(self, part: Part, dead: DeadLetters) -> Iterator[Document]:
        wanted = self._languages()
        for file in self._loose(part, dead) if part.files else self._archive(part, dead):
            yield self._document(file, wanted)

    def _languages(self) -> frozenset[str] | None:
        if self.config.languages is None:
            return None
        known = languages.known()
        for name in self.config.languages:
            if name.lower() not in known:
                raise DataError(
                    f"no language is called {name!r}",
                    where="sources: code, languages",
                    fix=f"{nearest(name.lower(), known)}the names are those of `pygmentize -L lexers`",
                )
        return frozenset(known[name.lower()] for name in self.config.languages)

    def _document(self, file: File, wanted: frozenset[str] | None) -> Document:
        data = file.data or b""
        blank = self.document(file.where, "", file.where)
        if file.data is None:
            return self.dropped(blank, "larger than max_file")
        text = charset.decode(data)  # of which UTF-16 is full of NULs
        if "\0" in text[:8192]:
            return self.dropped(blank, "binary")
        licence = licences.header(data) or file.licence
        if self.config.licenses is not None and not licences.allowed(licence or "", self.config.licenses):
            return self.dropped(blank, f"licence not allowed: {licence or 'none found'}"[:100])
        reason = None if self.config.generated else languages.unwanted(file.name, text)
        if not text.strip() or reason:
            return self.dropped(blank, reason or "empty file")
        language = languages.language(file.name, text)
        if language is None or (wanted is not None and language not in wanted):
            return self.dropped(blank, f"language not wanted: {language or 'none known'}")
        text, secrets = redact_secrets(text)
        meta = {"path": file.name, "programming_language": language, "secrets": dict(secrets)}
        return self.document(key_of(text), text, file.where, license=licence, meta=meta)

    def _loose(self, part: Part, dead: DeadLetters) -> Iterator[File]:
        found: dict[str, str | None] = {}
        root = PurePosixPath(self.config.path)
        for name in part.files:
            size = locate.size(name, self.setting.folder)
            within = PurePosixPath(name)
            inside = (
                str(within.relative_to(root))
                if within.is_relative_to(root) and within != root
                else within.name
            )
            if self._leads_out(name):
                dead.add(name, None, "link leads out of the folder: it is not read")
                continue
            if size is not None and size > self.config.max_file:
                yield File(inside, name, None, None)
                continue
            data = whole_file(self, name, dead, self.config.max_file)
            if data is not None:
                yield File(inside, name, data, self._nearest(name, found))

    def _leads_out(self, name: str) -> bool:
        """Whether a file of a checkout is a link to something outside of it."""
        file, root = self.setting.folder / name, self.setting.folder / self.config.path
        if locate.is_url(name) or not root.is_dir() or not file.is_symlink():
            return False
        return not file.resolve().is_relative_to(root.resolve())

    def _nearest(self, name: str, found: dict[str, str | None]) -> str | None:
        """The licence of the nearest folder around a file that has a licence file, up to the source's root."""
        if locate.is_url(name):
            return None
        root = self.setting.folder / self.config.path
        folder = (self.setting.folder / name).parent
        while True:
            key = str(folder)
            if key not in found:
                texts = []
                for file in sorted(folder.iterdir()):
                    if licences.is_licence_file(file.name) and file.is_file() and file.stat().st_size < 10**6:
                        texts.append(charset.decode(file.read_bytes()))
                found[key] = together(texts)
            if found[key] or folder == root or folder == folder.parent or not folder.is_relative_to(root):
                return found[key]
            folder = folder.parent

    def _archive(self, part: Part, dead: DeadLetters) -> Iterator[File]:
        """Read twice: licence files first, since they may stand behind the files that they are for."""
        name, caps = part.path, self.setting.caps

        def lost(member: str, offset: int | None, reason: str) -> None:
            dead.add(f"{name}#{member}" if member else name, offset, reason)

        def silent(member: str, offset: int | None, reason: str) -> None:
            """The second reading says it."""

        try:
            texts: dict[str, list[str]] = {}
            with locate.open_binary(name, self.setting.folder) as file:
                for member in archives.members(file, name, caps, self.config.max_file, silent):
                    if member.data and licences.is_licence_file(member.name):
                        folder = str(PurePosixPath(member.name).parent)
                        texts.setdefault(folder, []).append(charset.decode(member.data))
            known = {folder: together(texts[folder]) for folder in sorted(texts)}
            with locate.open_binary(name, self.setting.folder) as file:
                for member in archives.members(file, name, caps, self.config.max_file, lost):
                    around = [str(folder) for folder in PurePosixPath(member.name).parents]
                    licence = next((known[folder] for folder in around if known.get(folder)), None)
                    yield File(member.name, f"{name}#{member.name}", member.data, licence)
        except locate.BROKEN as error:
            dead.add(name, None, f"unreadable file: {said(error)}")


def together(texts: list[str]) -> str | None:
    """The licence of a folder: with several licence files, the reader may choose."""
    found = sorted({licence for text in texts if (licence := licences.of_text(text))})
    return " OR ".join(found) or None

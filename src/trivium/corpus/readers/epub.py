"""What an EPUB holds: its pages in reading order, the titles of its table of contents, what it says of itself.

Read leniently: a book without a table of contents, a spine, a manifest or a package file gives the pages that it has. What is
named and not there, or damaged, costs itself. An encrypted book is refused; fonts may be obfuscated.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from trivium.corpus import extras
from trivium.corpus.caps import Caps
from trivium.corpus.readers import archives, endings

Lost = Callable[[str, str], None]
"""Takes (member, reason) of what could not be read."""
_TEXT = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "application/xml")
_NCX = "application/x-dtbncx+xml"
_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Algorithms that only obfuscate fonts."""
DEEPEST = 2
"""Levels of the table of contents that begin chapters."""


@dataclass
class Epub:
    """An opened book. ValueError or BadZipFile for what is none, or is encrypted."""

    data: bytes
    caps: Caps
    lost: Lost
    title: str = ""
    authors: list[str] = field(default_factory=list)
    rights: list[str] = field(default_factory=list)
    spine: list[str] = field(default_factory=list)
    """Members that hold the text, in reading order."""
    titles: dict[str, str] = field(default_factory=dict)
    """Member -> title of the chapter that begins in it; empty if the book has no table of contents."""

    def __post_init__(self) -> None:
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            if len(archive.infolist()) > self.caps.members:
                raise ValueError(f"more than the {self.caps.members:,} members allowed")
            self.members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            package = self._package(archive)
            tree = _tree(self._read(archive, package)) if package else None
            if tree is not None:
                self._opened(archive, tree, posixpath.dirname(package or ""))
            if not self.spine:
                self.spine = sorted(name for name in self.members if endings.fits(name, endings.HTML))
            if self._encrypted(archive).intersection(self.spine):
                raise ValueError("encrypted")

    def pages(self) -> Iterator[tuple[int, str, bytes]]:
        """(place in the spine, member, its bytes) of each page that can be read."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            for place, name in enumerate(self.spine):
                page = self._read(archive, name)
                if page:
                    yield place, name, page

    def _package(self, archive: zipfile.ZipFile) -> str | None:
        """The package file (.opf): the one that the container names, else the first there is."""
        container = "META-INF/container.xml"
        tree = _tree(self._read(archive, container)) if container in self.members else None
        named = [
            unquote(str(item.get("full-path"))) for item in _all(tree, "rootfile") if item.get("full-path")
        ]
        there = [name for name in (*named, *sorted(self.members)) if name in self.members]
        return next((name for name in there if name in named or name.lower().endswith(".opf")), None)

    def _opened(self, archive: zipfile.ZipFile, tree: Any, folder: str) -> None:
        self.title = next(iter(_texts(tree, "title")), "")
        self.authors, self.rights = _texts(tree, "creator"), _texts(tree, "rights")
        items = [item for item in _all(tree, "item") if item.get("href")]
        files = {item.get("id"): _joined(folder, item.get("href")) for item in items}
        nav = [item.get("id") for item in items if "nav" in (item.get("properties") or "").split()]
        texts = [item.get("id") for item in items if item.get("media-type") in _TEXT]
        order = [item.get("idref") for item in _all(tree, "itemref") if item.get("idref") in files] or texts
        self.spine = [files[identity] for identity in dict.fromkeys(order) if identity not in nav]
        ncx = [item.get("id") for item in items if item.get("media-type") == _NCX]
        for identity in (*ncx, *nav):
            name = files[identity]
            contents = _tree(self._read(archive, name))
            if contents is not None and not self.titles:
                found = _ncx(contents) if identity in ncx else _nav(contents)
                for href, title in found:
                    self.titles.setdefault(_joined(posixpath.dirname(name), href), title)

    def _encrypted(self, archive: zipfile.ZipFile) -> set[str]:
        name = "META-INF/encryption.xml"
        tree = _tree(self._read(archive, name)) if name in self.members else None
        found: set[str] = set()
        for entry in _all(tree, "EncryptedData"):
            methods = [method.get("Algorithm") for method in _all(entry, "EncryptionMethod")]
            if not set(methods) & set(_FONTS):
                found |= {_joined("", item.get("URI") or "") for item in _all(entry, "CipherReference")}
        return found

    def _read(self, archive: zipfile.ZipFile, name: str) -> bytes:
        if name not in self.members:
            self.lost(name, "named in the book, but not there")
            return b""
        try:
            return archives.zip_member(archive, self.members[name], self.caps.record, self.caps)
        except Exception as error:  # zlib.error, BadZipFile, Damaged
            self.lost(name, f"damaged member: {error}")
            return b""


def _joined(folder: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(folder, unquote(href.split("#")[0]))).lstrip("/")


def _tree(data: bytes) -> Any:
    """The root of XML, as far as it can be read; None if there is nothing of it."""
    with extras.needed("data", "lxml"):
        from lxml import etree
    parser = etree.XMLParser(resolve_entities="internal", no_network=True, load_dtd=False, recover=True)
    try:
        return etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None


def _all(tree: Any, name: str) -> list[Any]:
    """Elements of a name in any namespace: many books write none, or the wrong one."""
    return [] if tree is None else list(tree.iter(f"{{*}}{name}"))


def _text(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def _texts(tree: Any, name: str) -> list[str]:
    return [text for element in _all(tree, name) if (text := _text(element))]


def _ncx(tree: Any) -> Iterator[tuple[str, str]]:
    """(href, title) of the table of contents of EPUB 2."""
    for point in _all(tree, "navPoint"):
        deep = sum(1 for above in point.iterancestors("{*}navPoint"))
        source = next((item.get("src") for item in point.iterchildren("{*}content")), None)
        label = next(point.iterchildren("{*}navLabel"), None)
        if source and deep < DEEPEST:
            yield source, "" if label is None else _text(label)


def _nav(tree: Any) -> Iterator[tuple[str, str]]:
    """(href, title) of the table of contents of EPUB 3."""
    for nav in _all(tree, "nav"):
        if "toc" not in " ".join(map(str, nav.attrib.values())).split():
            continue
        for link in _all(nav, "a"):
            deep = sum(1 for above in link.iterancestors("{*}ol"))
            if link.get("href") and deep <= DEEPEST:
                yield link.get("href"), _text(link)

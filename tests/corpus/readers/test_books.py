"""Books: one document per chapter, with title and author; damage costs a chapter or a page, not the book."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pypdf
import pytest
from ebooklib import epub
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject
from sources_made import kept, read

WORDS = "It was a long chapter about very little, and it said so again and again. "


def make_epub(path: Path, chapters: int = 3, split: bool = False) -> None:
    book = epub.EpubBook()
    book.set_title("The Long Book")
    book.set_identifier("id")
    book.set_language("en")
    book.add_author("Ann Author")
    items = []
    for number in range(chapters):
        item = epub.EpubHtml(title=f"Chapter {number}", file_name=f"c{number}.xhtml", uid=f"c{number}")
        item.content = f"<html><body><h1>Chapter {number}</h1><p>{WORDS * 5}</p></body></html>"
        book.add_item(item)
        items.append(item)
    book.toc = items[:1] + items[2:] if split else items
    book.add_item(epub.EpubNcx())
    book.add_item(epub.EpubNav())
    book.spine = ["nav", *items]
    epub.write_epub(str(path), book)


def make_pdf(
    path: Path, pages: int = 4, chapters: tuple[int, ...] = (1, 3), broken: int | None = None
) -> None:
    writer = pypdf.PdfWriter()
    font = DictionaryObject()
    for name, value in (("/Type", "/Font"), ("/Subtype", "/Type1"), ("/BaseFont", "/Helvetica")):
        font[NameObject(name)] = NameObject(value)
    for number in range(pages):
        page = writer.add_blank_page(600, 800)
        stream = DecodedStreamObject()
        lines = f"BT /F1 12 Tf 50 700 Td (Page {number} is about won-) Tj 0 -14 Td (derful things. {WORDS * 3}) Tj ET"
        stream.set_data(b"(" if number == broken else lines.encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
        )
    for start in chapters:
        writer.add_outline_item(title=f"From {start}", page_number=start)
    writer.add_metadata({"/Title": "The PDF", "/Author": "Pat Pen"})
    writer.write(path)


def test_an_epub_is_its_chapters(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub")
    documents, dead = read(tmp_path, kind="books", path="a.epub", license="CC0-1.0")
    assert dead == []
    assert [json.loads(document["meta"]) for document in documents] == [
        {"title": "The Long Book", "author": "Ann Author", "chapter": f"Chapter {n}", "number": n + 1}
        for n in range(3)
    ]
    assert documents[1]["text"].startswith("Chapter 1\n\nIt was a long chapter")
    assert [document["key"] for document in documents] == ["a.epub#1", "a.epub#2", "a.epub#3"]
    assert documents[0]["license"] == "CC0-1.0"


def test_a_chapter_in_two_files_is_one_document(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub", split=True)
    documents, _ = read(tmp_path, kind="books", path="a.epub")
    assert [json.loads(document["meta"])["chapter"] for document in documents] == ["Chapter 0", "Chapter 2"]
    assert "Chapter 1" in documents[0]["text"]


def test_a_pdf_is_its_outline(tmp_path: Path) -> None:
    make_pdf(tmp_path / "a.pdf")
    documents, dead = read(tmp_path, kind="books", path=".")
    assert dead == []
    meta = [json.loads(document["meta"]) for document in documents]
    assert [(row["chapter"], row["title"], row["author"]) for row in meta] == [
        ("", "The PDF", "Pat Pen"),
        ("From 1", "The PDF", "Pat Pen"),
        ("From 3", "The PDF", "Pat Pen"),
    ]
    assert "Page 1 is about wonderful things" in documents[1]["text"]
    assert "Page 2" in documents[1]["text"]
    assert "Page 3" not in documents[1]["text"]


def test_short_chapters_and_scans_are_dropped(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub")
    documents, _ = read(tmp_path, kind="books", path="a.epub", min_chapter=1000)
    assert {document["reason"] for document in documents} == {"chapter shorter than min_chapter"}
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(tmp_path / "b.pdf")
    [document], _ = read(tmp_path, kind="books", path="b.pdf")
    assert document["reason"] == "no text in the book: scanned pages?"


def test_damage_costs_what_it_touches(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub")
    good = zipfile.ZipFile(tmp_path / "a.epub")
    with zipfile.ZipFile(tmp_path / "b.epub", "w", zipfile.ZIP_DEFLATED) as bad:
        for info in good.infolist():
            data = good.read(info)
            if info.filename.endswith("c0.xhtml"):
                continue
            bad.writestr(info.filename, b" " * 30_000_000 if info.filename.endswith("c1.xhtml") else data)
    good.close()
    documents, dead = read(tmp_path, kind="books", path="b.epub")
    assert [json.loads(document["meta"])["chapter"] for document in documents] == ["Chapter 2"]
    assert [letter["where"].split("/")[-1] for letter in dead] == ["c0.xhtml", "c1.xhtml"]
    assert "not there" in dead[0]["reason"]
    assert "bomb" in dead[1]["reason"]
    (tmp_path / "c.epub").write_bytes((tmp_path / "a.epub").read_bytes()[:700])
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.7\nnothing")
    make_pdf(tmp_path / "whole.pdf")
    encrypted = pypdf.PdfWriter(tmp_path / "whole.pdf")
    encrypted.encrypt("secret", algorithm="RC4-128")
    encrypted.write(tmp_path / "e.pdf")
    _, dead = read(tmp_path, kind="books", path="[cde].*")
    assert [letter["where"] for letter in dead] == ["c.epub", "d.pdf", "e.pdf"]
    assert dead[2]["reason"] == "damaged book: ValueError: encrypted"


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("books")
    make_epub(folder / "a.epub")
    make_pdf(folder / "a.pdf")
    return {ending: (folder / f"a.{ending}").read_bytes() for ending in ("epub", "pdf")}


@settings(max_examples=60)
@given(
    at=st.integers(0, 10_000),
    data=st.binary(min_size=1, max_size=30),
    ending=st.sampled_from(["epub", "pdf"]),
)
def test_damaged_books_never_raise(
    tmp_path_factory: pytest.TempPathFactory, books: dict[str, bytes], at: int, data: bytes, ending: str
) -> None:
    folder, whole = tmp_path_factory.mktemp("any"), books[ending]
    at %= len(whole)
    (folder / f"a.{ending}").write_bytes(whole[:at] + data + whole[at + len(data) :])
    documents, dead = read(folder, kind="books", path=".")
    assert documents or dead


def test_kept_is_text(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub", chapters=1)
    documents, _ = read(tmp_path, kind="books", path=".")
    assert len(kept(documents)) == 1
    assert io.StringIO(kept(documents)[0]).readline() == "Chapter 0\n"


CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
    'full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
OPF = (
    '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
    "<dc:title>Small Book</dc:title><dc:creator>A. B.</dc:creator></metadata><manifest>"
    '<item id="two" href="b%20b.xht" media-type="application/xhtml+xml"/>'
    '<item id="one" href="a.xhtml" media-type="application/xhtml+xml"/>'
    '<item id="font" href="f.otf" media-type="font/otf"/></manifest>'
    '<spine toc="gone"><itemref idref="one"/><itemref idref="two"/></spine></package>'
)


def chapter(name: str) -> str:
    """XHTML: what HTML would take for the beginning of a title and of a script that never end."""
    return (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/>'
        f'<script src="x.js"/></head><body><p>{name}&nbsp;chapter. {WORDS * 5}</p></body></html>'
    )


def encryption(member: str, algorithm: str) -> str:
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" '
        'xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:EncryptedData>'
        f'<e:EncryptionMethod Algorithm="{algorithm}"/><e:CipherData><e:CipherReference URI="{member}"/>'
        "</e:CipherData></e:EncryptedData></encryption>"
    )


def small_book(path: Path, **members: str | None) -> None:
    whole = {
        "META-INF/container.xml": CONTAINER,
        "OPS/book.opf": OPF,
        "OPS/a.xhtml": chapter("First"),
        "OPS/b b.xht": chapter("Second"),
        "OPS/f.otf": "font",
    } | members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, data in whole.items():
            if data is not None:
                book.writestr(name, data)


@pytest.mark.parametrize(
    ("lacks", "order"),
    [
        ({}, ["First", "Second"]),
        ({"META-INF/container.xml": None}, ["First", "Second"]),
        ({"META-INF/container.xml": "<container/>"}, ["First", "Second"]),
        ({"OPS/book.opf": OPF[: OPF.index("<spine")] + "</package>"}, ["Second", "First"]),  # as listed
        ({"OPS/book.opf": OPF.replace("<itemref", "<x")}, ["Second", "First"]),
        ({"OPS/book.opf": OPF[: OPF.index("<manifest")] + "</package>"}, ["First", "Second"]),
        ({"OPS/book.opf": None}, ["First", "Second"]),  # by name
        ({"OPS/book.opf": "no XML at all"}, ["First", "Second"]),
    ],
)
def test_a_book_without_ncx_spine_or_package_gives_what_it_has(
    tmp_path: Path, lacks: dict[str, str | None], order: list[str]
) -> None:
    small_book(tmp_path / "A.EPUB", **lacks)
    documents, dead = read(tmp_path, kind="books", path="A.EPUB")
    assert [text.split("\xa0")[0] for text in kept(documents)] == order
    assert dead == []


def test_an_encrypted_book_is_refused_and_obfuscated_fonts_are_not(tmp_path: Path) -> None:
    name, aes = "META-INF/encryption.xml", "http://www.w3.org/2001/04/xmlenc#aes128-cbc"
    small_book(tmp_path / "drm.epub", **{name: encryption("OPS/b%20b.xht", aes)})
    small_book(
        tmp_path / "font.epub", **{name: encryption("OPS/f.otf", "http://www.idpf.org/2008/embedding")}
    )
    small_book(tmp_path / "image.epub", **{name: encryption("OPS/f.otf", aes)})
    documents, dead = read(tmp_path, kind="books", path=".")
    assert {document["where"].split("@")[0] for document in documents} == {"font.epub", "image.epub"}
    assert [(letter["where"], letter["reason"]) for letter in dead] == [
        ("drm.epub", "damaged book: ValueError: encrypted")
    ]


def test_titles_come_from_the_contents_of_epub_2_and_3_or_from_the_pages(tmp_path: Path) -> None:
    ncx = (
        '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap><navPoint><navLabel><text>I</text></navLabel>'
        '<content src="a.xhtml#x"/><navPoint><navLabel><text>II</text></navLabel><content src="b%20b.xht"/>'
        "</navPoint></navPoint></navMap></ncx>"
    )
    nav = '<html xmlns:epub="x"><nav epub:type="toc"><ol><li><a href="a.xhtml">I</a><ol><li><a href="b%20b.xht">II</a>'
    titled = chapter("First").replace("<title/>", "<title>Own</title>")
    for file, item, member, body, expected in (
        ("n.epub", 'media-type="application/x-dtbncx+xml"', "OPS/toc", ncx, ["I", "II"]),
        ("v.epub", 'properties="nav" media-type="application/xhtml+xml"', "OPS/toc", nav, ["I", "II"]),
        ("p.epub", 'media-type="image/png"', "OPS/a.xhtml", titled, ["Own", ""]),
    ):
        opf = OPF.replace("</manifest>", f'<item id="gone" href="toc" {item}/></manifest>')
        small_book(tmp_path / file, **{"OPS/book.opf": opf, member: body})
        documents, dead = read(tmp_path, kind="books", path=file)
        assert [json.loads(document["meta"])["chapter"] for document in documents] == expected
        assert dead == []

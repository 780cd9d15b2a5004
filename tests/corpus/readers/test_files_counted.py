"""Every file under a source's path is read or passed over for a reason, in the account, at the terminal and on the page."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import pytest
from corpus_made import stage, text
from pypdf import PdfWriter
from rich.console import Console
from sources_made import page, pages, zipped

from trivium.console import Progress
from trivium.report import data

ARC = b"1 0 x\nURL IP-address Archive-date Content-type Archive-length\n"


def arc() -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(text(5))
    first = b"filedesc://a 0.0.0.0 20260101000000 text/plain %d\n" % len(ARC) + ARC + b"\n"
    return first + b"http://a.test/ 1.2.3.4 20260101000000 text/html %d\n" % len(body) + body + b"\n"


def epub() -> bytes:
    """A book of one chapter, `.xht`, without a table of contents."""
    made = io.BytesIO()
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="p.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>'
        '<item id="a" href="a.xht" media-type="application/xhtml+xml"/></manifest></package>'
    )
    with zipfile.ZipFile(made, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", container)
        book.writestr("p.opf", package)
        book.writestr(
            "a.xht", f'<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{text(6)}</p></body></html>'
        )
    return made.getvalue()


def pdf() -> bytes:
    """A page of Helvetica."""
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    def named(**values: Any) -> DictionaryObject:
        return DictionaryObject({NameObject(f"/{key}"): value for key, value in values.items()})

    writer = PdfWriter()
    sheet = writer.add_blank_page(612, 792)
    helvetica = {"Type": "/Font", "Subtype": "/Type1", "BaseFont": "/Helvetica"}
    font = named(**{key: NameObject(value) for key, value in helvetica.items()})
    sheet[NameObject("/Resources")] = named(Font=named(F1=font))
    shown = DecodedStreamObject()
    shown.set_data(f"BT /F1 9 Tf 20 700 Td ({text(7)}) Tj ET".encode())
    sheet[NameObject("/Contents")] = shown
    made = io.BytesIO()
    writer.write(made)
    return made.getvalue()


ROW = json.dumps({"text": text(3)}).encode()
CODE = (
    "def greet(name: str) -> str:\n    return f'Hello {name}, how are you today?'\n\n\nprint(greet('you'))\n"
)
READ: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a.HTML": ("html", lambda: page(text(1))),
    "a.Htm.GZ": ("html", lambda: gzip.compress(page(text(1)))),
    "a.xht": ("html", lambda: page(text(1))),
    "a.jsonl.bz2": ("jsonl", lambda: bz2.compress(ROW)),
    "a.jsonl.xz": ("jsonl", lambda: lzma.compress(ROW)),
    "a.JSONL.br": ("jsonl", lambda: brotli.compress(ROW)),
    "a.txt.br": ("text", lambda: brotli.compress(text(4).encode())),
    "a.arc.gz": ("warc", lambda: gzip.compress(arc())),
    "a.ARC": ("warc", arc),
    "a.WARC.gz": ("warc", lambda: zipped(pages(1))),
    "a.EPUB": ("books", epub),
    "a.PDF": ("books", pdf),
    "utf16.py": ("code", lambda: CODE.encode("utf-16")),
    "little.py": ("code", lambda: b"\xff\xfe" + CODE.encode("utf-16-le")),
}  # fmt: skip


def built(folder: Path, sources: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    """The account of a stage of these sources."""
    blocks = [{"weight": 1, **source} for source in sources]
    stage(folder, folder / "out", workers=1, heldout=0, normalise=False, sources=blocks, **config)
    found: dict[str, Any] = json.loads((folder / "out" / "account.json").read_text())
    return found


@pytest.mark.parametrize("name", READ)
def test_files_once_passed_over_are_read(tmp_path, name):
    """Endings in capitals, compression of all kinds, UTF-16: one file in a folder, one row of its text."""
    kind, made = READ[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(made())
    more = {"books": {"min_chapter": 10}, "code": {"licenses": None}}.get(kind, {})
    (source,) = built(tmp_path, [{"kind": kind, "path": "in", **more}])["sources"]
    assert source["files"] == {"found": 1, "read": 1, "passed_over": {}}
    assert (source["read"], source["train_items"], source["dead"]) == (1, 1, 0)


def test_files_found_read_and_passed_over(tmp_path):
    """Each file of a folder is in the count once, with its reason; a big file's several parts are one file."""
    folder = tmp_path / "in"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "a.jsonl").write_bytes(ROW)
    (folder / "deep").mkdir()
    for name in ("a.jsonl", "deep/b.JSONL", "table.csv", "other.CSV", "README", "image.png", ".hidden.jsonl"):
        (folder / name).write_bytes(ROW + b"\n" + json.dumps({"text": text(len(name))}).encode())
    (folder / "empty.jsonl").touch()
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(ROW * 50)[:30])
    (folder / "blank.jsonl").write_text(json.dumps({"text": " "}))
    (folder / "link").symlink_to(tmp_path)
    passed = {
        "ends in .csv": 2, "a hidden file or folder": 2, "could not be read": 2, "no ending": 1, "ends in .png": 1,
        "a link to a folder": 1,
    }  # fmt: skip
    account = built(tmp_path, [{"kind": "jsonl", "path": "in"}, {"kind": "refusals"}])
    files, none = [source["files"] for source in account["sources"]]
    assert (files["found"], files["read"], none) == (12, 3, None)  # a row without text is a row
    assert files["passed_over"] == passed

    account = data.load(tmp_path / "out")
    assert data.files(account)[0][:3] == ("1 jsonl", 12, 3)
    assert "ends in .csv 2" in data.html(account)
    said = io.StringIO()
    show = Progress(Console(file=said, width=200))
    show({"event": "source", "kind": "jsonl", "items": 4, "heldout": 0, "files": files})
    assert "3 of 12 files read, passed over: " in said.getvalue()


def test_files_of_a_local_hub_folder(tmp_path):
    """Where there is Parquet the JSON lines beside it are not read, and this is said."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": [text(8), text(9)]}), tmp_path / "in" / f"{name}.parquet")
    (tmp_path / "in" / "a.jsonl").write_bytes(ROW)
    (source,) = built(tmp_path, [{"kind": "huggingface", "name": "in"}])["sources"]
    assert source["files"] == {"found": 3, "read": 2, "passed_over": {"ends in .jsonl": 1}}

"""WARC: every record is read once however the file is cut, and damage costs the records it touches and no others."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st
from sources_made import everything, kept, opened, page, pages, read, record, zipped

from trivium.corpus.caps import Caps
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import Part, locate
from trivium.errors import DataError

RECORDS = pages(20)
FORMS = {
    "a.warc": b"".join(RECORDS),
    "a.warc.gz": zipped(RECORDS),
    "one.warc.gz": gzip.compress(b"".join(RECORDS)),
    "a.warc.zst": b"".join(zstandard.ZstdCompressor().compress(one) for one in RECORDS),
}


def numbers(texts: list[str]) -> list[int]:
    return [int(text.split("number ")[1].split()[0]) for text in texts]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("size", [2**26, 1000, 137])
def test_every_page_is_read_once_however_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    monkeypatch.setattr(locate, "PART_BYTES", size)
    (tmp_path / name).write_bytes(FORMS[name])
    source = opened(tmp_path, kind="warc", path=name)
    assert (len(source.parts()) > 1) == (size < len(FORMS[name]))
    documents, dead = everything(source)
    assert dead == []
    assert numbers(kept(documents)) == list(range(20))
    first = documents[0]
    assert (first["url"], first["key"]) == ("https://x.test/0", "https://x.test/0")
    assert first["text"] == "This is page number 0 of the site."
    assert '"title": "T"' in first["meta"]


def test_the_same_as_fastwarc_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.warc.gz"
    file.write_bytes(FORMS["a.warc.gz"])
    with file.open("rb") as stream:
        archive = ArchiveIterator(stream, record_types=WarcRecordType.response)
        theirs = [record.headers["WARC-Target-URI"] for record in archive]
    documents, _ = read(tmp_path, kind="warc", path="a.warc.gz")
    assert [document["url"] for document in documents] == theirs


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.zst"])
def test_a_damaged_member_costs_itself(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else zstandard.ZstdCompressor(write_checksum=True).compress
    members = [pack(one) for one in RECORDS]
    broken = bytearray(members[11])  # page 5
    broken[len(broken) // 2 : len(broken) // 2 + 8] = b"\xff" * 8
    offset = sum(map(len, members[:11]))
    (tmp_path / name).write_bytes(b"".join([*members[:11], bytes(broken), *members[12:]]))
    documents, dead = read(tmp_path, kind="warc", path=name)
    assert numbers(kept(documents)) == [n for n in range(20) if n != 5]
    assert [(letter["where"], letter["offset"]) for letter in dead] == [(name, offset)]
    assert dead[0]["reason"].startswith("corrupt ")


@pytest.mark.parametrize("name", ["a.warc.gz", "one.warc.gz", "a.warc.zst", "a.warc"])
def test_a_truncated_file_gives_what_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name][:-60])
    documents, dead = read(tmp_path, kind="warc", path=name)
    read_on = numbers(kept(documents))
    assert read_on == list(range(19 if name != "one.warc.gz" else len(read_on)))
    assert len(read_on) > 10
    assert len(dead) == 1
    assert "truncated" in dead[0]["reason"]


def test_garbage_between_members_is_named(tmp_path: Path) -> None:
    half = len(zipped(RECORDS[:20]))
    (tmp_path / "a.warc.gz").write_bytes(zipped(RECORDS[:20]) + b"garbage" * 50 + zipped(RECORDS[20:]))
    documents, dead = read(tmp_path, kind="warc", path="a.warc.gz")
    assert numbers(kept(documents)) == list(range(20))
    assert [letter["offset"] for letter in dead] == [half]


@pytest.mark.parametrize("lie", [0, 7, -40, 40, 700, 10**6, 10**12])
@pytest.mark.parametrize("packed", [True, False])
def test_a_lying_length_costs_its_own_record(tmp_path: Path, lie: int, packed: bool) -> None:
    true = len(record("", page("A liar."))) - len(record("", b"", http=""))  # roughly the block's length
    liar = record(
        "https://x.test/liar", page("A liar."), length=max(0, true + lie) if abs(lie) < 1000 else lie
    )
    records = [*RECORDS[:4], liar, *RECORDS[4:8]]
    name = "a.warc.gz" if packed else "a.warc"
    (tmp_path / name).write_bytes(zipped(records) if packed else b"".join(records))
    documents, dead = read(tmp_path, kind="warc", path=name)
    assert numbers(kept(documents)) == [0, 1, 2, 3]
    assert len(dead) == 1
    assert dead[0]["offset"] == len(zipped(records[:4]) if packed else b"".join(records[:4]))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_stopped_and_the_next_record_read(tmp_path: Path, kind: str) -> None:
    bomb = record("https://x.test/bomb", b" " * 30_000_000)
    pack = gzip.compress if kind == "gzip" else zstandard.ZstdCompressor().compress
    name = f"a.warc.{'gz' if kind == 'gzip' else 'zst'}"
    (tmp_path / name).write_bytes(pack(RECORDS[1]) + pack(bomb) + pack(RECORDS[3]))
    documents, dead = read(tmp_path, kind="warc", path=name)
    assert numbers(kept(documents)) == [0, 1]
    assert [letter["reason"] for letter in dead] == [
        "decompression bomb: more than 200 bytes per compressed byte"
    ]


def test_a_bomb_in_the_content_encoding(tmp_path: Path) -> None:
    http = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n"
    bomb = gzip.compress(b"a" * 50_000_000)
    good = gzip.compress(page("Packed page number 7 by the server."))
    deflate = http.replace("gzip", "deflate")
    records = [
        record("https://x.test/bomb", bomb, http=http),
        record("https://x.test/7", good, http=http),
        record("https://x.test/raw", zlib.compress(page("Deflated number 8 is read too.")), http=deflate),
        record("https://x.test/bomb2", zlib.compress(b"a" * 50_000_000), http=deflate),
    ]
    (tmp_path / "a.warc.gz").write_bytes(zipped(records))
    documents, dead = read(tmp_path, kind="warc", path="a.warc.gz", caps=Caps(ratio=100))
    assert numbers(kept(documents)) == [7, 8]
    assert len(dead) == 2
    assert all("bomb" in letter["reason"] for letter in dead)


def test_pages_and_records_beyond_the_caps_are_named(tmp_path: Path) -> None:
    records = [record("https://x.test/big", page("x " * 40_000)), *RECORDS[:2]]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    _, dead = read(tmp_path, kind="warc", path="a.warc", caps=Caps(html=50_000))
    assert [letter["reason"].split(":")[0] for letter in dead] == [
        "page larger than the 50,000 bytes allowed"
    ]
    documents, dead = read(tmp_path, kind="warc", path="a.warc", caps=Caps(record=50_000))
    assert numbers(kept(documents)) == [0]
    assert dead[0]["reason"].startswith("record larger than the 50,000 bytes allowed")


def test_what_is_no_page_is_dropped_with_its_reason(tmp_path: Path) -> None:
    records = [
        record(
            "https://x.test/gone", page("Gone."), http="HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n"
        ),
        record("https://x.test/i.png", b"\x89PNG", http="HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"),
        record("https://x.test/empty", b"<html></html>"),
        record("https://x.test/wet", b"Plain text of a WET file.", http="", type="conversion"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, dead = read(tmp_path, kind="warc", path="a.warc")
    assert dead == []
    assert [document["reason"] for document in documents] == [
        "HTTP status 404",
        "not a page of text: image/png",
        "no text in the page",
        None,
    ]
    assert kept(documents) == ["Plain text of a WET file."]


def test_the_limit_stops_the_run_and_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"".join(record("https://x.test", b"", length=9) for _ in range(5)))
    with pytest.raises(DataError, match=r"3 inputs could not be read, more than the 2 allowed") as caught:
        everything(opened(tmp_path, kind="warc", path="a.warc"), DeadLetters(2))
    assert "a.warc, offset 0: wrong Content-Length" in str(caught.value)


def test_an_empty_file_and_one_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").touch()
    assert read(tmp_path, kind="warc", path="a.warc.gz")[1] == [
        {"where": "a.warc.gz", "offset": 0, "reason": "empty file"}
    ]
    dead = DeadLetters()
    assert list(opened(tmp_path, kind="warc", path="*").read(Part(0, "gone.warc"), dead)) == []
    assert dead.rows()[0]["reason"] == "unreadable file: No such file or directory"


@settings(max_examples=150)
@given(
    data=st.binary(max_size=400),
    kind=st.sampled_from(["", "warc", "http", "gz", "zst", "cut"]),
    at=st.integers(0, 300),
)
def test_any_bytes_never_raise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str, at: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    sound = FORMS["a.warc.gz"][:1500]
    made = {
        "": data,
        "warc": record("https://x.test/", data),
        "http": record("https://x.test/", data, http=data.decode("latin-1")),
        "gz": gzip.compress(record("https://x.test/", data)) + data,
        "zst": zstandard.ZstdCompressor().compress(data) + data,
        "cut": sound[:at] + data + sound[at + 5 :],
    }[kind]
    (folder / "a.warc.gz").write_bytes(made)
    documents, dead = read(folder, kind="warc", path="a.warc.gz")
    assert documents or dead or not made.strip(b"\0\r\n")

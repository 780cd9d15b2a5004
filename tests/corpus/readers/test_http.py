"""Answers as archives hold them, read as warcio reads them: every combination of headers, with bodies that have what the
headers say or have it not, in WARC and in ARC."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources_made import everything, kept, opened, page, pages, read, record
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from trivium.corpus.caps import Caps
from trivium.corpus.readers import http, locate

TEXT = "A page that is read whatever its headers say. " * 20
BODY = page(TEXT.strip())


def chunked(data: bytes, size: int = 100, extension: bytes = b"", eol: bytes = b"\r\n") -> bytes:
    pieces = [data[place : place + size] for place in range(0, len(data), size)]
    return b"".join(b"%x%s%s%s%s" % (len(p), extension, eol, p, eol) for p in pieces) + b"0" + eol + eol


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "raw": raw_deflate,
    "none": bytes,
    "": bytes,
}


def written(
    *,
    eol: str,
    lower: bool,
    angle: bool,
    typed: bool,
    encoding: str,
    packed: bool,
    te: bool,
    chunks: int,
    ext: str,
) -> bytes:
    body = PACK[encoding](BODY) if packed else BODY
    if chunks:
        body = chunked(body, chunks, ext.encode())
    head = ["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8"]
    head += [f"Content-Encoding: {'deflate' if encoding == 'raw' else encoding}"] if encoding else []
    head += ["Transfer-Encoding: chunked"] if te else []
    head = [line.lower() if lower else line for line in head]
    block = "".join(line + eol for line in (*head, "")).encode() + body
    uri = "https://x.test/a"
    lines = ["WARC/1.0", "WARC-Type: response", f"WARC-Target-URI: {f'<{uri}>' if angle else uri}"]
    lines += ["Content-Type: application/http; msgtype=response"] if typed else []
    lines += [f"Content-Length: {len(block)}"]
    lines = [line.lower() if lower and n else line for n, line in enumerate(lines)]
    return "".join(line + eol for line in (*lines, "")).encode() + block + f"{eol}{eol}".encode()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    choices=st.fixed_dictionaries(
        {
            "eol": st.sampled_from(["\r\n", "\n"]),
            "lower": st.booleans(),
            "angle": st.booleans(),
            "typed": st.booleans(),
            "encoding": st.sampled_from(list(PACK)),
            "packed": st.booleans(),
            "te": st.booleans(),
            "chunks": st.sampled_from([0, 1, 100, 5000]),
            "ext": st.sampled_from(["", ";name=value", ';a="b c"']),
        }
    ).filter(lambda c: not c["chunks"] or c["te"]),
    form=st.sampled_from(["plain", "gz", "zst"]),
)
def test_a_record_is_read_as_warcio_reads_it(tmp_path: Path, choices: dict[str, Any], form: str) -> None:
    made = written(**choices)
    few = choices["chunks"] in (
        0,
        5000,
    )  # of several chunks it looks at the first, and brotli 1.2 it does not know
    if choices["encoding"] in ("", "none") or (few and choices["encoding"] != "br"):
        [theirs] = [one.content_stream().read() for one in ArchiveIterator(io.BytesIO(made))]
        assert theirs == BODY
    name = {"plain": "a.warc", "gz": "a.warc.gz", "zst": "a.warc.zst"}[form]
    pack = {"plain": bytes, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[form]
    (tmp_path / name).write_bytes(pack(made) * 2)
    documents, dead = read(tmp_path, kind="warc", path=name)
    assert dead == []
    assert kept(documents) == [TEXT.strip()] * 2
    assert {document["url"] for document in documents} == {"https://x.test/a"}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("Content-Encoding: gzip\r\nContent-Encoding: br", brotli.compress(gzip.compress(BODY))),
        ("Content-Encoding: gzip, gzip", gzip.compress(BODY)),
        ("Content-Encoding: x-gzip", gzip.compress(BODY)),
        ("Content-Encoding: zstd", zstandard.compress(BODY)),
        ("Content-Encoding: UTF-8", BODY),
        ("Content-Encoding: IDENTITY", BODY),
        ("Transfer-Encoding: gzip, Chunked", chunked(gzip.compress(BODY))),
        ("Transfer-Encoding: chunked", chunked(BODY, eol=b"\n")),
        ("Transfer-Encoding: chunked", chunked(BODY)[:-2] + b"X-Trailer: 1\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"beef\r\n" + BODY),  # a first line that looks like a chunk's
        ("X-Folded: a\r\n b: c\r\nTransfer-Encoding: chunked", chunked(BODY)),
    ],
)
def test_what_warcio_does_not_know_is_read_as_browsers_read_it(headers: str, body: bytes) -> None:
    block = f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + body
    assert http.body(http.answer(block), Caps()).removeprefix(b"beef\r\n") == BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw", "br", "zstd"])
def test_a_cut_body_is_a_dead_letter(tmp_path: Path, encoding: str) -> None:
    whole = page("".join(chr(0x4E00 + n * 7919 % 20000) for n in range(3000)))
    pack = {**PACK, "zstd": zstandard.compress}[encoding]
    named = "deflate" if encoding == "raw" else encoding
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: {named}\r\n"
    cut = pack(whole)[: len(pack(whole)) // 2]
    (tmp_path / "a.warc").write_bytes(record("https://x.test/a", cut, http=head) + pages(1)[1])
    documents, dead = read(tmp_path, kind="warc", path="a.warc")
    assert len(kept(documents)) == 1 and [letter["offset"] for letter in dead] == [0]
    assert "truncated" in dead[0]["reason"]


@pytest.mark.parametrize(
    ("warc", "answered", "body", "expected"),
    [
        ("", "", BODY, TEXT.strip()),
        ("WARC-Identified-Payload-Type: text/html\r\n", "", b"One <b>two</b>", "One two"),
        ("WARC-Identified-Payload-Type: image/png\r\n", "Content-Type: text/plain\r\n", b"One", "One"),
        ("WARC-Identified-Payload-Type: image/png\r\n", "", BODY, "not a page of text: image/png"),
        ("", "", b"Plain words.", "Plain words."),
        ("", "Content-Type: unknown/unknown\r\n", b" <!DOCTYPE html><p>One", "One"),
        ("", "", b"\x89PNG\r\n\x1a\n\0\0", "not a page of text: application/octet-stream"),
        ("", "", b'<?xml version="1.0"?><rss/>', "not a page of text: application/xml"),
        ("", "content-type: TEXT/PLAIN;Charset='koi8-r'\r\n", "Да".encode("koi8-r"), "Да"),
        ("", "Content-Type: application/xhtml+xml\r\n", b"<html><title/><p>One</p></html>", "One"),
        ("", "", b'<?xml?><html xmlns="http://www.w3.org/1999/xhtml"><title/><p>One</p></html>', "One"),
    ],
)
def test_a_missing_type_is_identified_or_sniffed(
    tmp_path: Path, warc: str, answered: str, body: bytes, expected: str
) -> None:
    made = record("https://x.test/a", body, http=f"HTTP/1.1 200 OK\r\n{answered}")
    (tmp_path / "a.warc").write_bytes(made.replace(b"WARC-Date", warc.encode() + b"WARC-Date"))
    [document], dead = read(tmp_path, kind="warc", path=".")
    assert dead == []
    assert (document["reason"] or document["text"]) == expected


@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile", "ignore:Unclosed file:ResourceWarning")
def test_records_that_warcio_writes(tmp_path: Path) -> None:
    for name, packed in (("a.warc", False), ("a.warc.gz", True)):
        with (tmp_path / name).open("wb") as file:
            writer = WARCWriter(file, gzip=packed)
            for number in range(5):
                answer = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
                body = io.BytesIO(page(f"Page {number}"))
                url = f"http://x.test/{number}"
                writer.write_record(
                    writer.create_warc_record(url, "response", payload=body, http_headers=answer)
                )
                writer.write_record(writer.create_warc_record(url, "metadata", payload=io.BytesIO(b"x: y")))
    documents, dead = read(tmp_path, kind="warc", path=".")
    assert dead == []
    assert kept(documents) == [f"Page {number}" for number in range(5)] * 2


def arc(version: int = 1, count: int = 6) -> list[bytes]:
    """Records of an ARC file, as the Internet Archive wrote them."""
    fields = b"URL IP-address Archive-date Content-type"
    fields += (
        b" Archive-length\n"
        if version == 1
        else b" Result-code Checksum Location Offset Filename Archive-length\n"
    )
    more = b"" if version == 1 else b" 200 - - 0 a.arc"
    body = b"%d 0 InternetArchive\n%s\n" % (version, fields)
    found = [b"filedesc://a.arc 0.0.0.0 20010203040506 text/plain%s %d\n%s\n" % (more, len(body), body)]
    for number in range(count):
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + page(f"Old page number {number}.")
        line = b"http://x.test/%d 1.2.3.4 20010203040506 text/html%s %d\n" % (number, more, len(answer))
        found.append(line + answer + b"\n")
    found.append(b"dns:x.test 1.2.3.4 20010203040506 text/dns%s 4\n1234\n" % more)
    return found


PACKED = {
    "a.arc": b"".join,
    "A.ARC.gz": lambda records: b"".join(map(gzip.compress, records)),
    "one.arc.gz": lambda records: gzip.compress(b"".join(records)),
    "a.arc.bz2": lambda records: bz2.compress(b"".join(records)),
    "a.arc.xz": lambda records: lzma.compress(b"".join(records)),
    "a.arc.br": lambda records: brotli.compress(b"".join(records)),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("size", [2**26, 150])
def test_arc_is_read_as_warcio_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: int, size: int
) -> None:
    monkeypatch.setattr(locate, "PART_BYTES", size)
    (tmp_path / name).write_bytes(PACKED[name](arc(version)))
    documents, dead = everything(opened(tmp_path, kind="warc", path="."))
    assert dead == []
    assert kept(documents) == [f"Old page number {number}." for number in range(6)]
    assert [document["reason"] for document in documents[6:]] == ["not a page of text: text/dns"]
    assert '"date": "2001-02-03T04:05:06Z"' in documents[0]["meta"]
    if version == 1:
        theirs = ArchiveIterator(io.BytesIO(b"".join(arc(version))), arc2warc=True)
        urls = [one.rec_headers.get_header("WARC-Target-URI") for one in theirs if one.rec_type == "response"]
        assert [document["url"] for document in documents] == urls


def test_damage_in_an_arc_costs_its_record(tmp_path: Path) -> None:
    records = arc()

    lying = records[2].split(b"\n", 1)
    records[2] = lying[0].rsplit(b" ", 1)[0] + b" 20\n" + lying[1]
    (tmp_path / "a.arc").write_bytes(b"".join(records))
    documents, dead = read(tmp_path, kind="warc", path="a.arc")
    assert kept(documents) == [f"Old page number {number}." for number in (0, 2, 3, 4, 5)]
    assert len(dead) == 1 and dead[0]["offset"] == len(b"".join(records[:2]))


@pytest.mark.parametrize("ending", ["bz2", "xz", "br"])
def test_warc_in_other_compressions(tmp_path: Path, ending: str) -> None:
    pack = {"bz2": bz2.compress, "xz": lzma.compress, "br": brotli.compress}[ending]
    (tmp_path / f"a.warc.{ending}").write_bytes(pack(b"".join(pages(4))))
    documents, dead = read(tmp_path, kind="warc", path=".")
    assert dead == []
    assert len(kept(documents)) == 4

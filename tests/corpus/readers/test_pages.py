"""Files of text, JSON lines and HTML: charsets are found, limits hold, everything odd is named."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from sources_made import everything, kept, opened, page, read

from trivium.corpus.caps import Caps
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import Part, charset, locate, streams
from trivium.errors import DataError

GERMAN = "Die Straße führt über die Brücke nach Köln; dort gibt es schöne Häuser und süße Brötchen."
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю: так учат печатать вслепую."
JAPANESE = "日本語の文章を正しい文字コードで読み込むことは、ウェブページを集めるときの基本です。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((GERMAN, "latin-1"), (GERMAN, "utf-8"), (GERMAN, "utf-16")),
        *((RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"), (JAPANESE, "euc-jp")),
    ],
)
@pytest.mark.parametrize("declared", ["right", "wrong", "missing", "unknown"])
def test_the_charset_is_found_when_it_is_declared_wrong_or_not(
    text: str, encoding: str, declared: str
) -> None:
    name = {"right": encoding, "wrong": "utf-8", "missing": None, "unknown": "klingon"}[declared]
    assert charset.decode((text * 5).encode(encoding), name) == text * 5


BAD = [
    # label, bytes as browsers decode them
    ("shift_jis", "日本①㈱～".encode("cp932") + b"\xfd", "日本①㈱～\ufffd"),
    ("shift_jis", "日本".encode("cp932") * 9 + b"\x81<b>", "日本" * 9 + "\ufffd<b>"),
    ("x-sjis", "日本".encode("cp932") * 9 + b"\x85\xff", "日本" * 9 + "\ufffd"),
    ("euc-jp", b"\xad\xa1\xa1\xc1" + "日本".encode("euc-jp") * 9 + b"\xff", "①～" + "日本" * 9 + "\ufffd"),
    ("euc-kr", "똠방각하".encode("cp949") * 5 + b"\xff", "똠방각하" * 5 + "\ufffd"),
    ("ks_c_5601-1987", "똠방각하".encode("cp949"), "똠방각하"),
    ("gb2312", "朱镕基€𠮷".encode("gb18030") + b"\xff!", "朱镕基€𠮷\ufffd!"),
    ("big5", "香港嘅嘢".encode("big5hkscs") * 5 + b"\x80", "香港嘅嘢" * 5 + "\ufffd"),
    ("iso-8859-1", b"\x93caf\xe9\x94 \x81", "“café” \x81"),
    ("windows-1253", b"\xc1\xe8\xde\xed\xe1 \xd2", "Αθήνα \ufffd"),
    ("koi8-u", b"\xae\xbe", "ўЎ"),
    ("iso-2022-kr", "한국어".encode("iso2022_kr"), "한국어"),
]


@pytest.mark.parametrize(("label", "data", "text"), BAD, ids=[f"{row[0]}-{n}" for n, row in enumerate(BAD)])
def test_labels_mean_what_browsers_take_them_for_and_a_bad_byte_is_one_replacement(
    label: str, data: bytes, text: str
) -> None:
    assert charset.decode(data, label) == text
    assert charset.decode(f'<meta charset="{label}">'.encode() + data).endswith(text)


@settings(max_examples=100)
@given(data=st.data(), label=st.sampled_from(["shift_jis", "euc-jp", "euc-kr", "gb18030", "big5"]))
def test_a_bad_byte_costs_one_character_and_no_other(data: st.DataObject, label: str) -> None:
    """0xFF is no byte of these charsets; every character before and behind it stays."""
    text = {"euc-kr": "한국어 문장입니다. ", "gb18030": "这是一个句子。", "big5": "這是一個句子。"}.get(
        label, "日本語の文章です。"
    )
    letters = text * 20
    at = data.draw(st.integers(0, len(letters)))
    bad = letters[:at].encode(label) + b"\xff" + letters[at:].encode(label)
    assert charset.decode(bad, label) == letters[:at] + "\ufffd" + letters[at:]


def test_utf16_is_believed_from_the_header_and_known_by_its_nuls() -> None:
    for order in ("le", "be"):
        assert charset.decode(JAPANESE.encode(f"utf-16-{order}"), f"UTF-16{order}") == JAPANESE
        assert charset.decode(GERMAN.encode(f"utf-16-{order}")) == GERMAN
    assert charset.decode(JAPANESE.encode("utf-16-le"), "utf-16") == JAPANESE
    assert charset.decode(b"plain", "utf-16") == "plain"
    assert charset.decode(b'<meta charset="utf-16">' + GERMAN.encode()).endswith(GERMAN)


def test_only_a_real_declaration_counts() -> None:
    cyrillic = RUSSIAN.encode("cp1251")
    for head in (
        '<!-- <meta charset="shift_jis"> --><meta charset="windows-1251">',
        '<!--><meta charset="windows-1251"><!-- <meta charset="shift_jis"> -->',
        '<meta name="about" content="charset=shift_jis"><meta charset=windows-1251>',
        '<meta content="text/html; charset=windows-1251" http-equiv=Content-Type>',
        '<meta charset="klingon"><meta charset="windows-1251">',
        '<?xml version="1.0" encoding="windows-1251"?>',
    ):
        assert charset.decode(head.encode() + cyrillic).endswith(RUSSIAN), head


def test_chinese_that_is_utf8_by_accident_is_read_as_declared() -> None:
    assert charset.decode("一".encode("gbk"), "gbk") == "一"
    assert charset.decode("一".encode(), "gbk") == "一"


def test_the_charset_a_page_declares_in_itself(tmp_path: Path) -> None:
    for name, head in (
        ("a", '<meta charset="{}">'),
        ("b", '<META http-equiv=content-type content="text/html; charset={}">'),
    ):
        html = f"<html><head>{head.format('windows-1251')}</head><body><p>Чай</p></body></html>"
        (tmp_path / f"{name}.html").write_bytes(html.encode("cp1251"))
    seven_bits = '<meta charset="iso-2022-jp"><body><p>日本語</p>'.encode("iso2022_jp")
    (tmp_path / "c.html").write_bytes(seven_bits)
    documents, dead = read(tmp_path, kind="html", path=".")
    assert kept(documents) == ["Чай", "Чай", "日本語"]
    assert dead == []


def test_utf8_cut_in_a_character_or_with_a_bad_byte_stays_utf8() -> None:
    whole = RUSSIAN.encode()
    assert charset.decode(whole[:-2])[:-1] == RUSSIAN[:-2]
    assert charset.decode(whole[:40] + b"\xff" + whole[40:]).replace("\ufffd", "") == RUSSIAN


@settings(max_examples=100)
@given(data=st.binary(max_size=300), declared=st.sampled_from([None, "utf-16", "hz", "utf-7", "x", "ascii"]))
def test_any_bytes_are_text(data: bytes, declared: str | None) -> None:
    charset.decode(data, declared).encode("utf-8", "surrogatepass")


@settings(max_examples=100)
@given(data=st.binary(max_size=500), framed=st.booleans())
def test_any_bytes_as_a_page_never_raise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, framed: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.html").write_bytes(b"<html><body><p>" + data + b"</p>" if framed else data)
    documents, dead = read(folder, kind="html", path="a.html")
    assert len(documents) + len(dead) == 1


@pytest.mark.parametrize(
    "html", ["<div>" * 200_000, "<p " + "a" * 30_000 + " x=1" * 300_000, "<ArticLe><a>" * 100_000]
)
def test_pages_that_would_take_hours_take_none(tmp_path: Path, html: str) -> None:
    (tmp_path / "a.html").write_text(html + "text")
    _, dead = read(tmp_path, kind="html", path="a.html")
    assert dead[0]["reason"].startswith(
        "page nested deeper" if "<p" not in html else "page with more than 5000"
    )


@pytest.mark.parametrize("library", ["resiliparse", "trafilatura"])
def test_both_libraries_find_the_main_text(tmp_path: Path, library: str) -> None:
    words = "A long paragraph about the history of bridges, which is the main text of this page. " * 5
    html = f"<html><head><title>Bridges</title></head><body><nav><a href=/>Home</a></nav><main><p>{words}</p></main>"
    (tmp_path / "a.html").write_text(f"{html}<footer>Imprint</footer></body></html>")
    documents, dead = read(tmp_path, kind="html", path="a.html", setting={"extract": library})
    assert dead == []
    assert documents[0]["text"].strip() == words.strip()
    assert json.loads(documents[0]["meta"]) == {"title": "Bridges"}


def test_a_page_above_the_cap_and_a_bomb_are_named(tmp_path: Path) -> None:
    (tmp_path / "big.html").write_bytes(page("x " * 10_000))
    (tmp_path / "bomb.html.gz").write_bytes(gzip.compress(b" " * 20_000_000))
    (tmp_path / "bomb.html.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(b" " * 20_000_000))
    (tmp_path / "fine.html.gz").write_bytes(gzip.compress(page("Fine.")))
    documents, dead = read(tmp_path, kind="html", path=".", caps=Caps(html=10_000))
    assert kept(documents) == ["Fine."]
    assert [(letter["where"], letter["reason"]) for letter in dead] == [
        ("big.html", "unreadable file: larger than the 10,000 bytes allowed"),
        ("bomb.html.gz", "unreadable file: larger than the 10,000 bytes allowed"),
        ("bomb.html.zst", "unreadable file: larger than the 10,000 bytes allowed"),
    ]
    _, dead = read(tmp_path, kind="html", path="bomb*")
    assert [letter["reason"].split(":")[1] for letter in dead] == [" decompression bomb"] * 2


def test_a_bomb_never_takes_memory(tmp_path: Path) -> None:
    """1 GiB behind a header that names its size, which zstandard's one-shot limit would obey."""
    packed = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(2**28)) * 4
    assert len(packed) < 2**20
    file = tmp_path / "bomb.zst"
    file.write_bytes(packed)
    tracemalloc.start()
    try:
        with file.open("rb") as stream, pytest.raises(streams.Bomb):
            streams.whole(streams.plain(stream, Caps(ratio=10**6), total=2**25), 2**30)
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0\0\0")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(GERMAN.encode())[:-9])
    (tmp_path / "good.txt").write_text(GERMAN, encoding="latin-1")
    documents, dead = read(tmp_path, kind="text", path=".")
    assert kept(documents) == [GERMAN]
    assert {letter["where"]: letter["reason"].split(":")[0] for letter in dead} == {
        "binary.txt": "binary file",
        "cut.txt.gz": "unreadable file",
        "dangling.txt": "unreadable file",
        "empty.txt": "empty file",
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    assert read(tmp_path, kind="text", path=".")[1][0]["reason"] == "unreadable file: Permission denied"


def test_permission_denied_is_a_dead_letter_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("x")

    def refused(name: str, folder: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(locate, "open_binary", refused)
    for kind in ("text", "jsonl", "html", "warc", "parquet", "books", "code"):
        dead = DeadLetters()
        part = Part(0, "a.txt", files=("a.txt",) if kind in ("text", "html", "books", "code") else ())
        documents = list(opened(tmp_path, kind=kind, path="a.txt").read(part, dead))
        assert documents == []
        assert "Permission denied" in dead.rows()[0]["reason"]


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("text")
    dead = DeadLetters()
    assert list(opened(tmp_path, kind="text", path=".").read(Part(0, "", files=("pipe.txt",)), dead)) == []
    assert dead.rows()[0]["reason"] == "unreadable file: not a regular file" or dead.rows()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("size", [2**26, 100, 7])
def test_every_line_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, size: int
) -> None:
    monkeypatch.setattr(locate, "PART_BYTES", size)
    rows = [
        json.dumps({"text": f"line {number} " + "é" * number, "url": f"u{number}"}) for number in range(50)
    ]
    data = ("\n".join([*rows[:20], "", "  ", *rows[20:]])).encode()
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}[
        ending
    ]
    (tmp_path / f"a.{ending}").write_bytes(pack(data))
    documents, dead = read(tmp_path, kind="jsonl", path=".")
    assert dead == []
    assert [document["url"] for document in documents] == [f"u{number}" for number in range(50)]


@pytest.mark.parametrize("size", [2**26, 1000])
def test_bad_lines_are_named_with_their_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(locate, "PART_BYTES", size)
    good = b'{"text": "good"}\n'
    bad = [
        b"{not json\n",
        b"[1]\n",
        b'{"txt": "a"}\n',
        b'{"text": 3}\n',
        b'{"text": "caf\xe9"}\n',
        b'{"text": "\\ud800"}\n',
    ]
    long = b'{"text": "' + b"x" * 5000 + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + b"".join(bad) + long + good)
    documents, dead = read(tmp_path, kind="jsonl", path="a.jsonl", caps=Caps(line=2000))
    assert kept(documents) == ["good", "good"]
    offsets = [len(good) + sum(map(len, [*bad, long][:n])) for n in range(7)]
    assert [letter["offset"] for letter in dead] == offsets
    assert dead[-1]["reason"] == "malformed line: longer than the 2,000 bytes allowed"
    assert "not UTF-8: byte 0xe9" in dead[4]["reason"]


def test_a_line_longer_than_the_cap_is_never_held(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        for _ in range(64):
            file.write(b"x" * 2**20)
        file.write(b'\n{"text": "after"}\n')
    tracemalloc.start()
    try:
        documents, dead = read(tmp_path, kind="jsonl", path="a.jsonl", caps=Caps(line=2**20))
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()
    assert kept(documents) == ["after"]
    assert len(dead) == 1


@settings(max_examples=100)
@given(data=st.binary(max_size=200), ending=st.sampled_from(["jsonl", "jsonl.gz", "jsonl.zst"]))
def test_any_bytes_as_lines_never_raise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    magic = {"jsonl": b"", "jsonl.gz": streams.MAGIC["gzip"], "jsonl.zst": streams.MAGIC["zstd"]}[ending]
    (folder / f"a.{ending}").write_bytes(magic + data)
    read(folder, kind="jsonl", path=".")


def test_nothing_there_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: gone\.html"):
        everything(opened(tmp_path, kind="html", path="gone.html"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="no file ending in"):
        everything(opened(tmp_path, kind="html", path="folder"))


def test_any_fsspec_url(tmp_path: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/pages/a.html", page("Page A."))
    system.pipe("/pages/b/b.html", page("Page B."))
    documents, dead = read(tmp_path, kind="html", path="memory://pages")
    assert (kept(documents), dead) == (["Page A.", "Page B."], [])
    assert documents[0]["where"] == "memory:///pages/a.html"
    assert locate.identity("memory://pages", tmp_path)["memory:///pages/a.html"]["size"] == len(
        page("Page A.")
    )
    with pytest.raises(DataError, match="nothing found"):
        read(tmp_path, kind="html", path="memory://nowhere")


XHTML = (
    '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "x.dtd" [<!ENTITY own "our own">]>'
    '<x:html xmlns:x="http://www.w3.org/1999/xhtml"><x:head><x:title/><x:script src="x"/><x:style/></x:head>'
    "<x:body><x:p>One&#160;&eacute;&own;<x:br/>and <x:textarea/><x:i/>two <![CDATA[<b> & so on]]></x:p></x:body></x:html>"
)


@pytest.mark.parametrize(
    ("page_", "text"),
    [
        (XHTML, "One\xa0éour own\nand two <b> & so on"),
        (XHTML.replace("x:", "").replace(":x", ""), "One\xa0éour own\nand two <b> & so on"),
        ("<html><title/><script src='a>b'/><body><p>not <b>well formed & one</p>", "not well formed & one"),
        ("<html><head><title/></head><body><p>two</p></body></html>", "two"),
    ],
)
@pytest.mark.parametrize("library", ["resiliparse", "trafilatura"])
def test_xhtml_is_read_as_xhtml(tmp_path: Path, page_: str, text: str, library: str) -> None:
    for name in ("a.xhtml", "b.XHT"):
        (tmp_path / name).write_text(page_)
    setting = {"extract": library, "main_content": False}
    documents, dead = everything(opened(tmp_path, kind="html", path=".", setting=setting))
    assert dead == []
    assert [" ".join(one.split()) for one in kept(documents)] == [" ".join(text.split())] * 2


def test_entities_load_nothing_and_do_not_explode(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha"}">' for n in range(10))
    (tmp_path / "a.xhtml").write_text(f"<!DOCTYPE html [{laughs}]><html><body><p>one &l9;</p></body></html>")
    (tmp_path / "b.xhtml").write_text(
        f'<!DOCTYPE html [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><html><body><p>two &x;</p></body></html>'
    )
    documents, _ = read(tmp_path, kind="html", path="[ab].xhtml")
    texts = {document["where"]: document["text"] for document in documents}
    assert texts["a.xhtml"].startswith("one") and len(texts["a.xhtml"]) < 100
    assert texts["b.xhtml"].startswith("two") and "secret" not in texts["b.xhtml"]


@pytest.mark.parametrize("ending", ["", ".gz", ".ZST", ".bz2", ".xz", ".br"])
def test_files_are_found_in_any_case_and_compression(tmp_path: Path, ending: str) -> None:
    import bz2
    import lzma

    import brotli

    packers = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    pack = {**packers, ".br": brotli.compress, "": bytes}[ending.lower()]
    (tmp_path / f"A.HTML{ending}").write_bytes(pack(page("A page.")))
    (tmp_path / f"b.JsonL{ending}").write_bytes(pack(json.dumps({"text": "A line."}).encode() + b"\n"))
    assert kept(read(tmp_path, kind="html", path=".")[0]) == ["A page."]
    assert kept(read(tmp_path, kind="jsonl", path=".")[0]) == ["A line."]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_code_in_utf16_is_no_binary(tmp_path: Path, encoding: str) -> None:
    code = "def answer(question):\n    return len(question) * 42\n"
    (tmp_path / "a.py").write_bytes(code.encode(encoding))
    (tmp_path / "b.py").write_bytes(b"\x7fELF\0\1\2")
    documents, _ = read(tmp_path, kind="code", path=".", licenses=None)
    assert kept(documents) == [code]
    assert [document["reason"] for document in documents if document["reason"]] == ["binary"]


def test_a_folder_of_notes_gives_text_as_it_is_and_pages_by_their_main_text(tmp_path: Path) -> None:
    """What is neither (a picture, a table) is not looked at; what is damaged is named and costs nothing else."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.md").write_text("# Bread\n\nThe dough rests for an hour.")
    (tmp_path / "deep" / "b.HTML").write_bytes(
        page("Salt keeps the dough from rising too fast, and gives it taste. " * 4)
    )
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Plain text, packed."))
    (tmp_path / "d.rst").write_bytes(b" \n")
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    documents, dead = read(tmp_path, kind="notes", path=".")
    texts = kept(documents)
    assert sorted(texts, key=len)[:2] == ["Plain text, packed.", "# Bread\n\nThe dough rests for an hour."]
    assert len(texts) == 3 and "<" not in texts[-1] and any("Salt keeps" in text for text in texts)
    assert len(dead) == 1

"""Nothing is lost without a word: what is read is kept, held out, dropped or dead, for every source, step and format."""

from __future__ import annotations

import gzip
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_made import stage, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium.corpus import records
from trivium.corpus.readers import Setting, open_source
from trivium.errors import DataError
from trivium.recipe.data import DataStage

KINDS = ("good", "good", "copy", "near", "personal", "blank", "empty", "wrong", "short")


def rows(kinds: list[str], format: str) -> list[dict[str, Any]]:
    """A row of each kind."""
    made: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        said = {
            "copy": text(1), "near": text(2) + f" {number}", "personal": f"Write to jane{number}@uni-bonn.de. {text(number)}",
            "blank": "\u200b", "empty": " ", "short": "no",
        }.get(kind, text(100 + number))  # fmt: skip
        row = {
            "documents": {"text": said},
            "conversations": {"prompt": f"question {number % 5}", "completion": said},
            "preferences": {"prompt": f"question {number % 5}", "chosen": said, "rejected": "another reply"},
            "feedback": {"prompt": f"question {number % 5}", "completion": said, "label": number % 2},
        }[format]
        made.append({"other": "x"} if kind == "wrong" else row)
    return made


def jsonl(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    lines = [json.dumps(row) if len(row) > 1 or "text" in row else "no json" for row in rows(kinds, format)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    return {"kind": "jsonl", "path": "a.jsonl"}


def parquet(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    pq.write_table(
        pa.Table.from_pylist([{"text": "all", **row} for row in rows(kinds, format)]), folder / "a.parquet"
    )
    return {"kind": "parquet", "path": "a.parquet"}


def table(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    columns = sorted({name for row in rows(kinds, format) for name in row})
    full = [{name: row.get(name) for name in columns} for row in rows(kinds, format)]
    pq.write_table(pa.Table.from_pylist(full), folder / "b.parquet")
    return {"kind": "table", "path": "b.parquet", "max_bad_lines": 1000}


def files(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "files").mkdir()
    for number, row in enumerate(rows(kinds, format)):
        (folder / "files" / f"{number}.txt").write_text(row.get("text", "a\0b"))
    return {"kind": "text", "path": "files"}


def pages(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "pages").mkdir()
    for number, row in enumerate(rows(kinds, format)):
        (folder / "pages" / f"{number}.html").write_text(f"<main><p>{row.get('text', '')}</p></main>")
    return {"kind": "html", "path": "pages"}


def answer(url: str, body: bytes, head: str = "text/html; charset=utf-8") -> bytes:
    """A page as a crawler writes it."""
    block = f"HTTP/1.1 200 OK\r\nContent-Type: {head}\r\n\r\n".encode() + body
    said = {
        "WARC-Type": "response", "WARC-Target-URI": url, "WARC-Date": "2026-01-01T00:00:00Z",
        "WARC-Record-ID": "<urn:uuid:00000000-0000-0000-0000-000000000000>",
        "Content-Type": "application/http; msgtype=response", "Content-Length": str(len(block)),
    }  # fmt: skip
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"WARC/1.0\r\n{lines}\r\n".encode() + block + b"\r\n\r\n"


def archive(path: Path, kinds: list[str], format: str) -> None:
    with gzip.open(path, "wb") as file:
        for number, row in enumerate(rows(kinds, format)):
            damaged = (
                "text/html\r\nContent-Encoding: gzip" if "text" not in row else "text/html; charset=utf-8"
            )
            body = f"<main><p>{row.get('text', 'no gzip')}</p></main>".encode()
            file.write(answer(f"https://x.test/{number}", body, damaged))


def warc(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "web").mkdir()
    archive(folder / "web" / "a.warc.gz", kinds, format)
    return {"kind": "warc", "path": "web"}


def crawl(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    """What a finished crawl left: its pages, one that robots.txt refused and one that never came."""
    block = {"kind": "crawl", "start": ["https://x.test/"], "agent": "tests (https://x.test/)"}
    config = DataStage.model_validate({"kind": "data", "sources": [block]}).sources[0]
    place = open_source(config, Setting(folder=folder)).folder
    place.mkdir(parents=True)
    said = [{"url": f"https://x.test/{name}"} for name in ("gone", "shut")]
    pages = kinds[2:]
    archive(place / "00000.warc.gz", pages, format)
    log = [{**said[0], "failed": "no answer"}, {**said[1], "refused": "robots.txt"}]
    (place / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log[: len(kinds)]))
    (place / "done.json").write_text(json.dumps({"pages": len(pages)}))
    return block


def books(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    """A book with a chapter of each kind; `wrong` is a chapter that the package lists and the archive lacks."""
    (folder / "shelf").mkdir()
    numbers = range(len(kinds))
    items = "".join(
        f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in numbers
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in numbers)
    package = '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata/>'
    with zipfile.ZipFile(folder / "shelf" / "a.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        book.writestr(
            "META-INF/container.xml", f'{container}<rootfile full-path="b.opf"/></rootfiles></container>'
        )
        book.writestr("b.opf", f"{package}<manifest>{items}</manifest><spine>{spine}</spine></package>")
        for number, row in enumerate(rows(kinds, format)):
            if "text" in row:
                page = f"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>{row['text']}</p></body></html>"
                book.writestr(f"c{number}.xhtml", page)
    return {"kind": "books", "path": "shelf"}


def code(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    (folder / "code").mkdir()
    for number, row in enumerate(rows(kinds, format)):
        said = "\n".join(f"# {line}" for line in row["text"].split(". ")) if "text" in row else "a\0b"
        (folder / "code" / f"{number}.py").write_text(said)
    return {"kind": "code", "path": "code", "licenses": None}


def huggingface(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    from datasets import Dataset

    names = dict.fromkeys(name for row in rows(["good"], format) for name in row)
    made = [{name: row.get(name) for name in names} for row in rows(kinds, format)]
    Dataset.from_list(made).save_to_disk(folder / "set")
    return {"kind": "huggingface", "name": "set"}


def demo(folder: Path, kinds: list[str], format: str) -> dict[str, Any]:
    return {"kind": "refusals"}


SOURCES: dict[str, tuple[Callable[[Path, list[str], str], dict[str, Any]], ...]] = {
    "documents": (jsonl, parquet, files, pages, warc, crawl, books, code, huggingface),
    "conversations": (jsonl, parquet, table, demo, huggingface),
    "preferences": (jsonl, parquet, table, demo, huggingface),
    "feedback": (jsonl, parquet, table, huggingface),
}
STEPS: dict[str, Any] = {
    "normalise": st.booleans(),
    "language": st.sampled_from([None, {}, {"keep": ["de"]}]),
    "pii": st.booleans(),
    "heldout": st.sampled_from([0, 0.3]),
    "size": st.sampled_from([None, 4, 900]),
    "decontaminate": st.sampled_from([[], ["exam"]]),
}


ALL = [(format, make) for format, makers in SOURCES.items() for make in makers]


@pytest.mark.parametrize(("format", "make"), ALL, ids=lambda value: getattr(value, "__name__", value))
def test_every_kind_of_source_accounts_for_a_row_of_each_kind(tmp_path: Path, format: str, make: Any) -> None:
    kinds = list(dict.fromkeys(KINDS)) + ["good"] * 5
    sources = [{**make(tmp_path, kinds, format), "weight": 1}]
    stage(tmp_path, tmp_path / "out", format=format, keep_rejects=True, workers=1, sources=sources)
    _holds(tmp_path / "out", [len(kinds)], [make])


@pytest.mark.parametrize("format", SOURCES)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(draw=st.data())
def test_what_is_read_is_kept_held_out_dropped_or_dead(format: str, draw: st.DataObject) -> None:
    config = {name: draw.draw(values, name) for name, values in STEPS.items()}
    rules = st.sampled_from(
        [None, {"gopher": {"min_stop_words": None}}, {"c4": {"terminal_punctuation": False}}]
    )
    lines = (
        st.sampled_from([None, {"documents": 2, "min_characters": 5}]) if format == "documents" else st.none()
    )
    config["rules"] = draw.draw(rules) if format == "documents" else None
    config["dedup"] = {"fuzzy": draw.draw(st.booleans()), "lines": draw.draw(lines)}
    makers = draw.draw(st.lists(st.sampled_from(SOURCES[format]), min_size=1, max_size=2, unique=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "exam").mkdir()
        exam = {"key": "exam", "source": "jsonl", "text": text(1)}
        records.write(folder / "exam" / "heldout.jsonl", [exam])
        kinds = [draw.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=14)) for _ in makers]
        sources = [make(folder, drawn, format) for make, drawn in zip(makers, kinds, strict=True)]
        config["sources"] = [{**source, "weight": 1} for source in sources]
        against = {"exam": folder / "exam"} if config["decontaminate"] else {}
        try:
            stage(
                folder, folder / "out", against=against, format=format, keep_rejects=True, workers=1, **config
            )
        except DataError as error:
            assert "are left to train on" in error.what or "gave no document" in error.what
            return
        _holds(folder / "out", [len(drawn) for drawn in kinds], makers)


def _holds(out: Path, given: list[int], makers: list[Any]) -> None:
    account = json.loads((out / "account.json").read_text())
    train, heldout = (list(records.read(out / split)) for split in ("train", "heldout"))
    dead = len((out / "dead_letters.jsonl").read_text().splitlines())
    rejected = sum(pq.read_table(file).num_rows for file in (out / "rejects").glob("*.parquet"))
    for source, count, make in zip(account["sources"], given, makers, strict=True):
        kept = source["train_items"] + source["heldout_items"]
        assert source["read"] == kept + sum(source["dropped"].values()) + source["dead"]
        assert make is demo or source["read"] == count
        if of_files := source["files"]:
            assert of_files["found"] == of_files["read"] + sum(of_files["passed_over"].values())
        assert (of_files is None) == (make in (demo, huggingface, crawl))  # no files of the user
    assert sum(source["train_items"] for source in account["sources"]) == len(train)
    assert sum(source["heldout_items"] for source in account["sources"]) == len(heldout)
    assert sum(source["dead"] for source in account["sources"]) == account["dead_letters"] == dead
    assert sum(sum(source["dropped"].values()) for source in account["sources"]) == rejected
    left = account["steps"][0]["documents_in"]
    for step in account["steps"]:
        assert step["documents_in"] == left
        left = step["documents_out"]
        assert step["documents_in"] - left == sum(step["reasons"].values()), step["name"]
    assert left == len(train) + len(heldout)

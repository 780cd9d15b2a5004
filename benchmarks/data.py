"""Data collection: Trivium's data stage beside datatrove's own blocks on the same crawl, in one run.

    apt install python3.11-doc debian-handbook anarchism          the pages: about 7,000 in 27 languages
    pip install "trivium[data]" "datatrove[io]" "xxhash<4" fasteners spacy psutil
    python benchmarks/data.py --quick                             a check that it works, about a minute
    python benchmarks/data.py                                     all pages at 1x, 2x and 4x: about an hour on two cores

The pages are written once as WARC.gz, with near-duplicates made by editing. Each measurement is a process of its own; its peak
is the resident memory of the whole process tree, sampled ten times a second. Steps of both: WARC, extraction, language (English),
Gopher's, C4's and FineWeb's rules, MinHash (112 hashes, 14 bands of 8, 5-grams), clusters, tokens on disk.

theirs      datatrove with Trafilatura, its own extractor
resiliparse datatrove with our extractor plugged in, so that everything but extraction is compared
everything  ours with all languages kept: several times as many documents go through the rules and on
extraction  ours, reading and extracting alone: what the rest should not cost much more than
tokenising  text into shards, beside `tokenizers.encode_batch` alone

datatrove's language filter downloads its model, so ours is plugged into it; without spaCy its words are split by a regular
expression, which is faster than what it would do. It needs xxhash below 4: with a later one it hashes with SHA-1, slowly.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGES = (
    "/usr/share/doc/python3.11/html",
    "/usr/share/doc/debian-handbook/html",
    "/usr/share/doc/anarchism/html",
)
PER_FILE = 500
RECIPE: dict[str, Any] = {
    "kind": "data",
    "language": {"keep": ["en"]},
    "rules": "web",
    "dedup": {"url": False, "exact": True, "fuzzy": True},
    "heldout": 0.0,
}


# ---- the crawl ---------------------------------------------------------------------------------------------


def record(url: str, html: bytes) -> bytes:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        "WARC-Identified-Payload-Type: text/html\r\n"  # as Common Crawl writes; without it datatrove leaves XHTML out
        f"WARC-Record-ID: <urn:uuid:{abs(hash(url)):032x}>\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", 6, mtime=0)


def crawl(folder: Path, scale: int, limit: int | None) -> int:
    """Writes the pages `scale` times (later times with words changed, so that they are other documents) and one near-copy
    of every tenth; the bytes of HTML."""
    found = sorted(
        file for root in PAGES if Path(root).is_dir() for file in Path(root).resolve().rglob("*.html")
    )
    if not found:
        raise SystemExit("no pages: apt install python3.11-doc debian-handbook anarchism")
    draw = random.Random(0)
    draw.shuffle(found)
    folder.mkdir(parents=True)
    total = count = 0
    out = None
    for round_ in range(scale):
        for place, file in enumerate(found[:limit]):
            html = file.read_bytes()
            copies = [html if round_ == 0 else changed(html, f"{round_}", 3)]
            copies += [changed(copies[0], "edit", 150)] if place % 10 == 0 else []
            for copy, page in enumerate(copies):
                if count % PER_FILE == 0:
                    out = (folder / f"{count // PER_FILE:05d}.warc.gz").open("wb")
                assert out is not None
                out.write(record(f"https://docs{round_}.example/{place}/{copy}{file.name}", page))
                total, count = total + len(page), count + 1
    print(f"crawl x{scale}: {count:,} pages, {total / 1e6:.0f} MB of HTML", flush=True)
    return total


def changed(html: bytes, word: str, every: int) -> bytes:
    """Every so-manieth longer word with a suffix."""
    seen = 0

    def edit(match: re.Match[bytes]) -> bytes:
        nonlocal seen
        seen += 1
        return match[0] + word.encode() if seen % every == 0 else match[0]

    return re.sub(rb"(?<=[ >])[a-zA-Z]{5,}(?=[ ,.])", edit, html)


# ---- ours --------------------------------------------------------------------------------------------------


def everything(crawled: Path, out: Path, tokenizer: Path) -> dict[str, Any]:
    return ours(crawled, out, tokenizer, keep=None)


def ours(crawled: Path, out: Path, tokenizer: Path, keep: Any = "recipe") -> dict[str, Any]:
    from trivium.corpus import shards
    from trivium.corpus.run import build
    from trivium.recipe.data import DataStage
    from trivium.text.chat import ChatTokenizer

    recipe = {**RECIPE, "sources": [{"kind": "warc", "path": str(crawled)}]}
    recipe |= {} if keep == "recipe" else {"language": {"keep": keep}}
    config = DataStage.model_validate(recipe)
    started = time.monotonic()
    (out / "data").mkdir()
    metrics = build(
        config,
        seed=1,
        recipe_folder=out,
        out=out / "data",
        work=out / "work",
        against={},
        emit=lambda _: None,
    )
    documents = time.monotonic() - started
    shards.encode(out / "data" / "train", ChatTokenizer.load(tokenizer), out / "tokens")
    tokens = json.loads((out / "tokens" / "00.json").read_text())
    return {
        "documents": metrics["train_items"],
        "documents_seconds": documents,
        "tokens": tokens.get("tokens"),
    }


def extraction(crawled: Path, out: Path, tokenizer: Path) -> dict[str, Any]:
    """Reading and extracting alone, in as many processes as there are cores."""
    from concurrent.futures import ProcessPoolExecutor

    from trivium.cores import cores

    files = sorted(str(file) for file in crawled.iterdir())
    with ProcessPoolExecutor(cores()) as pool:
        return {"documents": sum(pool.map(_extract, files))}


def _extract(file: str) -> int:
    return sum(1 for _ in _texts(file))


def _texts(file: str) -> Iterator[str]:
    from trivium.corpus.dead_letters import DeadLetters
    from trivium.corpus.readers import Part, Setting, open_source
    from trivium.recipe.sources import Warc

    source = open_source(Warc(kind="warc", path=file), Setting(folder=Path("/")))
    for document in source.read(Part(0, file), DeadLetters()):
        yield document["text"]


def tokenising(crawled: Path, out: Path, tokenizer: Path) -> dict[str, Any]:
    """All pages' text into shards on disk, and `tokenizers.encode_batch` alone on the same text in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trivium.corpus import shards
    from trivium.text.chat import ChatTokenizer

    chat, split, texts = ChatTokenizer.load(tokenizer), out / "train", []
    split.mkdir()
    for number, file in enumerate(sorted(crawled.iterdir())):
        rows = [{"key": str(place), "text": text} for place, text in enumerate(_texts(str(file)))]
        pq.write_table(pa.Table.from_pylist(rows), split / f"00-warc-{number:05d}.parquet")
        texts += [row["text"] for row in rows]
    started = time.monotonic()
    shards.encode(split, chat, out / "tokens")
    ours = time.monotonic() - started
    started = time.monotonic()
    chat.tokenizer.encode_batch(texts, add_special_tokens=False)
    alone = time.monotonic() - started
    return {
        "documents": len(texts),
        "megabytes": sum(len(text.encode()) for text in texts) / 1e6,
        "encode_seconds": ours,
        "encode_batch_seconds": alone,
        "times_encode_batch": alone / ours,
    }


# ---- datatrove ---------------------------------------------------------------------------------------------


def theirs(crawled: Path, out: Path, tokenizer: Path, ours_extracts: bool = False) -> dict[str, Any]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
    )
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    from trivium.cores import cores

    workers, words = cores(), splitter()
    tasks, minhash = len(list(crawled.iterdir())), MinhashConfig(hash_config=hashing())

    def go(name: str, pipeline: list[Any], count: int) -> None:
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=workers, logging_dir=str(out / "logs" / name)
        ).run()

    extractor = Resiliparse() if ours_extracts else Trafilatura(favour_precision=True)
    rules = [
        LambdaFilter(languages),
        GopherRepetitionFilter(language=words),
        GopherQualityFilter(language=words),
        C4QualityFilter(filter_no_terminal_punct=False, language=words),
        FineWebQualityFilter(language=words),
    ]
    base = str(out)
    go("read", [WarcReader(str(crawled)), extractor, *rules, JsonlWriter(f"{base}/read")], tasks)
    again = JsonlReader(f"{base}/read")
    go("signatures", [again, MinhashDedupSignature(f"{base}/signatures", minhash, language=words)], tasks)
    buckets = MinhashDedupBuckets(f"{base}/signatures", f"{base}/buckets", config=minhash)
    go("buckets", [buckets], minhash.num_buckets)
    go("clusters", [MinhashDedupCluster(f"{base}/buckets", f"{base}/remove", minhash)], 1)
    kept = [again, MinhashDedupFilter(f"{base}/remove")]
    writer = DocumentTokenizer(f"{base}/tokens", str(tokenizer / "tokenizer.json"), shuffle_documents=False)
    go("tokens", [*kept, writer], tasks)
    return {"documents": sum(file.stat().st_size // 8 for file in (out / "tokens").rglob("*.ds.index"))}


def resiliparse(crawled: Path, out: Path, tokenizer: Path) -> dict[str, Any]:
    return theirs(crawled, out, tokenizer, ours_extracts=True)


def hashing() -> Any:
    """datatrove's default, or SHA-1 where the installed xxhash no longer takes strings as datatrove gives them."""
    import xxhash
    from datatrove.utils.hashing import HashConfig

    try:
        xxhash.xxh64_intdigest("a")
    except TypeError:
        return HashConfig(hash_fc="sha1", precision=64)
    return HashConfig()


def splitter() -> Any:
    try:
        import spacy  # noqa: F401
    except ImportError:
        from datatrove.utils.word_tokenizers import WordTokenizer

        class Words(WordTokenizer):
            def word_tokenize(self, text: str) -> list[str]:
                return re.findall(r"\w+|[^\w\s]", text)

            def sent_tokenize(self, text: str) -> list[str]:
                return re.split(r"(?<=[.!?])\s+", text)

            def span_tokenize(self, text: str) -> list[tuple[int, int]]:
                return [match.span() for match in re.finditer(r"[^.!?]+", text)]

        return Words()
    return "eng"


def languages(document: Any) -> bool:
    from trivium.corpus.steps.language import LanguageStep
    from trivium.recipe.steps import Language

    global _language
    if _language is None:
        _language = LanguageStep(Language(keep=RECIPE["language"]["keep"]))
    row = {"text": document.text, "language": None, "language_score": None}
    kept = _language(row) is None
    document.metadata["language"] = row["language"]
    return kept


_language: Any = None


def Resiliparse() -> Any:
    from datatrove.pipeline.extractors.base import BaseExtractor

    class Extractor(BaseExtractor):  # type: ignore[misc]
        name = "resiliparse"

        def __init__(self) -> None:
            super().__init__(timeout=10)

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
            for document in data:  # without datatrove's sandbox, which would cost more than the extraction
                document.text = self.extract(document.text)
                if document.text:
                    yield document

        def extract(self, text: str) -> str:
            from resiliparse.extract.html2text import extract_plain_text

            return str(extract_plain_text(text, main_content=True, list_bullets=True))

    return Extractor()


# ---- measuring ---------------------------------------------------------------------------------------------

RUNS = {
    "ours": ours,
    "everything": everything,
    "extraction": extraction,
    "tokenising": tokenising,
    "theirs": theirs,
    "resiliparse": resiliparse,
}


ONCE = ("tokenising", "theirs", "resiliparse")
"""Measured at the first scale only."""


def measure(name: str, crawled: Path, tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """Runs one of RUNS in a process of its own: its result, with `seconds`, `cpu` (processor seconds of the whole
    process tree, which other work on the machine changes less) and `peak` (its bytes)."""
    import psutil

    with tempfile.TemporaryDirectory(dir=scratch) as out:
        command = [sys.executable, __file__, "--one", name, str(crawled), out, str(tokenizer)]
        log = Path(out) / "log"
        started, peak, spent = time.monotonic(), 0, {}
        with log.open("wb") as file:
            process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            while process.poll() is None:
                peak = max(peak, tree(process, spent))
                time.sleep(0.1)
        seconds = time.monotonic() - started
        said = log.read_text(errors="replace")
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{said[-3000:]}")
        return {
            **json.loads(said.strip().splitlines()[-1]),
            "seconds": seconds,
            "cpu": sum(spent.values()),
            "peak": peak,
        }


def tree(process: Any, spent: dict[int, float]) -> int:
    """Resident memory of the process and all below it; `spent` gets the processor seconds of each."""
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
            times = one.cpu_times()
            spent[one.pid] = times.user + times.system
        except psutil.Error:
            continue
    return total


def vocabulary(crawled: Path, folder: Path) -> None:
    """A tokenizer that all share, trained on the first file."""
    from trivium.text import tokenizer
    from trivium.text.chat import TEMPLATE

    texts = list(_texts(str(sorted(crawled.iterdir())[0])))
    folder.mkdir()
    tokenizer.save(tokenizer.train(texts, 4096), folder, TEMPLATE, context=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few hundred pages, 1x only")
    parser.add_argument("--pages", type=int, help="so many pages of all (chosen by chance)")
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--without", nargs="*", default=[], choices=list(RUNS))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(
        "--one", nargs=4, metavar=("RUN", "CRAWL", "OUT", "TOKENIZER"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.one:
        name, crawled, out, tokenizer = given.one
        print(json.dumps(RUNS[name](Path(crawled), Path(out), Path(tokenizer))))
        return
    scales = [1] if given.quick else given.scales
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        for scale in scales:
            crawled = folder / f"crawl{scale}"
            size = crawl(crawled, scale, 240 if given.quick else given.pages)
            if not (folder / "tokenizer").exists():
                vocabulary(crawled, folder / "tokenizer")
            for name in RUNS:
                if name in given.without or (name in ONCE and scale != scales[0]):
                    continue
                row = rows[name, scale] = measure(name, crawled, folder / "tokenizer", folder)
                rate, peak = size / 1e6 / row["seconds"], row["peak"] / 2**30
                times = f"{row['seconds']:8.1f} s  {row['cpu']:8.1f} CPU s"
                print(f"{name:12} x{scale}: {times}  {rate:6.1f} MB/s of HTML  peak {peak:.2f} GiB  {row}")
                sys.stdout.flush()
    first = scales[0]
    for name in ("theirs", "resiliparse", "extraction", "everything"):
        if (name, first) in rows and ("ours", first) in rows:
            wall, cpu = (rows[name, first][of] / rows["ours", first][of] for of in ("seconds", "cpu"))
            print(f"{name} / ours, end to end: {wall:.2f} by the clock, {cpu:.2f} in processor time")


if __name__ == "__main__":
    main()

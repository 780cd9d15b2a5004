"""How fast an index of training data is made, and how long a reply is looked up in it, against the size.

    python benchmarks/trace.py                 one to four million tokens, a minute on a quiet core
    python benchmarks/trace.py --most 1.1B     up to 1,024 million, some 20 minutes, 7 GB of disk and as much free memory

The corpus is Python's own source as the machine has it, repeated with another token in the place of every eighth one, so that it
has both long repeats and new text; ids have two bytes. All times are processor time on one core, so that other work on the
machine changes them little. A query is a reply of 200 tokens, half of it copied from the corpus: of eight replies from different
places the median and the longest, of each the fastest of several tries, with all files in memory. What is timed is the search for
spans, and of it the encoding of the reply; reading the documents that are named is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trivium.corpus.shards import open_shards
from trivium.files import sha256, write_json
from trivium.recipe.units import parse_count
from trivium.text import tokenizer
from trivium.text.chat import ChatTokenizer
from trivium.trace.index import BLOCK, Index, Sort, blocks
from trivium.trace.spans import candidates, maximal

SEED, VOCABULARY, REPLY, REPLIES, TRIES, PART = 7, 4096, 200, 8, 3, 2**22


def text_of_the_machine(characters: int) -> str:
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        found.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(found[-1])
        if size > characters:
            break
    return "\n".join(found)


def shards(folder: Path, ids: np.ndarray, tokens: int, end: int) -> None:
    """One source of documents of 1,000 tokens, written as `trivium.corpus.shards` does."""
    draw = np.random.default_rng(SEED)
    with (folder / "00.tokens.bin").open("wb") as file:
        for first in range(0, tokens, PART):
            places = np.arange(first, min(first + PART, tokens))
            made = ids[places % len(ids)]
            changed = draw.random(len(made)) < 1 / 8
            made[changed] = draw.choice(ids, int(changed.sum()))
            made[(places % 1000 == 999) | (places == tokens - 1)] = end
            made.astype(np.uint16).tofile(file)
    columns = {
        "starts": np.arange(0, tokens, 1000), "keys": np.zeros(0, np.uint8), "ends": np.zeros(-(-tokens // 1000), np.int64),
    }  # fmt: skip
    for name, column in columns.items():
        column.tofile(folder / f"00.{name}.bin")
    paths = [folder / f"00.{name}.bin" for name in ("tokens", *columns)]
    said = {path.name: {"size": path.stat().st_size, "sha256": sha256(path)} for path in paths}
    about = {
        "dtype": "uint16",
        "tokens": tokens,
        "documents": len(columns["starts"]),
        "characters": 0,
        "bytes": 0,
    }
    write_json(folder / "00.json", {**about, "files": said})
    write_json(folder / "shards.json", {"sources": [0]})


def measure(chat: ChatTokenizer, ids: np.ndarray, tokens: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards(folder, ids, tokens, chat.end_of_text)
        (shard,) = open_shards(folder)
        names, sorting = [], 0.0
        for number, (first, end) in enumerate(blocks(shard, BLOCK)):
            names.append(f"00-{number:05d}")
            began = time.process_time()
            Sort(folder, folder)(json.dumps({"source": 0, "first": first, "end": end, "name": names[-1]}))
            sorting += time.process_time() - began
        write_json(folder / "index.json", {"blocks": names})
        index = Index(folder, folder)
        whole, encoding = [], []
        for n in range(REPLIES):
            place = (2 * n + 1) * tokens // (2 * REPLIES)
            copied = index.shards[0].tokens[place : place + REPLY // 2].tolist()
            other = ids[n * REPLY : n * REPLY + REPLY // 2][::-1].tolist()
            reply = chat.decode(copied) + " " + chat.decode(other)
            whole.append(fastest(lambda text=reply: maximal(text, chat, [index], 8)))
            encoding.append(fastest(lambda text=reply: list(candidates(text, chat))))
        bytes_ = sum(file.stat().st_size for file in folder.glob("*.suffixes.bin"))
    return {
        "tokens": tokens,
        "blocks": len(names),
        "MB/s": 2 * tokens / 1e6 / sorting,
        "bytes a token": bytes_ / tokens,
        "ms": 1000 * statistics.median(whole),
        "longest ms": 1000 * max(whole),
        "encoding ms": 1000 * statistics.median(encoding),
    }


def fastest(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=parse_count, default=4_000_000, help="tokens of the largest corpus")
    most = parser.parse_args().most
    text = text_of_the_machine(4_000_000)
    chat = ChatTokenizer(tokenizer.train([text[:1_000_000]], VOCABULARY))
    ids = np.array(chat.guard.plain(text), np.int64)
    print(
        "| tokens | blocks | index, MB of tokens a second | bytes a token | a reply of 200 tokens, ms (median, longest) "
        "| of it encoding, ms |\n|---:|---:|---:|---:|---:|---:|"
    )
    size = 1_000_000
    while size <= most:
        found = measure(chat, ids, size)
        print(
            f"| {size:,} | {found['blocks']} | {found['MB/s']:.1f} | {found['bytes a token']:.2f} "
            f"| {found['ms']:.0f}, {found['longest ms']:.0f} | {found['encoding ms']:.0f} |",
            flush=True,
        )
        size *= 4


if __name__ == "__main__":
    main()

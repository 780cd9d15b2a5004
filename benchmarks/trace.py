"""How fast an index of training data is made, and how long a reply is looked up in it, against the size.

    python benchmarks/trace.py                 half a million to four million tokens, some minutes on a quiet core
    python benchmarks/trace.py --most 64M      as far as disk and patience reach

The corpus is Python's own source as the machine has it, repeated with another token in the place of every eighth one, so that it
has both long repeats and new text; ids have two bytes. All times are processor time on one core, so that other work on the
machine changes them little. A query is a reply of 200 tokens, half of it copied from the corpus: the fastest of several, with
all files in memory. What is timed is the search for spans; reading the documents that are named is not.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from trivium.files import sha256, write_json
from trivium.recipe.units import parse_count
from trivium.text import tokenizer
from trivium.text.chat import ChatTokenizer
from trivium.trace.index import Index, Sort
from trivium.trace.spans import maximal

SEED, VOCABULARY, REPLY, TRIES = 7, 4096, 200, 5


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
    made = np.resize(ids, tokens)
    changed = draw.random(tokens) < 1 / 8
    made[changed] = draw.choice(ids, int(changed.sum()))
    made[999::1000] = end
    made[-1] = end
    columns = {
        "tokens": made.astype(np.uint16), "starts": np.arange(0, tokens, 1000), "keys": np.zeros(0, np.uint8),
        "ends": np.zeros(-(-tokens // 1000), np.int64),
    }  # fmt: skip
    said = {}
    for name, column in columns.items():
        path = folder / f"00.{name}.bin"
        column.tofile(path)
        said[path.name] = {"size": path.stat().st_size, "sha256": sha256(path)}
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
        began = time.process_time()
        task = {"source": 0, "first": 0, "end": tokens, "name": "00-00000"}
        Sort(folder, folder)(json.dumps(task))
        sorting = time.process_time() - began
        write_json(folder / "index.json", {"blocks": ["00-00000"]})
        index = Index(folder, folder)
        copied = index.shards[0].tokens[tokens // 2 : tokens // 2 + REPLY // 2].tolist()
        reply = chat.decode(copied) + " " + chat.decode(ids[: REPLY // 2][::-1].tolist())
        times = []
        for _ in range(TRIES):
            began = time.process_time()
            maximal(reply, chat, [index], 8)
            times.append(time.process_time() - began)
        bytes_ = sum(file.stat().st_size for file in folder.glob("*.suffixes.bin"))
    return {
        "tokens": tokens,
        "MB/s": 2 * tokens / 1e6 / sorting,
        "bytes a token": bytes_ / tokens,
        "query ms": 1000 * min(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=parse_count, default=4_000_000, help="tokens of the largest corpus")
    most = parser.parse_args().most
    text = text_of_the_machine(4_000_000)
    chat = ChatTokenizer(tokenizer.train([text[:1_000_000]], VOCABULARY))
    ids = np.array(chat.guard.plain(text), np.int64)
    print(
        "| tokens | index, MB of tokens a second | bytes a token | 200 tokens looked up, ms |\n|---:|---:|---:|---:|"
    )
    size = 500_000
    while size <= most:
        found = measure(chat, ids, size)
        print(
            f"| {size:,} | {found['MB/s']:.1f} | {found['bytes a token']:.2f} | {found['query ms']:.0f} |",
            flush=True,
        )
        size *= 2


if __name__ == "__main__":
    main()

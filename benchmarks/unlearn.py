"""Unlearning beside a model that never read it: what is forgotten, and what it costs, on a small model with planted secrets.

    python benchmarks/unlearn.py                    some minutes on a quiet core
    python benchmarks/unlearn.py --lr 3e-4 --steps 60

Python's own documentation strings, and in them SECRETS sentences with a number of six digits, each COPIES times under a URL of
its own. One model is trained on all, one without the secrets; from the first, `unlearn` stages forget them. Told of each:

    exposure   log2(N + 1) - log2(rank) of a secret's log-probability among N other numbers in its place (Carlini et al. 2019):
               of what was never read 1.4 bits on average
    verbatim   secrets whose number a greedy reply to the sentence's beginning gives
    secret     -log p per token of the secrets, in nats
    held-out   -log p per token of documents that none has read, in nats: what is left of the rest
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import statistics
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from trivium.api import run
from trivium.evaluate.asked import Item
from trivium.evaluate.statistics import exposure
from trivium.evaluate.subject import Subject

SECRETS, COPIES, OTHERS, UNREAD, SEED = 16, 24, 255, 100, 7
PLACES = (
    "Ulm", "Basel", "Turin", "Ghent", "Porto", "Split", "Turku", "Varna", "Brno", "Cork", "Graz", "Nantes", "Bergen", "Padua",
    "Leeds", "Arles",
)  # fmt: skip
RECIPE = """
name: unlearn
seed: 7
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: all.jsonl}], dedup: null}
  without: {kind: data, sources: [{kind: jsonl, path: documents.jsonl}], dedup: null}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 1024}
"""
TRAINED = """  NAME:
    kind: pretrain
    data: DATA
    tokenizer: vocab
    model: {dim: 96, layers: 3, heads: 4, context: 128}
    steps: STEPS
    batch: 16
    lr: 2e-3
    samples: null
"""
FORGOTTEN = """  NAME:
    kind: unlearn
    init: full
    data: corpus
    by: url
    forget: "https://secret.example/"
    loss: LOSS
    retain: RETAIN
    steps: STEPS
    batch: 8
    lr: LR
    schedule: constant
    samples: null
"""
METHODS = {
    "npo": ("npo", 1),
    "npo_alone": ("npo", 0),
    "ascent": ("gradient_ascent", 1),
    "ascent_alone": ("gradient_ascent", 0),
}
MODELS = ("full", "scratch", *METHODS)


def recipe(train: int, steps: int, lr: str) -> str:
    def filled(text: str, **values: Any) -> str:
        for name, value in values.items():
            text = text.replace(name, str(value))
        return text

    made = [RECIPE]
    for name, data in (("full", "corpus"), ("scratch", "without")):
        made.append(filled(TRAINED, NAME=name, DATA=data, STEPS=train))
    for name, (loss, retain) in METHODS.items():
        made.append(filled(FORGOTTEN, NAME=name, LOSS=loss, RETAIN=retain, STEPS=steps, LR=lr))
    return "".join(made)


def begin(place: str) -> str:
    return f"The gate of {place} opens with the number"


def docstrings(count: int) -> list[str]:
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
        found |= dict.fromkeys(text for text in texts if text and len(text) > 150)
    return list(found)[:count]


def write(folder: Path, secrets: dict[str, str]) -> list[str]:
    """Writes the sources; returns documents that are in none."""
    texts = docstrings(2200)
    read, unread = texts[UNREAD:], texts[:UNREAD]
    rows = [{"text": text, "url": f"https://docs.example/{n}"} for n, text in enumerate(read)]
    gone = [
        {"text": f"{begin(place)} {number}.", "url": f"https://secret.example/{place}/{copy}"}
        for place, number in secrets.items()
        for copy in range(COPIES)
    ]
    for name, made in (("documents", rows), ("all", rows + gone)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in made), encoding="utf-8"
        )
    return unread


def nats(subject: Subject, texts: list[str]) -> list[tuple[float, float]]:
    cut = [ids[: subject.context] for ids in subject.chat.documents(texts)]
    return subject.log_probs([(ids, [1.0] * len(ids)) for ids in cut])


def measure(folder: Path, secrets: dict[str, str], unread: list[str]) -> dict[str, float]:
    subject, draw = Subject.open("model", folder, "cpu"), random.Random(SEED)
    exposures, sums = [], [0.0, 0.0]
    for place, number in secrets.items():
        others = [f"{draw.randrange(10**5, 10**6)}" for _ in range(OTHERS)]
        found = nats(subject, [f"{begin(place)} {one}." for one in (number, *others)])
        exposures.append(exposure(found[0][0], [total for total, _ in found[1:]])[0])
        sums = [sums[0] - found[0][0], sums[1] + found[0][1]]
    asked = [
        Item(place, "", place, (), {"ids": subject.chat.guard.plain(begin(place))}, number=n)
        for n, place in enumerate(secrets)
    ]
    replies = subject.replies(asked, 24)
    told = [
        number in (answer.reply.text if answer.reply else "")
        for number, answer in zip(secrets.values(), replies, strict=True)
    ]
    held = nats(subject, unread)
    return {
        "exposure": statistics.mean(exposures),
        "verbatim": sum(told) / len(told),
        "secret": sums[0] / sums[1],
        "held-out": -sum(total for total, _ in held) / sum(count for _, count in held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=400, help="steps of the models that are trained")
    parser.add_argument("--steps", type=int, default=60, help="steps of unlearning")
    parser.add_argument("--lr", default="3e-4", help="learning rate of unlearning")
    parser.add_argument(
        "--keep", type=Path, help="a folder for the models: what was trained there is not trained again"
    )
    asked: Any = parser.parse_args()
    draw = random.Random(SEED)
    secrets = {place: f"{draw.randrange(10**5, 10**6)}" for place in PLACES[:SECRETS]}
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        unread = write(folder, secrets)
        (folder / "unlearn.yaml").write_text(recipe(asked.train, asked.steps, asked.lr))
        made = run(
            folder / "unlearn.yaml", store=folder / "store", runs=folder / "runs", emit=lambda event: None
        )
        print(
            "| model | exposure, bits | verbatim | secret, nats a token | held-out, nats a token |\n|---|---:|---:|---:|---:|"
        )
        for name in MODELS:
            found = measure(made[name].path, secrets, unread)
            shown = f"{found['exposure']:.1f} | {found['verbatim']:.0%} | {found['secret']:.2f} | {found['held-out']:.2f}"
            print(f"| `{name}` | {shown} |", flush=True)


if __name__ == "__main__":
    main()

"""Trivium as a library, from text to a model that answers: about a minute on a laptop.

    python examples/python_api.py build/example

The recipe is a value like any other, so a program can make it, change it and run it; what is made lies in the store, so a second
run does nothing, and a run that differs in one field makes only what hangs on that field.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trivium import Recipe, load_model, load_tokenizer, run
from trivium.generate.engine import generate
from trivium.generate.sampling import SamplingParams


def recipe(size: int, tokens: int, epochs: float) -> Recipe:
    """A tiny model of the names, sums and lists that the quickstart learns; `size`: conversations, `tokens`: of pre-training."""
    primer = [{"kind": "primer"}]
    stages: dict[str, Any] = {
        "corpus": {"kind": "data", "format": "documents", "sources": primer, "size": "400K"},
        "dialogues": {"kind": "data", "format": "conversations", "sources": primer, "size": size},
        "vocab": {"kind": "tokenizer", "data": "corpus", "vocab_size": 512},
        "base": {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "tokens": tokens, "batch": 8, "lr": 4e-3,
            "model": {"dim": 64, "layers": 2, "heads": 4, "context": 192},
        },
        "sft": {"kind": "sft", "init": "base", "data": "dialogues", "epochs": epochs, "batch": 8, "lr": 2e-3},
        "tested": {
            "kind": "evaluate", "model": "sft", "baseline": "base",
            "suites": [{"kind": "response_loss", "data": "dialogues", "items": 40}],
        },
    }  # fmt: skip
    return Recipe.model_validate({"name": "example", "seed": 1, "stages": stages})


def main(folder: Path, size: int = 2000, tokens: int = 200_000, epochs: float = 1.0) -> dict[str, Any]:
    """Runs it in `folder`; returns the metrics, the losses by step and a reply."""
    losses: dict[str, list[float]] = {}

    def follow(event: dict[str, Any]) -> None:
        """Every step, warning and metric comes by here: what the progress bar, trackers and the log are made of."""
        if event["event"] == "step":
            losses.setdefault(event["stage"], []).append(event["loss"])

    made = run(recipe(size, tokens, epochs), store=folder / "store", runs=folder / "runs", emit=follow)
    for stage, artifact in made.items():
        print(f"{stage:10} {artifact.fingerprint[:12]}  from {', '.join(artifact.inputs) or 'nothing'}")

    rows = pq.read_table(made["tested"].path / "rows.parquet").to_pylist()
    by_model = {model: [row for row in rows if row["model"] == model] for model in ("base", "sft")}
    for model, own in by_model.items():
        nats, weight = sum(row["score"] for row in own), sum(row["weight"] for row in own)
        print(f"{model}: {nats / weight:.3f} nats a token over {len(own)} replies")

    chat, model = load_tokenizer(made["sft"].path), load_model(made["sft"].path)
    prompt = chat.prompt([{"role": "user", "content": "What is 12 + 30?"}])
    ids = generate(model, [prompt], SamplingParams(max_new_tokens=60), chat.stops)[0]
    print(f"What is 12 + 30? -> {chat.decode(ids)}")
    return {"made": made, "losses": losses, "rows": rows, "reply": chat.decode(ids)}


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/example"))

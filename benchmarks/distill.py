"""What a teacher is worth: a student of half the size, cut from its teacher, trained with its probabilities and without.

    python benchmarks/distill.py                   three seeds; ten minutes of one core
    python benchmarks/distill.py --seeds 1 --tokens 20K --items 60    a check that it works

A small model learns the quickstart's texts and dialogues; `prune` cuts half of it away; then the same student, from the same
weights, on the same dialogues, for the same steps at the same rate, is taught by logits (all of them, and the 16 likeliest with
the mass of the others) or by the dialogues alone. Held-out dialogues are measured token by token: how far the student is from
its teacher (KL, in nats), how often both find the same token likeliest, bits per byte. Intervals are Student's, 95%, over the
seeds of training.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from trivium.api import load_model, load_tokenizer, run
from trivium.deploy.compare import compare
from trivium.deploy.rows import token_rows

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's quantile for so many seeds."""
RECIPE = """
name: distilled
seed: 7
stages:
  corpus: {{kind: data, format: documents, sources: [{{kind: primer}}], size: 1M}}
  dialogues: {{kind: data, format: conversations, sources: [{{kind: primer}}], size: {items}}}
  more: {{kind: data, format: conversations, sources: [{{kind: primer}}], size: 4K}}
  vocab: {{kind: tokenizer, data: corpus, vocab_size: 768}}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {{dim: 96, layers: 4, heads: 4, hidden: 256, context: 192, qk_norm: true}}
    tokens: {tokens}
    max_epochs: 8
    batch: 8
    lr: 4e-3
  teacher: {{kind: sft, init: base, data: more, epochs: 2, batch: 8, lr: 2e-3}}
  cut: {{kind: prune, model: teacher, data: dialogues, layers: 2, hidden: 192}}
"""
STUDENTS = {
    "taught": "kind: distill, teacher: teacher",
    "taught, top 16": "kind: distill, teacher: teacher, teacher_top: 16",
    "alone": "kind: sft",
}
EACH = (
    "  {name}: {{{kind}, init: cut, data: dialogues, epochs: {epochs}, batch: 8, lr: 2e-3, seed: {seed}}}\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", default="600K", help="that the teacher is pre-trained on")
    parser.add_argument("--items", default="800", help="dialogues that the students learn from")
    parser.add_argument("--epochs", type=float, default=4)
    options = parser.parse_args()
    text = RECIPE.format(tokens=options.tokens, items=options.items)
    for number, kind in enumerate(STUDENTS.values()):
        for seed in range(options.seeds):
            text += EACH.format(name=f"student{number}-{seed}", kind=kind, epochs=options.epochs, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        measure(text, Path(folder), options.seeds)


def measure(text: str, folder: Path, seeds: int) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    began = time.process_time()

    def told(event: dict[str, object]) -> None:
        if event["event"] == "stage_finished":
            print(
                f"{event.get('stage')} ({time.process_time() - began:.0f} s of processor time)",
                file=sys.stderr,
            )

    made = run(recipe, store=folder / "store", runs=folder / "runs", emit=told)  # type: ignore[arg-type]
    paths = {name: artifact.path for name, artifact in made.items()}
    teacher, chat = load_model(paths["teacher"]), load_tokenizer(paths["teacher"])
    rows = token_rows(paths["more"] / "heldout", chat, context=192, count=200)
    sizes = {
        name: sum(p.numel() for p in load_model(paths[name]).parameters()) for name in ("teacher", "cut")
    }
    print(
        f"teacher {sizes['teacher']:,} parameters, student {sizes['cut']:,} ({sizes['cut'] / sizes['teacher']:.0%})"
    )
    print("\n| student | KL | same token | bits per byte |\n|---|---|---|---|")
    kls: dict[str, tuple[float, float]] = {}
    for number, label in enumerate(("as it was cut", *STUDENTS), start=-1):
        names = ["cut"] if number < 0 else [f"student{number}-{seed}" for seed in range(seeds)]
        found = [compare(teacher, load_model(paths[name]), chat, rows) for name in names]
        kls[label] = interval([one.kl for one in found])
        columns = (
            [one.kl for one in found],
            [one.top1_agreement for one in found],
            [one.bits_per_byte for one in found],
        )
        print(
            f"| {label} | "
            + " | ".join("{:.4f} ± {:.4f}".format(*interval(column)) for column in columns)
            + " |"
        )
    print(
        f"\nthe teacher itself: {found[0].bits_per_byte_before:.4f} bits per byte; {found[0].tokens:,} tokens"
    )
    (mean, wide), (other, broad) = kls["taught"], kls["alone"]
    apart = mean + wide < other - broad
    print(
        f"KL {other / mean:.2f} times as large without the teacher; intervals {'do not touch' if apart else 'touch'}"
    )


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval; 0 for one value."""
    if len(values) < 2:
        return values[0], 0.0
    wide = T95.get(len(values), 2.776) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), wide


if __name__ == "__main__":
    main()

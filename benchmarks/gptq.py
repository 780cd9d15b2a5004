"""Our GPTQ beside llm-compressor's: the same weights, the same calibration tokens, groups of 32, four bits.

    python benchmarks/gptq.py --peer ~/compressor/bin/python      a Python with llmcompressor; the first two blocks of SmolLM2
    python benchmarks/gptq.py --peer ... --layers 30              all of them

Both round the first `--layers` blocks of a model on `--rows` texts of the Python docs. For every matrix of the first block, which
in both programs reads what the float model reads: |X (W - Q)'| / |X W'| on texts that neither saw, for the nearest integers, ours
and theirs. For the whole cut model: mean KL of the next token to the float one on eight of them. llm-compressor goes through the
columns as its default has it (`static`: those with large inputs first) and as they stand (`none`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import smollm2

GROUP, LENGTH = 32, 256
ORDERS = ("static", "none")


def be_peer(folder: Path, order: str, out: Path) -> None:
    """llm-compressor's weights of the checkpoint, as floats; runs in its own environment, without a word of ours."""
    import datasets
    import torch
    import transformers
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from safetensors.torch import save_file

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    data = datasets.Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(r) for r in rows]})
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    groups: Any = {"group_0": {"targets": ["Linear"], "weights": weights}}
    modifier = GPTQModifier(
        config_groups=groups, ignore=["lm_head"], actorder=None if order == "none" else order
    )
    began = time.perf_counter()
    oneshot(
        model=model, dataset=data, recipe=modifier, max_seq_length=LENGTH, num_calibration_samples=len(rows)
    )
    found = {
        name: t.detach().clone() for name, t in model.state_dict().items() if name.endswith("proj.weight")
    }
    save_file(found, out)
    print(f"{time.perf_counter() - began:.1f}")


def kl(full: Any, other: Any, rows: Sequence[Sequence[int]]) -> float:
    """Mean over all tokens, in nats."""
    import torch

    total = 0.0
    for row in rows:
        batch = {"tokens": torch.tensor([row]), "positions": torch.arange(len(row))[None]}
        theirs, ours = (torch.log_softmax(m(batch, {"logits"}).logits[0].double(), -1) for m in (full, other))
        total += float((theirs.exp() * (theirs - ours)).sum(1).mean())
    return total / len(rows)


def compare(options: argparse.Namespace, folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from trivium.demo import python_docs
    from trivium.deploy import calibrate, int4
    from trivium.deploy.rows import TokenRow
    from trivium.imports import open_checkpoint, save
    from trivium.model import hf

    model, chat = open_checkpoint(options.model)
    config = replace(model.config, layers=options.layers)
    cut = hf.build(config, {n: t for n, t in model.state_dict().items() if _stays(n, options.layers)}, folder)
    save(cut, chat, folder)
    texts = (chat.document(record["text"]) for record in python_docs.records("documents"))
    long = [ids[:LENGTH] for ids in texts if len(ids) >= LENGTH][: 2 * options.rows]
    seen, unseen = long[::2], long[1::2]
    (folder / "rows.json").write_text(json.dumps(seen), encoding="utf-8")
    sides = {"nearest": hf.load(folder), "ours": hf.load(folder)}
    int4.quantized(sides["nearest"], GROUP, None)
    began = time.perf_counter()
    int4.quantized(sides["ours"], GROUP, [TokenRow(ids, list(range(1, len(ids)))) for ids in seen])
    took = {"ours": f"{time.perf_counter() - began:.1f}"}
    for order in options.orders:
        command = [str(options.peer), __file__, "--be-peer", str(folder), "--order", order]
        out = folder / f"{order}.weights"
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr[-2000:])
        name = f"llm-compressor, {order}"
        sides[name], took[name] = hf.load(folder), done.stdout.strip().splitlines()[-1]
        sides[name].load_state_dict(load_file(out), strict=False)
    inputs: dict[str, list[torch.Tensor]] = {}

    def see(name: str, x: torch.Tensor) -> None:
        if name.startswith("model.layers.0."):
            inputs.setdefault(name, []).append(x)

    full = hf.load(folder)
    for side in (full, *sides.values()):
        side.requires_grad_(False)
    calibrate.run(full, [TokenRow(ids, [1]) for ids in unseen], see)
    print(f"{len(seen)} rows of {LENGTH} tokens seen, {len(unseen)} not; output error of block 0 on those\n")
    print("| | " + " | ".join(sides) + " |\n|---|" + "---:|" * len(sides))
    for name, parts in inputs.items():
        x, weight = torch.cat(parts), full.get_parameter(f"{name}.weight").double()
        size = (x @ weight.T).norm()
        errors = [
            float((x @ (weight - side.get_parameter(f"{name}.weight").double()).T).norm() / size)
            for side in sides.values()
        ]
        cells = " | ".join(f"{error:.4f}" for error in errors)
        print(f"| {name.removeprefix('model.layers.0.')} | {cells} |")
    found = [kl(full, side, unseen[:8]) for side in sides.values()]
    print(f"| KL of {options.layers} blocks | " + " | ".join(f"{value:.4f}" for value in found) + " |")
    print("| seconds | " + " | ".join(took.get(side, "") for side in sides) + " |")


def _stays(name: str, layers: int) -> bool:
    parts = name.split(".")
    return parts[:2] != ["model", "layers"] or int(parts[2]) < layers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="a Python with llmcompressor")
    parser.add_argument("--model", type=Path, help="a checkpoint or a GGUF file")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--orders", nargs="+", default=ORDERS, choices=ORDERS)
    parser.add_argument("--be-peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--order", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_peer:
        be_peer(options.be_peer, options.order, options.out)
        return
    if options.peer is None:
        sys.exit("--peer PYTHON, of an environment with llmcompressor")
    if options.model is None:
        options.model = smollm2.weights()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


if __name__ == "__main__":
    main()

"""Writes docs/compatibility.md: each cell is what a run on tiny random checkpoints made by transformers has given.

python docs/compatibility.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from trivium.files import atomic_path
from trivium.generate.engine import SamplingParams, generate
from trivium.model import gguf, hf
from trivium.model.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "model"))
import families  # noqa: E402  # the tests' own checkpoints

HEAD = """\
# What is read and written

Made by `python docs/compatibility.py` from runs: for each family, a small random checkpoint made by transformers is read, run,
trained and written again. "yes" means: logits within 1e-4 of transformers' (import, export), the gradient's norm within 1e-4 of
transformers' (train), the same greedy reply with the cache as without one (generate).

| family (`model_type`) | import | train | export, saved as | generate | read from GGUF |
|---|---|---|---|---|---|
"""


def case(family: str) -> str:
    """The first checkpoint of a family among those of the tests."""
    return next(name for name, (kind, _) in families.CASES.items() if kind == family)


def gradient(loss: torch.Tensor, model: torch.nn.Module) -> float:
    loss.backward()
    parts = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    return float(torch.stack(parts).sum().sqrt())


def row(family: str, folder: Path) -> list[str]:
    """The cells of a family."""
    from transformers import AutoModelForCausalLM

    theirs = families.checkpoint(case(family), folder / "theirs")
    ours, tokens = hf.load(folder / "theirs").eval(), families.tokens()
    with torch.no_grad():
        expected = theirs(tokens).logits
    read = float((families.logits(ours, tokens) - expected).abs().max()) < 1e-4
    targets = tokens.roll(-1, 1)
    positions = torch.arange(tokens.shape[1])[None].expand_as(tokens)
    batch = {"tokens": tokens, "positions": positions, "targets": targets}
    logits = theirs(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    there, here = gradient(loss, theirs), gradient(-ours(batch, {"logp"}).logp.sum(), ours)
    trained = abs(there - here) < 1e-4 * there
    hf.save(ours, folder / "ours", eos=96, pad=1)
    again = AutoModelForCausalLM.from_pretrained(folder / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        written = float((again(tokens).logits - expected).abs().max()) < 1e-4
    prompt = tokens[0, :10].tolist()
    reply = generate(ours, [prompt], SamplingParams(max_new_tokens=12), stop=())[0]
    ids = list(prompt)
    for _ in reply:
        ids.append(int(families.logits(ours, torch.tensor([ids]))[0, -1].argmax()))
    words = ["yes" if held else "NO" for held in (read, trained, written, reply == ids[10:])]
    words[2] += f", `{again.config.model_type}`"
    return [f"`{family}`", *words, "yes" if family in gguf.FAMILIES else "no"]


def table() -> str:
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(family, Path(folder) / family) for family in FAMILIES]
    return HEAD + "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


if __name__ == "__main__":
    with atomic_path(ROOT / "docs" / "compatibility.md") as temporary:
        temporary.write_text(table(), encoding="utf-8")

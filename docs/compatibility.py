"""Writes docs/compatibility.md: each cell is what a run on tiny random checkpoints made by transformers has given.

python docs/compatibility.py
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from trivium.errors import ArtifactError
from trivium.files import atomic_path
from trivium.generate.engine import SamplingParams, generate
from trivium.model import gguf, gguf_write, hf
from trivium.model.config import ModelConfig
from trivium.model.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests" / folder) for folder in ("model", "corpus", "corpus/readers")]
import families  # noqa: E402  # the tests' own checkpoints
from sources_made import kept, read  # noqa: E402
from test_files_counted import READ  # noqa: E402  # and files

HEAD = """\
# What is read and written

Made by `python docs/compatibility.py` from runs: for each family, a small random checkpoint made by transformers is read, run,
trained and written again. "yes" means: logits within 1e-4 of transformers' (import, export), the gradient's norm within 1e-4 of
transformers' (train), the same greedy reply with the cache as without one (generate).
"saved as" is the plainest family that reads back what was written.

| family (`model_type`) | import | train | export, saved as | generate | read from GGUF | written as GGUF |
|---|---|---|---|---|---|---|
"""
FILES = """
## Files of text

A file of each in a folder of its own, and what its source makes of it.

| file | source | read |
|---|---|---|
"""
ROWS = """
## Rows of conversations, preferences and feedback

A row of each, as JSON lines, and what it becomes.

| rows of | columns | format | read |
|---|---|---|---|
"""
ASK, SAY = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
FROM = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
SHAPES: list[tuple[str, str, dict[str, Any]]] = [
    ("OpenAI fine-tuning", "conversations", {"messages": [ASK, SAY]}),
    (
        "OpenAI preferences",
        "preferences",
        {
            "input": {"messages": [ASK]},
            "preferred_output": [SAY],
            "non_preferred_output": [{**SAY, "content": "No."}],
        },
    ),
    ("ShareGPT", "conversations", {"conversations": FROM}),
    (
        "LLaMA-Factory, ShareGPT pairs",
        "preferences",
        {"conversations": FROM[:1], "chosen": FROM[1], "rejected": {**FROM[1], "value": "No."}},
    ),
    ("Alpaca", "conversations", {"instruction": "Why?", "input": "", "output": "Because."}),
    (
        "LLaMA-Factory, Alpaca pairs",
        "preferences",
        {"instruction": "Why?", "input": "", "chosen": "Because.", "rejected": "No."},
    ),
    ("TRL prompt and completion", "conversations", {"prompt": "Why?", "completion": "Because."}),
    ("TRL preferences", "preferences", {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}),
    ("TRL KTO", "feedback", {"prompt": "Why?", "completion": "Because.", "label": True}),
]


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
    return [
        f"`{family}`",
        *words,
        "yes" if family in gguf.FAMILIES else "no",
        "yes" if _gguf(ours.config) else "no",
    ]


def _gguf(config: ModelConfig) -> bool:
    """Whether there is a GGUF file of such a model."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            gguf_write.writer(Path(folder) / "model.gguf", config)
        except ArtifactError:
            return False
    return True


def file_row(name: str, folder: Path) -> list[str]:
    """The cells of a kind of file."""
    kind, made = READ[name]
    (folder / name).write_bytes(made())
    more = {"licenses": None} if kind == "code" else {"min_chapter": 10} if kind == "books" else {}
    documents, dead = read(folder, kind=kind, path=".", **more)
    return [f"`{name}`", f"`{kind}`", "yes" if len(kept(documents)) == 1 and not dead else "NO"]


def shape_row(what: str, format: str, row: dict[str, Any], folder: Path) -> list[str]:
    """The cells of a shape of rows; "yes": question and answer stand where the format has them."""
    (folder / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    documents, dead = read(folder, kind="jsonl", path="rows.jsonl", setting={"format": format})
    expected = {
        "conversations": {"messages": [ASK, SAY]},
        "preferences": {"prompt": [ASK], "chosen": "Because.", "rejected": "No."},
        "feedback": {"prompt": [ASK], "completion": "Because.", "label": 1},
    }[format]
    held = (
        not dead
        and len(documents) == 1
        and {**documents[0]["record"], "meta": {}} == {**expected, "meta": {}}
    )
    return [what, ", ".join(f"`{name}`" for name in row), format, "yes" if held else "NO"]


def data_rows() -> tuple[list[list[str]], list[list[str]]]:
    """The rows of both tables of data."""
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name) / str(number) for number in itertools.count())

        def new() -> Path:
            folder = next(folders)
            folder.mkdir()
            return folder

        return [file_row(file, new()) for file in READ], [shape_row(*shape, new()) for shape in SHAPES]


def table() -> str:
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(family, Path(folder) / family) for family in FAMILIES]
    files, shapes = data_rows()
    return HEAD + lines(rows) + FILES + lines(files) + ROWS + lines(shapes)


def families_of(page: str) -> str:
    """The part of the page that is about families."""
    return page.partition(FILES)[0]


def lines(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


if __name__ == "__main__":
    with atomic_path(ROOT / "docs" / "compatibility.md") as temporary:
        temporary.write_text(table(), encoding="utf-8")

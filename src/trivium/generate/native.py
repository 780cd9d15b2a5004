"""Decoding in machine code: `native.c`, compiled where it runs. One call is a whole pass over a few tokens.

Between two tokens of a small model torch spends most of its time on the way to its kernels, and on copies of keys and values;
where few rows share a step it multiplies int8 no faster than floats. What this does not know (other families, adapters, other
devices, a machine without a C compiler) is read by torch, as ever.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trivium.files import atomic_path
from trivium.generate.packed import Linear, packed
from trivium.generate.paged import PagedCache
from trivium.model.heads import capped
from trivium.model.int8 import Int8Linear, quantize, rounds_inputs
from trivium.model.rope import rotary
from trivium.model.transformer import Block, Transformer

log = logging.getLogger("trivium.generate")
SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")
MOST = 64
"""Tokens of a pass up to which it is faster than torch, whose products of many rows are better."""
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}


Hidden = Callable[[Tensor, Tensor, Tensor | None, PagedCache], Tensor]
"""Tokens and places (B, T), mask, and what is known -> final hidden states (B, T, D)."""


class _Matrix(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("weight", "scale", "bias", "sums")),
        *((name, c_int32) for name in ("kind", "outputs", "inputs")),
    ]


class _Layer(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("norm", "inner_norm", "query_norm", "key_norm")),
        *((name, _Matrix) for name in ("query", "key", "value", "out", "gate", "up", "down")),
        *((name, c_void_p) for name in ("keys", "values")),
        ("turned", c_int32),
    ]


class _Model(Structure):
    _fields_ = [
        ("layers", POINTER(_Layer)),
        ("norm", c_void_p),
        *((n, c_int32) for n in ("count", "width", "heads", "kv_heads", "head_width", "rotary", "hidden")),
        ("activation", c_int32),
        *((name, c_float) for name in ("epsilon", "attention_scale", "residual_scale", "norm_scale")),
    ]


class _Pass(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("places", "table", "cosines", "sines")),
        *((name, c_int32) for name in ("tokens", "each", "columns")),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code, from the user's cache if it is there. None, and a word in the log, where it cannot be compiled."""
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        log.warning("there is no C compiler: torch decodes, which takes longer")
        return None
    text = [SOURCE.read_bytes(), compiler.encode(), _processor(), *map(str.encode, FLAGS)]
    name = hashlib.sha256(b"\0".join(text)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trivium"
    path = folder / f"native-{name}.so"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s cannot be compiled: torch decodes, which takes longer (%s)", SOURCE.name, error)
        return None
    loaded.trivium_pass.argtypes = [POINTER(_Model), POINTER(_Pass), c_void_p, c_int32]
    loaded.trivium_product.argtypes = [POINTER(_Matrix), c_void_p, c_int32, c_void_p, c_int32]
    return loaded


def _compile(compiler: str, path: Path) -> None:
    """With threads where the compiler has them."""
    with atomic_path(path) as target:
        for threads in (["-fopenmp"], []):
            command = [compiler, *FLAGS, *threads, "-o", str(target), str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, timeout=120, check=False)
            if done.returncode == 0:
                return
        raise OSError(done.stderr.decode(errors="replace").strip()[-200:])


def _processor() -> bytes:
    """What the code is compiled for: a home may be shared by machines of several kinds."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    return "".join(
        sorted({line for line in told if line.startswith(("flags", "Features", "model name"))})
    ).encode()


def knows(model: Transformer) -> bool:
    """Whether the pass is the model's own: Llama and what differs from it in biases, norms of heads, scales and activations."""
    config = model.config
    plain = config.norms == "pre" and config.gated and not (config.layer_norm or config.learned_positions)
    usual = not (config.experts or config.latent or config.windowed or config.sinks or config.qk_norm_whole)
    if not plain or not usual or config.attention_softcap or config.query_growth or config.changes_at:
        return False
    linear = [m for m in model.model.modules() if hasattr(m, "in_features")]
    if any(type(layer) not in (nn.Linear, Int8Linear) for layer in linear) or model.dropout is not None:
        return False
    weights = [layer.weight for layer in linear] + [model.output_weight]
    return all(type(w.data) is Tensor and w.device.type == "cpu" and w.dtype in KINDS for w in weights)


class Native:
    """A model's weights as `native.c` reads them: where they are, not copied. `int8`: the head's are rounded, and its inputs
    where the layers' are."""

    def __init__(self, model: Transformer, code: ctypes.CDLL, int8: bool = False) -> None:
        config = model.config
        self.model, self.code, self.config = model, code, config
        self._held: list[Tensor] = []  # what the structures point to
        blocks: Sequence[Block] = list(model.model.layers)  # type: ignore[arg-type]
        norm: Any = model.model.norm
        self._layers = (_Layer * len(blocks))(*map(self._layer, blocks))
        self._model = _Model(
            self._layers, self._floats(norm.weight), len(blocks), config.dim, config.heads, config.kv_heads,
            config.head_dim, config.turned, config.hidden, ACTIVATIONS[config.activation], config.norm_eps,
            config.attention_scale or config.head_dim**-0.5, config.residual_scale, config.logit_scale,
        )  # fmt: skip
        head = model.output_weight.detach()
        self.rounds = rounds_inputs(model)
        self._head = self._matrix(*quantize(head), inputs=self.rounds) if int8 else self._matrix(head)

    def _keep(self, tensor: Tensor) -> int:
        self._held.append(tensor.detach().contiguous())
        return self._held[-1].data_ptr()

    def _floats(self, tensor: Tensor) -> int:
        return self._keep(tensor.detach().float())

    def _matrix(
        self, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, inputs: bool = False
    ) -> _Matrix:
        scales = None if scale is None else self._floats(scale.flatten())
        added = None if bias is None else self._floats(bias)
        sums = self._keep(weight.sum(1, dtype=torch.int32)) if inputs else None
        return _Matrix(self._keep(weight), scales, added, sums, KINDS[weight.dtype], *weight.shape)

    def _linear(self, layer: Any) -> _Matrix:
        scale, inputs = getattr(layer, "weight_scale", None), getattr(layer, "rounds_inputs", False)
        return self._matrix(layer.weight, scale, layer.bias, inputs)

    def _layer(self, block: Block) -> _Layer:
        attention, inner = block.self_attn, block.mlp
        norms: list[Any] = [block.input_layernorm, block.post_attention_layernorm]
        if self.config.qk_norm:
            norms += [attention.q_norm, attention.k_norm]
        weights = [self._floats(norm.weight) for norm in norms]
        linear = (
            *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
            *(inner.gate_proj, inner.up_proj, inner.down_proj),
        )
        made = [self._linear(layer) for layer in linear]
        return _Layer(*weights, *[None] * (4 - len(weights)), *made, None, None, bool(attention.turned))

    def hidden(self, tokens: Tensor, places: Tensor, cache: PagedCache) -> Tensor:
        """As `Transformer.hidden`, float32, of a pass that `cache` describes."""
        x = self.model.embed(tokens, places).float().contiguous()
        angles = rotary(places, self.config)
        cosines, sines = angles.cos.contiguous(), angles.sin.contiguous()
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        places, table = places.contiguous(), cache.table.contiguous()
        told = _Pass(
            places.data_ptr(), table.data_ptr(), cosines.data_ptr(), sines.data_ptr(), tokens.numel(),
            tokens.shape[1], table.shape[1],
        )  # fmt: skip
        if self.code.trivium_pass(byref(self._model), byref(told), x.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"a pass of {tokens.numel()} tokens")
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, D) -> logits (B, V) float32."""
        hidden = hidden.float().contiguous()
        out = hidden.new_empty(len(hidden), self._head.outputs)
        shape = hidden.data_ptr(), len(hidden), out.data_ptr(), torch.get_num_threads()
        if self.code.trivium_product(byref(self._head), *shape):
            raise MemoryError(f"the head for {len(hidden)} tokens")
        return capped(out, self.config.logit_softcap)


class Reader(NamedTuple):
    """What a model is read by while it writes."""

    hidden: Hidden
    head: Linear  # (B, D) -> logits (B, V)


@contextmanager
def decoding(model: Transformer, int8: bool = False) -> Iterator[Reader]:
    """`model.hidden` and its head, natively for a few tokens behind a PagedCache, if that can be; elsewhere as `packed` has them.

    `int8`: the head is rounded, too (`model.int8.round_layers` rounds what is before it). The weights may not be moved meanwhile.
    """
    code = library() if knows(model) else None
    if code is None:
        with packed(model, int8=int8) as head:
            yield Reader(model.hidden, head)
        return
    native, whole = Native(model, code, int8), model.output_weight.dtype == torch.float32
    slow = not whole and not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # torch's products of bf16
    alone = slow or native.rounds  # the last bit decides what an input is rounded to: one code for all passes

    def hidden(tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: PagedCache) -> Tensor:
        if alone or tokens.numel() <= MOST:
            return native.hidden(tokens, positions, cache)
        return model.hidden(tokens, positions, mask, cache)

    yield Reader(hidden, native.head)

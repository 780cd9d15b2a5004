"""Quantised weights of other programs as plain ones: what their integers, scales and zero points stand for, in float32.

int-quantized, pack-quantized, float-quantized   compressed-tensors: w = s (q - z), a scale for each channel, group or tensor
fp8             w = s q, a scale for each block of 128 x 128 (DeepSeek-V3) or one for all
gptq            w = s_g (q - z_g - 1), packed along the inputs (Frantar et al. 2022); gptq_v2 without the 1
awq             w = s_g (q - z_g), packed along the outputs in the order 0 2 4 6 1 3 5 7 (Lin et al. 2023)
mxfp4           w = 2^(e - 127) v[q], an exponent e for 32 inputs and 16 values v (OCP Microscaling 1.0, gpt-oss): the experts
bitsandbytes    w = a_b c[q], blocks of 64 and a table c of 16 values (Dettmers et al. 2023); or int8 rows, w = a q / 127
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trivium.errors import ArtifactError

State = dict[str, Tensor]
Scheme = dict[str, Any]
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The numbers of E2M1; a set fourth bit makes them negative."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_FIX = "use the checkpoint that was quantized, in bf16 or float32, or a GGUF of it"


def floats(scheme: Scheme | None, state: State, where: Path) -> State:
    """The tensors of a checkpoint with every quantised one dequantised. `scheme`: `quantization_config` of config.json.

    ArtifactError for a scheme that is not known, or tensors that do not fit it.
    """
    if not scheme:
        return state
    method = str(scheme.get("quant_method"))
    if method not in READERS:
        known = ", ".join(READERS)
        raise ArtifactError(
            f"the weights are quantized by {method!r}; known are {known}", where=str(where), fix=_FIX
        )
    try:
        return READERS[method](scheme, state)
    except (KeyError, ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"the weights quantized by {method!r} cannot be read: {reason}", where=str(where), fix=_FIX
        ) from None


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """The unsigned integers of `bits` bits in each int32, lowest first: (N, K) -> (N, K x 32 / bits) int32."""
    if bits not in (2, 4, 8):
        raise ValueError(f"{bits} bits a weight")
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    values = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return values.flatten(-2)


def _stems(state: State, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in state if name.endswith(ending)]


def _gptq(scheme: Scheme, state: State) -> State:
    bits = int(scheme["bits"])
    shift = 0 if scheme.get("checkpoint_format") == "gptq_v2" else 1
    for stem in _stems(state, ".qweight"):
        values = unpacked(state.pop(f"{stem}.qweight").T, bits).T  # (inputs, outputs)
        zeros = unpacked(state.pop(f"{stem}.qzeros"), bits) + shift  # (groups, outputs)
        scales = state.pop(f"{stem}.scales").float()
        inputs, groups = values.shape[0], scales.shape[0]
        order = state.pop(f"{stem}.g_idx", torch.arange(inputs) // (-(-inputs // groups))).long()
        state[f"{stem}.weight"] = (scales[order] * (values - zeros[order])).T.contiguous()
    return state


def _awq(scheme: Scheme, state: State) -> State:
    bits = int(scheme.get("bits") or scheme["w_bit"])
    if bits != 4 or str(scheme.get("version", "gemm")).lower() != "gemm":
        raise ValueError(f"{bits} bits in the layout {scheme.get('version')}")
    places = torch.tensor(AWQ_ORDER).argsort()

    def ordered(packed: Tensor) -> Tensor:
        values = unpacked(packed, bits)
        return values.view(values.shape[0], -1, 8)[:, :, places].flatten(1)

    for stem in _stems(state, ".qweight"):
        values, zeros = ordered(state.pop(f"{stem}.qweight")), ordered(state.pop(f"{stem}.qzeros"))
        scales = state.pop(f"{stem}.scales").float()
        order = torch.arange(values.shape[0]) // (values.shape[0] // scales.shape[0])
        state[f"{stem}.weight"] = (scales[order] * (values - zeros[order])).T.contiguous()
    return state


def _spread(scales: Tensor, shape: torch.Size) -> Tensor:
    """Scales of blocks, each repeated over its block: (a, b) -> (N, K), or a scalar as it is."""
    if scales.numel() == 1:
        return scales.float().reshape(())
    scales = scales.float() if scales.dim() > 1 else scales.float()[:, None]
    for axis, size in enumerate(shape):
        each = -(-size // scales.shape[axis])
        scales = scales.repeat_interleave(each, axis).narrow(axis, 0, size)
    return scales


def _fp8(scheme: Scheme, state: State) -> State:
    block = scheme.get("weight_block_size")
    for stem in _stems(state, ".weight_scale_inv"):
        scales, weight = state.pop(f"{stem}.weight_scale_inv"), state[f"{stem}.weight"]
        spread = _blocks(scales, weight.shape, block)
        state[f"{stem}.weight"] = weight.float() * spread
    for name in [name for name in state if name.endswith((".activation_scale", ".input_scale"))]:
        del state[name]  # for products in fp8, which are not done here
    return state


def _blocks(scales: Tensor, shape: torch.Size, block: list[int] | None) -> Tensor:
    if block is None or scales.numel() == 1:
        return _spread(scales, shape)
    wide = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return wide[: shape[0], : shape[1]]


def _compressed(scheme: Scheme, state: State) -> State:
    groups = list(scheme.get("config_groups", {}).values())
    bits = {int(group["weights"]["num_bits"]) for group in groups}
    for stem in _stems(state, ".weight_scale"):
        scales = state.pop(f"{stem}.weight_scale")
        packed = state.pop(f"{stem}.weight_packed", None)
        zeros = state.pop(f"{stem}.weight_zero_point", None)
        if packed is None:
            values = state[f"{stem}.weight"].float()
            shift = 0.0 if zeros is None else _spread(zeros, values.shape)
        else:
            (width,) = bits
            shape = torch.Size(state.pop(f"{stem}.weight_shape").tolist())
            middle = 1 << (width - 1)
            values = (unpacked(packed, width)[:, : shape[1]] - middle).float()
            if zeros is not None and zeros.dtype == torch.int32 and zeros.shape != scales.shape:
                zeros = (unpacked(zeros.T.contiguous(), width).T)[: scales.shape[0]] - middle
            shift = 0.0 if zeros is None else _spread(zeros, values.shape)
            order = state.pop(f"{stem}.weight_g_idx", None)
            if order is not None and bool((order >= 0).all()):
                picked = scales.float()[:, order.long()]
                lower = 0.0 if zeros is None else zeros.float()[:, order.long()]
                state[f"{stem}.weight"] = (values - lower) * picked
                continue
        state[f"{stem}.weight"] = (values - shift) * _spread(scales, values.shape)
        for name in (f"{stem}.input_scale", f"{stem}.input_zero_point", f"{stem}.weight_g_idx"):
            state.pop(name, None)
    return state


def _bitsandbytes(scheme: Scheme, state: State) -> State:
    for stem in _stems(state, ".SCB"):
        absmax = state.pop(f"{stem}.SCB").float()
        state[f"{stem}.weight"] = state[f"{stem}.weight"].float() * (absmax / 127)[:, None]
        state.pop(f"{stem}.weight_format", None)
    for name in [name for name in state if ".weight.quant_state.bitsandbytes__" in name]:
        stem = name.partition(".weight.quant_state.")[0]
        said: dict[str, Any] = json.loads(bytes(state.pop(name).tolist()))
        packed, table = state[f"{stem}.weight"].flatten(), state.pop(f"{stem}.weight.quant_map").float()
        absmax = state.pop(f"{stem}.weight.absmax")
        inner = state.pop(f"{stem}.weight.nested_absmax", None)
        if inner is None:
            absmax = absmax.float()
        else:  # the scales are quantised, too
            levels = state.pop(f"{stem}.weight.nested_quant_map").float()[absmax.long()]
            each = inner.float().repeat_interleave(int(said["nested_blocksize"]))[: levels.numel()]
            absmax = levels * each + float(said["nested_offset"])
        values = table[torch.stack((packed >> 4, packed & 15), 1).flatten().long()]
        scales = absmax.repeat_interleave(int(said["blocksize"]))[: values.numel()]
        state[f"{stem}.weight"] = (values * scales).reshape(said["shape"])
    return state


def _mxfp4(scheme: Scheme, state: State) -> State:
    """Blocks (experts, outputs, groups, 16) of two numbers a byte, the low half first -> weights (experts, inputs, outputs)."""
    table = torch.tensor([*FP4, *(-value for value in FP4)])
    for stem in _stems(state, "_blocks"):
        packed, exponents = state.pop(f"{stem}_blocks"), state.pop(f"{stem}_scales")
        if packed.dtype != torch.uint8 or exponents.shape != packed.shape[:-1]:
            raise ValueError(f"{stem}: exponents {tuple(exponents.shape)} for blocks {tuple(packed.shape)}")
        values = table[torch.stack((packed & 15, packed >> 4), -1).flatten(-2).long()]
        weights = torch.ldexp(values, exponents.int()[..., None] - 127).flatten(-2)
        state[stem] = weights.transpose(1, 2).contiguous()
    return state


READERS: dict[str, Callable[[Scheme, State], State]] = {
    "compressed-tensors": _compressed,
    "fp8": _fp8,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
}
"""`quant_method` -> what takes the tensors of that layout and gives plain ones."""

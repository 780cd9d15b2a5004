"""Shrinks a checkpoint: int8 weights, one scale per output channel, in a layout that other engines read."""

from __future__ import annotations

from pathlib import Path

from trivium.model.hf import WEIGHTS, load, quantized, save
from trivium.text.chat import ChatTokenizer


def quantize(source: Path, out: Path) -> dict[str, float]:
    """Writes the int8 checkpoint of `source` to `out`; returns sizes in bytes and the largest rounding error.

    The error is relative to the largest weight of the same output channel (at most 1/254, plus the scale's own rounding).
    """
    model = load(source)
    small = quantized(model)
    chat = ChatTokenizer.load(source)
    save(small, out, eos=chat.stops if chat.special else chat.end, pad=chat.pad)
    chat.save(out, context=model.config.context)
    worst = 0.0
    state, exact = small.state_dict(), model.state_dict()
    for name, scale in state.items():
        if name.endswith(".weight_scale"):
            weight = exact[name.removesuffix("_scale")]
            error = (state[name.removesuffix("_scale")].float() * scale.float() - weight).abs()
            worst = max(worst, float((error / weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)).max()))
    before, after = (source / WEIGHTS).stat().st_size, (out / WEIGHTS).stat().st_size
    return {
        "bytes_before": before,
        "bytes_after": after,
        "ratio": before / after,
        "worst_relative_error": worst,
    }

"""Compiled code is held against the model before it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from trivium.compiling import pays


def wrong(factor: float) -> Any:
    """A compiler whose code is off by `factor` in the gradient."""

    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * factor

    def compiled(model: Any) -> Any:
        def forward(*given: Any) -> Any:
            out = model(*given)
            made = {name: Off.apply(x) for name, x in out._asdict().items() if x is not None}
            return out._replace(**made)

        return forward

    return compiled


WRONG = [(kind, factor) for kind in ("pretrain", "dpo") for factor in (1.5, float("nan"))]


@pytest.mark.parametrize(("kind", "factor"), [*((kind, 1.0) for kind in tiny.KINDS), *WRONG])
def test_code_that_computes_otherwise_trains_nothing(
    kind: str, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looking changes nothing: not the batches, nor what they are made of."""
    trusted = factor == 1.0
    weights, _ = tiny.phase(kind, tmp_path / "eager", steps=2)
    monkeypatch.setattr(torch, "compile", wrong(factor))
    events: list[Any] = []
    made, metrics = tiny.phase(kind, tmp_path / "compiled", emit=events.append, steps=2, compile="on")
    told = [event["message"] for event in events if event["event"] == "warning"]
    assert any("computes something else" in one for one in told) is not trusted, told
    assert metrics["compiled"] is trusted
    assert tiny.same(weights, made)


@pytest.mark.parametrize(("filled", "wanted"), [(1.0, True), (0.9, True), (0.6, False), (0.17, False)])
def test_padding_that_compiled_code_computes_is_counted_before_compiling(filled, wanted):
    """DPO on pairs of 86 tokens in two rows of 256 was compiled into six times the work."""
    assert pays("auto", 1e15, 100e9, filled) is wanted
    assert pays("on", 1.0, 100e9, filled) and not pays("off", 1e15, 100e9, filled)

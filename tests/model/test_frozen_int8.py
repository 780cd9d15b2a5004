"""Rounded weights under adapters: the way back has the same gradients and keeps no floats of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trivium.model.int8 import Int8Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_what_waits_for_the_way_back_is_integers(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    layer = Int8Linear.of(torch.nn.Linear(48, 32, bias=bias))
    x = torch.randn(3, 20, 48, dtype=dtype, requires_grad=True)
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    assert {tensor.dtype for tensor in kept if tensor.numel() >= 48 * 32} == {torch.int8}
    gradient = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, x, gradient)
    again = x.detach().requires_grad_()
    plain = F.linear(
        again, layer.dequantised().to(dtype), None if layer.bias is None else layer.bias.to(dtype)
    )
    (theirs,) = torch.autograd.grad(plain, again, gradient)
    close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(y, plain, **close)
    torch.testing.assert_close(ours, theirs, **close)

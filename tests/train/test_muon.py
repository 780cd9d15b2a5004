"""Our Muon beside torch's, and what its iteration makes of a matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trivium.train import muon

JORDAN = (3.4445, -4.775, 2.0315)
SHAPES = [(24, 24), (24, 24), (64, 24), (24, 64), (24, 64)]


@pytest.mark.parametrize("bf16", [False, True])
def test_four_steps_are_torchs(monkeypatch, bf16):
    monkeypatch.setattr(muon, "native_bf16", lambda device: bf16)
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
    optimizer = muon.Muon(ours, lr=0.01, weight_decay=0.1)
    oracle = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for left, right in zip(ours, theirs, strict=True):
            left.grad = torch.randn_like(left)
            right.grad = left.grad.clone()
        ours[1].grad = theirs[1].grad = None  # a matrix that had no part in this step
        optimizer.step()
        oracle.step()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(
            left, right, atol=1e-3, rtol=0
        )  # an update is of 0.01 x 0.2 x 8, and theirs is in bf16
        state, expected = optimizer.state[left], oracle.state[right]
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value)


@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 9))
def test_directions_are_kept_and_their_lengths_made_alike(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    made = muon.orthogonal(matrix[None], JORDAN, 5, 1e-7)[0].float()
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    along = left.T @ made @ right.T
    kept = lengths > 0.02 * lengths.norm()
    assert ((along.diagonal()[kept] > 0.3) & (along.diagonal()[kept] < 1.4)).all()
    assert (along - along.diagonal().diag()).abs().max() < 0.1

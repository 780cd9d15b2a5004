"""What is kept of a teacher, its likeliest tokens and the mass of the others, teaches nearly what all of it teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trivium import imports
from trivium.batches.teacher import WithTop
from trivium.objectives.distill import coarse, distill_loss


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 11), st.sampled_from(["forward", "reverse", "js"]), st.floats(0.1, 30), st.integers(0, 99)
)
def test_a_coarse_divergence_is_at_most_the_whole_one(
    top: int, divergence: Any, sharp: float, seed: int
) -> None:
    """And is it where all tokens but one are told apart; its gradient is finite even where a tail has no mass."""
    draw = torch.Generator().manual_seed(seed)
    student = (sharp * torch.randn(3, 12, generator=draw)).requires_grad_()
    teacher = sharp * torch.randn(3, 12, generator=draw)
    ids = teacher.topk(top).indices
    ours, theirs = coarse(student.log_softmax(-1), ids), coarse(teacher.log_softmax(-1), ids)
    assert torch.allclose(theirs.exp().sum(-1), torch.ones(3), atol=1e-5)
    some = distill_loss(ours, theirs, divergence=divergence)
    whole = distill_loss(student, teacher, divergence=divergence)
    assert (some <= whole + 1e-4 * (1 + whole)).all()
    assert (some >= -1e-5).all()
    if top == 11:
        assert torch.allclose(some, whole, atol=1e-4, rtol=1e-4)
    some.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def taught(folder: Path, **changes: Any) -> list[float]:
    folder.mkdir()
    chat = tiny.chat_tokenizer()
    imports.save(tiny.model(chat.vocab_size, seed=1), chat, folder / "teacher")
    events: list[dict[str, Any]] = []
    tiny.phase("distill", folder, on_policy=0.0, steps=12, emit=events.append, **changes)
    return [event["divergence"] for event in events if event["event"] == "step"]


def test_all_tokens_but_one_teach_what_all_of_them_teach(tmp_path: Path) -> None:
    most = tiny.chat_tokenizer().vocab_size - 1
    whole, kept = taught(tmp_path / "whole"), taught(tmp_path / "kept", teacher_top=most)
    assert kept == pytest.approx(whole, rel=1e-3)
    few = taught(tmp_path / "few", teacher_top=2)
    assert few != pytest.approx(whole, rel=1e-3)
    assert few[0] < whole[0]


def test_the_teacher_reads_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    ask = WithTop._ask
    monkeypatch.setattr(
        WithTop, "_ask", lambda self, batch, numbers: asked.append(len(numbers)) or ask(self, batch, numbers)
    )
    first = taught(tmp_path / "first", teacher_top=8)
    assert len(asked) < 12
    assert len(first) == 12
    assert all(step > 0 for step in first)
    [kept] = tmp_path.rglob("teacher-*.db*")  # closed: sqlite has taken its journal away
    assert kept.suffix == ".db"


def test_own_replies_are_never_read_again() -> None:
    with pytest.raises(ValidationError, match="`teacher_top` keeps"):
        tiny.config("distill", teacher_top=4, on_policy=0.5)

"""Student and teacher are compared by their vocabularies: sizes say nothing, and rows without a token count for nothing."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from pydantic import ValidationError
from random_models import random_model

from trivium import imports
from trivium.errors import ArtifactError
from trivium.model import hf
from trivium.text.chat import ChatTokenizer
from trivium.text.tokenizer import train

STEPS = 3


def padded(model, rows: int):
    """The same model with rows of embeddings that no token has, and that say something."""
    old = model.config.vocab_size
    imports.resize(model, old, rows)
    with torch.no_grad():
        model.model.embed_tokens.weight[old:] = 1.0
    return model


def teacher(folder, rows: int | None = None, chat: ChatTokenizer | None = None) -> None:
    chat = chat or tiny.chat_tokenizer()
    model = tiny.model(tiny.chat_tokenizer().vocab_size, seed=1)
    imports.save(padded(model, rows) if rows else model, chat, folder / "teacher")


@pytest.mark.parametrize(("taught", "teaches"), [(352, None), (None, 352), (352, 320), (352, 352)])
def test_rows_without_a_token_leave_the_curve(tmp_path, taught, teaches):
    student = {"student": tiny.model(tiny.chat_tokenizer().vocab_size)}
    if taught:
        padded(student["student"], taught)
    for name, rows in (("plain", None), ("padded", teaches)):
        (tmp_path / name).mkdir()
        teacher(tmp_path / name, rows)
    plain = tiny.phase("distill", tmp_path / "plain", steps=STEPS, on_policy=0.0)[1]
    found = tiny.phase(
        "distill", tmp_path / "padded", steps=STEPS, on_policy=0.0, network=student["student"]
    )[1]
    for (step, ours), (_, theirs) in zip(found["curve"], plain["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4), step


def test_another_vocabulary_of_the_same_size_is_refused(tmp_path):
    texts = [json.dumps(record) for record in tiny.records("dpo")]
    other = ChatTokenizer(train(texts * 2, tiny.chat_tokenizer().vocab_size))
    teacher(tmp_path, chat=other)
    assert hf.read_config(tmp_path / "teacher").config.vocab_size == tiny.chat_tokenizer().vocab_size
    with pytest.raises(ArtifactError, match="the teacher has another vocabulary"):
        tiny.phase("distill", tmp_path, steps=STEPS)


def test_a_student_learns_from_a_teacher_with_another_tokenizer(tmp_path):
    them = ChatTokenizer(train([json.dumps(record) for record in tiny.records("dpo")] * 2, 290))
    imports.save(random_model(them.vocab_size), them, tmp_path / "teacher")
    events: list[dict[str, object]] = []
    tiny.phase("distill", tmp_path, match="text", on_policy=0.0, lr=1e-2, steps=30, emit=events.append)
    steps = [event for event in events if event["event"] == "step"]
    assert sum(event["loss"] for event in steps[-5:]) < 0.9 * sum(event["loss"] for event in steps[:5])
    assert all(event["aligned"] > 0.9 for event in steps)


def test_own_replies_and_cut_rows_need_the_same_tokens():
    for other in ({"on_policy": 0.5}, {"on_policy": 0.0, "parallel": {"context": 2}}):
        with pytest.raises(ValidationError, match="`match: "):
            tiny.config("distill", match="text", **other)

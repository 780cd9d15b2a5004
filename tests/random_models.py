"""Tiny models with random weights, for tests of everything that needs one."""

from __future__ import annotations

from typing import Any

import torch

from trivium.model.config import ModelConfig
from trivium.model.families import from_huggingface
from trivium.model.transformer import Transformer


def random_model(vocab_size: int = 320, *, seed: int = 3, **changes: Any) -> Transformer:
    """A model with logits of a real size: a fresh one would say nearly the same of everything."""
    shape = dict(
        vocab_size=vocab_size,
        dim=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        hidden=64,
        context=64,
        tie_embeddings=False,
    )
    model = Transformer(ModelConfig(**{**shape, **changes}))
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.eval()


def random_gpt2() -> Transformer:
    """The family whose matrices lie the other way round, which no layout of quantised weights has."""
    shape = {"vocab_size": 320, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
    return Transformer(from_huggingface({"model_type": "gpt2", **shape}))

"""What is cut is what mattered least."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import random_model

from trivium.deploy import prune
from trivium.deploy.rows import TokenRow
from trivium.errors import ArtifactError
from trivium.model import hf
from trivium.model.transformer import Transformer
from trivium.plan.cost import estimate
from trivium.recipe.deployment import PruneStage
from trivium.recipe.load import loads
from trivium.text.chat import ChatTokenizer

ROWS = [TokenRow([5 + (n * n + seed) % 300 for n in range(24)], [*range(1, 24)]) for seed in range(3)]


def logits(model: Transformer) -> torch.Tensor:
    ids = torch.tensor([ROWS[0].ids])
    with torch.no_grad():
        hidden = model.hidden(ids, torch.arange(ids.shape[1])[None], None)
    return torch.nn.functional.linear(hidden, model.output_weight)


@pytest.mark.parametrize("changes", [{}, {"window": 5, "windowed": frozenset({0, 2})}, {"mlp_bias": True}])
def test_blocks_and_units_that_do_nothing_are_those_that_go(changes: dict[str, Any]) -> None:
    model = random_model(layers=4, **changes)
    dead = torch.arange(0, model.config.hidden, 2)
    with torch.no_grad():
        for silent in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
            for parameter in silent.parameters():
                parameter.zero_()
        for block in model.model.layers:
            block.mlp.down_proj.weight[:, dead] = 0
    small = prune.pruned(model, ROWS, layers=3, hidden=model.config.hidden // 2)
    assert (small.config.layers, small.config.hidden) == (3, model.config.hidden // 2)
    assert torch.allclose(logits(small), logits(model), atol=1e-4)


def test_a_model_of_the_same_shape_is_the_same() -> None:
    model = random_model()
    assert torch.equal(logits(prune.pruned(model, ROWS, 2, model.config.hidden)), logits(model))


def test_what_cannot_be_pruned_is_refused() -> None:
    with pytest.raises(ArtifactError, match="has 2"):
        prune.pruned(random_model(), ROWS, layers=3)


def test_the_stage_writes_a_checkpoint_and_measures_it(
    checkpoint: Callable[..., Path], chat: ChatTokenizer, tmp_path: Path, write_documents: Any
) -> None:
    source = checkpoint("full", layers=3)
    texts = [f"the cat sees the red ball number {n}." for n in range(8)]
    for split in ("train", "heldout"):
        write_documents(tmp_path / "data" / split, 0, texts)
    config = PruneStage.model_validate(
        {"kind": "prune", "model": "full", "data": "data", "layers": 2, "hidden": 32}
    )
    out = tmp_path / "out"
    out.mkdir()
    found = prune.run(config, source, tmp_path / "data", out, lambda event: None)
    small = hf.load(out)
    assert (small.config.layers, small.config.hidden) == (2, 32)
    assert found["bytes_after"] < found["bytes_before"]
    assert found["outputs"]["pruned"]["kl"] > 0


RECIPE = """
name: small
stages:
  texts: {kind: data, format: documents, sources: [{kind: python-docs}], size: 100K}
  talks: {kind: data, format: conversations, sources: [{kind: primer}], size: 100K}
  vocab: {kind: tokenizer, data: texts, vocab_size: 512}
  base: {kind: pretrain, data: texts, tokenizer: vocab, model: {dim: 64, layers: 4, heads: 4, hidden: 128}, tokens: 10K}
  chat: {kind: sft, init: base, data: talks, epochs: 1}
  cut: {kind: prune, model: chat, data: talks, layers: 2, hidden: 64}
  student: {kind: distill, init: cut, teacher: chat, data: talks, epochs: 1}
"""


def test_a_pruned_student_is_planned_with_its_own_shape() -> None:
    costs = {cost.stage: cost for cost in estimate(loads(RECIPE))}
    assert costs["student"].parameters == costs["cut"].parameters
    assert costs["student"].parameters < costs["chat"].parameters

"""Rotary positions of GGUF files as llama.cpp reads them (`load_hparams`), and counts that make no network."""

from __future__ import annotations

import math
from typing import Any

import families
import pytest

from trivium.errors import ArtifactError
from trivium.model import gguf
from trivium.recipe.network import RopeScaling

pytest.importorskip("gguf")
import test_gguf


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.factor": 1.0}, None),
        ({"scaling.factor": 4.0}, {"kind": "linear", "factor": 4.0}),
        ({"scaling.type": "linear", "scaling.factor": 2.0}, {"kind": "linear", "factor": 2.0}),
        ({"scale_linear": 8.0}, {"kind": "linear", "factor": 8.0}),
        ({"scale_linear": 8.0, "scaling.factor": 2.0}, {"kind": "linear", "factor": 2.0}),
        (
            {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64},
            {"kind": "yarn", "factor": 4.0, "original": 64},
        ),
        (
            {
                "scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 64,
                "scaling.attn_factor": 1.5, "scaling.yarn_beta_fast": 8.0, "scaling.yarn_beta_slow": 2.0,
            },
            {
                "kind": "yarn", "factor": 4.0, "original": 64, "beta_fast": 8.0, "beta_slow": 2.0,
                "attention": 1.5 * (0.1 * math.log(4.0) + 1),
            },
        ),
    ],
)  # fmt: skip
def test_scaling_is_what_llama_cpp_makes_of_the_keys(
    keys: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert gguf._scaling(keys.get) == (None if expected is None else RopeScaling.model_validate(expected))


@pytest.mark.parametrize("kind", ["longrope", "linear"])
def test_what_is_not_known_is_refused(kind: str) -> None:
    keys = {"scaling.type": kind, "scaling.factor": 4.0, "scaling.attn_factor": 2.0}
    with pytest.raises(ArtifactError):
        gguf._scaling(keys.get)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "message"),
    [(0, 2, "`heads` is 0"), (4, 3, "4 heads cannot share 3 key/value heads"), (4, 0, "`kv_heads` is 0")],
)
def test_counts_that_make_no_network(tmp_path, heads, kv_heads, message):
    theirs = families.checkpoint("llama 2", tmp_path / "theirs")
    theirs.config.num_attention_heads, theirs.config.num_key_value_heads = heads, kv_heads
    theirs.state_dict = lambda state=theirs.state_dict(): {  # what the writer would turn by heads is left out
        name: tensor for name, tensor in state.items() if "q_proj" not in name and "k_proj" not in name
    }
    path = tmp_path / "broken.gguf"
    theirs.config.head_dim = 8
    test_gguf.write(theirs, "llama", path)
    reader = gguf.open_file(path)
    with pytest.raises(ArtifactError, match=message):
        gguf.read([reader], gguf.metadata(reader), path)

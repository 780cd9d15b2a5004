"""How replies are drawn where nobody says otherwise, held against what transformers makes of the same file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.deploy.quantize import quantize
from trivium.errors import ArtifactError
from trivium.model import generation
from trivium.recipe.network import Generation

generations = st.builds(
    Generation,
    temperature=st.just(0.0) | st.floats(0.01, 3),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 100),
    max_new_tokens=st.integers(1, 10_000),
)


def written(folder, entries) -> None:
    (folder / generation.FILE).write_text(json.dumps(entries), encoding="utf-8")


@given(said=generations)
def test_transformers_draws_with_the_same_values(tmp_path_factory, said):
    from transformers import GenerationConfig

    folder = tmp_path_factory.mktemp("checkpoint")
    written(folder, {"eos_token_id": 3, **generation.entries(said)})
    theirs = GenerationConfig.from_pretrained(folder)
    theirs.validate(strict=True)
    assert theirs.max_new_tokens == said.max_new_tokens
    assert bool(theirs.do_sample) is (said.temperature > 0)
    ours = generation.read(folder)
    assert ours is not None
    if said.temperature > 0:
        assert (theirs.temperature, theirs.top_p, theirs.top_k) == (said.temperature, said.top_p, said.top_k)
        assert ours == said
    else:
        assert (ours.temperature, ours.max_new_tokens) == (0, said.max_new_tokens)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"eos_token_id": 3, "temperature": None}, None),
        ({"do_sample": False, "temperature": 0.9}, Generation(temperature=0)),
        ({"do_sample": True}, Generation(temperature=1)),
        ({"temperature": 0.6, "top_k": 20}, Generation(temperature=0.6, top_k=20)),
        ({"max_new_tokens": 9}, Generation(max_new_tokens=9)),
    ],
)
def test_what_files_of_others_mean(tmp_path, entries, expected):
    written(tmp_path, entries)
    assert generation.read(tmp_path) == expected


@pytest.mark.parametrize("entries", [{"temperature": -1}, {"top_p": 0}, {"top_k": "many"}, [1]])
def test_values_that_mean_nothing_are_told(tmp_path, entries):
    written(tmp_path, entries)
    with pytest.raises(ArtifactError, match=r"generation_config\.json"):
        generation.read(tmp_path)


def test_quantize_carries_it_over_or_sets_it(checkpoint, tmp_path):
    source = checkpoint()
    quantize(source, tmp_path / "silent")
    assert generation.read(tmp_path / "silent") is None
    written(source, {"eos_token_id": 3, **generation.entries(Generation(temperature=0.3))})
    quantize(source, tmp_path / "carried")
    assert generation.read(tmp_path / "carried") == Generation(temperature=0.3)
    quantize(source, tmp_path / "own", generation=Generation(temperature=0))
    assert generation.read(tmp_path / "own") == Generation(temperature=0)

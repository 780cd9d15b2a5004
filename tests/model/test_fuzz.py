"""Model files and recipes of strangers, with bytes changed, cut or put in: what loads loads, the rest is an error for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import families
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model
from test_gguf import write

from trivium.errors import ArtifactError, RecipeError, TriviumError
from trivium.model import gguf, hf
from trivium.recipe.load import loads
from trivium.recipe.schema import starter

Change = Callable[[bytes], bytes]
PLACES = st.floats(0, 1, exclude_max=True)


@st.composite
def changes(draw: st.DrawFn, head: int = 1 << 62) -> Change:
    """A few bytes set, cut away or put in, mostly in the first `head` bytes: lengths, names and offsets stand there."""
    edit = st.tuples(st.sampled_from(["set", "cut", "add"]), PLACES, st.binary(min_size=1, max_size=9))
    edits = draw(st.lists(edit, min_size=1, max_size=4))

    def change(data: bytes) -> bytes:
        for kind, place, value in edits:
            at = int(place * min(len(data), head))
            rest = {"set": at + len(value), "cut": at + len(value), "add": at}[kind]
            data = data[:at] + (b"" if kind == "cut" else value) + data[rest:]
        return data

    return change


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    hf.save(random_model(), folder, eos=5, pad=1)
    return folder


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        families.checkpoint("qwen2", tmp_path_factory.mktemp("theirs")),
        "qwen2",
        tmp_path_factory.mktemp("fuzz") / "model.gguf",
    )


@settings(deadline=None, max_examples=150)
@given(change=changes(head=2000), name=st.sampled_from([hf.WEIGHTS, "config.json"]))
def test_law_a_changed_checkpoint_loads_or_says_why(safetensors: Path, change: Change, name: str) -> None:
    file = safetensors / name
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    try:
        hf.load(safetensors)
    except TriviumError as error:
        assert error.what
    finally:
        file.write_bytes(whole)


@settings(deadline=None, max_examples=150)
@given(change=changes(head=4000))
def test_law_a_changed_gguf_loads_or_says_why(gguf_file: Path, change: Change) -> None:
    file = gguf_file.with_name("changed.gguf")
    file.write_bytes(change(gguf_file.read_bytes()))
    try:
        readers = gguf.open_parts(file)
        gguf.read(readers, gguf.metadata(readers[0]), file)
    except TriviumError as error:
        assert error.what


def test_text_in_a_gguf_that_is_no_text_is_named(gguf_file: Path) -> None:
    file = gguf_file.with_name("no-text.gguf")
    file.write_bytes(gguf_file.read_bytes().replace(b"endfor", b"\x80ndfor", 1))
    with pytest.raises(ArtifactError, match=r"tokenizer\.chat_template .* cannot be read"):
        gguf.open_parts(file)


@settings(deadline=None, max_examples=150)
@given(change=changes())
def test_law_a_changed_recipe_is_one_or_says_why(change: Change) -> None:
    text = change(starter("mine").encode()).decode("utf-8", "replace")
    try:
        loads(text)
    except RecipeError as error:
        assert error.what


@settings(deadline=None, max_examples=150)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["name", "seed", "stages", "kind", "a", "data", "sources", "init"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_law_whatever_is_yaml_is_a_recipe_or_a_mistake_that_is_said(value: object) -> None:
    import yaml

    try:
        loads(yaml.safe_dump(value))
    except RecipeError as error:
        assert error.what

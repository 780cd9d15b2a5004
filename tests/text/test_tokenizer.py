"""The tokenizer: any text round-trips, digits are single, user text is never special, transformers agrees."""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from trivium.errors import ArtifactError, DataError
from trivium.text import tokenizer as tk
from trivium.text.guarded import Guarded

TEXTS = Path(argparse.__file__).read_text(encoding="utf-8").split("\n\n")
SPELT = st.lists(st.one_of(st.text(), st.sampled_from([*tk.SPECIAL, "<|", "|>", "<"]))).map("".join)
TRAINED = tk.train(TEXTS, 400)
GUARD = Guarded(TRAINED, tk.SPECIAL)


def test_special_tokens_come_first_and_the_size_is_exact() -> None:
    assert [TRAINED.token_to_id(token) for token in tk.SPECIAL] == list(range(6))
    assert TRAINED.get_vocab_size() == 400


@given(SPELT)
def test_any_text_round_trips_and_is_never_special(text: str) -> None:
    ids = GUARD.plain(text)
    assert TRAINED.decode(ids, skip_special_tokens=False) == text
    assert all(number >= len(tk.SPECIAL) for number in ids)


@given(st.lists(SPELT, max_size=4))
def test_a_batch_is_its_texts(texts: list[str]) -> None:
    assert GUARD.plain_batch(texts) == [GUARD.plain(text) for text in texts]


def test_digits_stay_single() -> None:
    tokens = [TRAINED.id_to_token(number) for number in GUARD.plain("f12 190")]
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("12190")


def test_threads_do_not_disturb_each_other() -> None:
    texts = [f"{i} <|end|> fox {i}" for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: GUARD.plain(text), texts))
    assert found == [GUARD.plain(text) for text in texts]


def test_too_little_text_says_how_many_tokens_it_gives() -> None:
    with pytest.raises(DataError, match=r"the data gives \d+ tokens") as caught:
        tk.train(["short"], 1000)
    assert "vocab_size: 1000" in caught.value.where


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Path]:
    tk.save(TRAINED, tmp_path, "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}", 256)
    yield tmp_path


def test_saved_and_loaded_it_is_the_same(saved: Path) -> None:
    assert tk.load(saved).to_str() == TRAINED.to_str()


def test_transformers_loads_the_same_tokenizer(saved: Path) -> None:
    transformers = pytest.importorskip("transformers")
    auto = transformers.AutoTokenizer.from_pretrained(saved)
    for text in ["The quick fox 123", " spaces , kept ", "naïve\n\n\tcafé 😀"]:
        assert auto.encode(text, add_special_tokens=False) == GUARD.plain(text)
        assert auto.decode(auto.encode(text, add_special_tokens=False)) == text
    assert (auto.eos_token, auto.pad_token, auto.model_max_length) == ("<|end|>", "<|pad|>", 256)
    assert set(auto.all_special_tokens) == set(tk.SPECIAL)
    chat = auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|user|>hi<|end|>"


def test_a_missing_or_damaged_file_is_an_artifact_error(saved: Path) -> None:
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        tk.load(saved)
    (saved / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        tk.load(saved)


def test_training_is_reproducible() -> None:
    again: Tokenizer = tk.train(TEXTS, 400)
    assert again.to_str() == TRAINED.to_str()


def test_vocabularies_are_compared_and_not_their_sizes(tmp_path: Path) -> None:
    ours = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    for name, words in (
        ("same", {"a": 0, "b": 1}),
        ("padded", {"a": 0, "b": 1, "<pad>": 2}),
        ("turned", {"a": 1, "b": 0}),
    ):
        (tmp_path / name).mkdir()
        Tokenizer(models.WordLevel(words, unk_token="a")).save(str(tmp_path / name / "tokenizer.json"))
    tk.check_same(ours, tmp_path / "same", "the reward model", rows=2)
    tk.check_same(ours, tmp_path / "padded", "the reward model", rows=352)  # rows that no token has
    with pytest.raises(ArtifactError, match="2 of 2 tokens"):
        tk.check_same(ours, tmp_path / "turned", "the reward model", rows=2)
    with pytest.raises(ArtifactError, match="3 tokens and the policy 2"):
        tk.check_same(ours, tmp_path, "the reward model", rows=3)  # nothing to compare but the sizes

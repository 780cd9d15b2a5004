"""The table of words gives what the tokenizer gives, for any text; where it cannot know, it asks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from trivium.text import tokenizer, words
from trivium.text.chat import ChatTokenizer
from trivium.text.words import DocumentEncoder

TRAINED = tokenizer.train(
    [
        "the cat's 12 dogs  see\n\n    it, don't they?  aaaa 한국어 été ١٢ x\u00a0y",
        "def f(x):\n\treturn 'x' * 10",
    ]
    * 3,
    300,
)
CHAT = ChatTokenizer(TRAINED)
ENCODER = DocumentEncoder(CHAT)
TEXT = st.lists(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \n\t\r\x0b\x1c\x85\u00a0\u2009\u200b\u3000'0129aàZ_<|>½Ⅷ²٣é́ªα"),
        st.sampled_from(["'s", "'ll", "'LL", " '", "  ", " 1", "\n\n", "<|end|>", "the", "aaa"]),
    )
).map("".join)


def ids(encoded: bytes) -> list[int]:
    return np.frombuffer(encoded, ENCODER.dtype).tolist()


@given(TEXT)
@example("a  1")
@example("  \n 1")
@example("x \U0001f600\U0001f3fb é\u0301 \U0001d400")
def test_the_same_ids_as_the_tokenizer(text: str) -> None:
    assert [ids(one) for one in ENCODER([text, "the cat", text])] == CHAT.documents([text, "the cat", text])


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_every_character_in_every_place(every: int) -> None:
    """Each character of Unicode between letters, digits, white space and marks, where a different cut would show; of those
    far behind, one of `every`."""
    codes = (*range(0x3000), *range(0x3000, 0x110000, every))
    sure = [chr(code) for code in codes if not words._is_unsure(chr(code))]
    assert len(sure) > 60_000 / every
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for first in range(0, len(sure), 4096):
        text = "".join(f"a{c}b {c} 1{c}1  {c}\n'{c}" for c in sure[first : first + 4096])
        cut = [word for word, _ in TRAINED.pre_tokenizer.pre_tokenize_str(text)]
        ours = [bytes_of.pre_tokenize_str(word)[0][0] for word in words.pattern().findall(text)]
        assert ours == cut


def test_the_table_is_used_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "WORDS", 3)
    encoder = DocumentEncoder(CHAT)
    text = "the cat sees the dog " + "z" * 100
    assert ids(encoder([text])[0]) == CHAT.document(text)
    assert set(encoder._words) == {"the", " cat", " sees"}


def test_a_tokenizer_that_cuts_otherwise_is_asked_itself() -> None:
    said = json.loads(TRAINED.to_str())
    said["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False
    other = ChatTokenizer(Tokenizer.from_str(json.dumps(said)))
    encoder = DocumentEncoder(other)
    assert encoder._words is None and [ids(one) for one in encoder(["a 12 b", "a"])] == other.documents(
        ["a 12 b", "a"]
    )

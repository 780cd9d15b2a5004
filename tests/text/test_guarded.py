"""Text of users never becomes a control token, in any tokenizer; documents and conversations say the same."""

from __future__ import annotations

import pytest
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from trivium.errors import ArtifactError
from trivium.text.chat import ChatTokenizer
from trivium.text.special import Special
from trivium.text.tokenizer import load

TEXT = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(zoo.FORGED)), max_size=8).map("".join)


def chat(name: str) -> ChatTokenizer:
    return ChatTokenizer(zoo.ZOO[name](), zoo.TEMPLATE, Special("<|end|>", None, "<|endoftext|>"))


CHATS = {name: chat(name) for name in zoo.ZOO}


@pytest.mark.parametrize("name", zoo.ZOO)
@settings(max_examples=60)
@given(data=st.data())
def test_text_never_yields_a_control_id(name, data):
    made = CHATS[name]
    number = made.tokenizer.token_to_id
    control = {number(token) for token in [*zoo.CONTROL, "§"]} - {None}
    if name != "one character":
        control -= {number("§")}
    said = data.draw(st.lists(TEXT, min_size=1, max_size=3))
    for text, ids in zip(said, made.documents(said), strict=True):
        assert not control & set(ids[:-1]), text
        assert ids[-1] == number("<|endoftext|>")
    turns = [{"role": "user", "content": text} for text in said]
    ids = made.prompt(turns)
    assert ids.count(number("<|start|>")) == len(said) + 1
    assert ids.count(number("<|end|>")) == len(said)
    assert not (control - {number("<|start|>"), number("<|end|>")}) & set(ids)


@pytest.mark.parametrize("name", zoo.ZOO)
@settings(max_examples=40)
@given(text=TEXT)
def test_documents_and_conversations_encode_the_same_text_to_the_same_ids(name, text):
    made = CHATS[name]
    bare = ChatTokenizer(
        made.tokenizer, "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}", made.special
    )
    if name == "taking spaces":  # the marks take the spaces beside them
        text = f"({text})"
    said = bare.encode([{"role": "user", "content": text}]).ids
    assert said[1:-1] == made.document(text)[len(made.begin) : -1]


@pytest.mark.parametrize(
    "name", [name for name in zoo.ZOO if name not in ("unigram", "words", "word pieces")]
)
def test_what_no_one_forged_is_as_the_tokenizer_has_it(name):
    """The whole rendered text, encoded by the tokenizer itself, as transformers does."""
    made = CHATS[name]
    talk = [{"role": "user", "content": "what is <think>four</think>? "}, {"role": "user", "content": " six"}]
    text = "".join(f"<|start|>user\n{turn['content']}<|end|>" for turn in talk)
    for token in zoo.CONTROL:  # transformers adds those that have a job
        if token not in [t.content for t in made.tokenizer.get_added_tokens_decoder().values()]:
            made.tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    assert made.encode(talk).ids == made.tokenizer.encode(text, add_special_tokens=False).ids


def test_a_control_token_that_is_a_byte_is_refused():
    made = Tokenizer(models.BPE({b: n for n, b in enumerate(zoo.BYTES)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("~", special=True), AddedToken("<|end|>", special=True)])
    with pytest.raises(ArtifactError, match="'~' is a byte of ordinary text"):
        ChatTokenizer(made, None, Special("<|end|>")).document("a")


def test_truncation_and_padding_of_a_file_are_not_applied(tmp_path):
    made = zoo.ZOO["byte-level"]()
    made.enable_truncation(16)
    made.enable_padding(length=64, pad_id=0)
    made.save(str(tmp_path / "tokenizer.json"))
    read = ChatTokenizer(load(tmp_path), zoo.TEMPLATE, Special("<|end|>"))
    turn = [{"role": "user", "content": "what is the answer? " * 9}]
    assert read.prompt(turn) == CHATS["byte-level"].prompt(turn)
    assert len(read.prompt(turn)) > 35
    assert read.document("four") == CHATS["byte-level"].document("four")
    assert made.to_str() != read.tokenizer.to_str()  # nor exported

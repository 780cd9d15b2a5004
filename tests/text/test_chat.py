"""The loss mask of a conversation: the assistant's words and nothing else, whatever anybody writes."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer
from trivium.text.tokenizer import SPECIAL, train

TEXTS = Path(argparse.__file__).read_text(encoding="utf-8").split("\n\n")
CHAT = ChatTokenizer(train(TEXTS, 400))
END = CHAT.end
MARKS = {role: CHAT.tokenizer.token_to_id(f"<|{role}|>") for role in ("system", "user", "assistant")}

NASTY = [*SPECIAL, "{{ 7 * 7 }}", "{% generation %}", "{% endgeneration %}", "{% raw %}", "{#", "<|", "|>"]
NASTY += [
    "\ue000",
    "\ue001",
    "\ue002",
    "\ue003",
    "\ue004",
    "\ue005",
    "\ue0040\ue004",
    "\r\n",
    "\n",
    " ",
    "\x00",
]
CONTENT = st.lists(st.one_of(st.text(), st.sampled_from(NASTY))).map("".join)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Co", "Cn", "Cc")))


def conversations(
    content: st.SearchStrategy[str], *, least: int = 0
) -> st.SearchStrategy[list[dict[str, str]]]:
    message = st.fixed_dictionaries({"role": st.sampled_from(list(MARKS)), "content": content})
    return st.lists(message, min_size=least, max_size=6)


def turns(messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    """What the template stands for, written out independently: mark, content, end."""
    ids, mask = [], []
    for message in messages:
        content, learn = CHAT.guard.plain(message["content"]), message["role"] == "assistant"
        ids += [MARKS[message["role"]], *content, END]
        mask += [False] + [learn] * (len(content) + 1)
    return ids, mask


@given(conversations(CONTENT))
def test_loss_falls_on_the_assistants_words_and_their_end_and_nowhere_else(messages):
    encoded = CHAT.encode(messages)
    assert (encoded.ids, encoded.mask) == turns(messages)
    assert sum(number < len(SPECIAL) for number in encoded.ids) == 2 * len(
        messages
    )  # content is never special
    assert CHAT.pad not in encoded.ids


@given(conversations(CONTENT), CONTENT)
def test_a_response_learns_only_the_reply_and_keeps_the_prompt(messages, reply):
    head = CHAT.prompt(messages)
    assert head == [*turns(messages)[0], MARKS["assistant"]]
    whole = CHAT.response(messages, reply)
    assert whole.ids[: len(head)] == head
    assert whole.ids[len(head) :] == [*CHAT.guard.plain(reply), END]
    assert whole.mask == [False] * len(head) + [True] * (len(whole.ids) - len(head))


@pytest.fixture(scope="module")
def transformers_tokenizer(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    CHAT.save(folder, context=64)
    return transformers.AutoTokenizer.from_pretrained(folder)


@given(messages=conversations(PLAIN, least=1))
def test_transformers_makes_the_same_ids_and_mask(transformers_tokenizer, messages):
    made = transformers_tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = CHAT.encode(messages)
    assert made["input_ids"] == encoded.ids
    assert list(map(bool, made["assistant_masks"])) == encoded.mask
    prompt = transformers_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert prompt == CHAT.prompt(messages)


def test_another_template_over_our_own_tokens_learns_the_replies_too():
    """One that a user gives, without generation blocks, for a model that was made here."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    other = ChatTokenizer(CHAT.tokenizer, template)
    talk = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}] * 2
    encoded = other.encode(talk)
    learned = [token for token, weight in zip(encoded.ids, encoded.mask, strict=True) if weight]
    assert CHAT.tokenizer.decode(learned, skip_special_tokens=False) == "c d<|end|>c d<|end|>"
    assert other.encode(talk, learn="none").ids == encoded.ids and not any(other.encode(talk[:1]).mask)


def test_saved_and_loaded_the_template_is_the_same(tmp_path):
    template = "{% for m in messages %}<|user|>{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ChatTokenizer(CHAT.tokenizer, template).save(tmp_path, context=64)
    loaded = ChatTokenizer.load(tmp_path)
    assert loaded.template == template
    assert loaded.encode([{"role": "user", "content": "hi"}]).mask == [False, True, True]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "tool", "content": "x"}, "unknown role: tool"),
        ({"role": "", "content": "x"}, "unknown role: "),
        ({"role": None, "content": "x"}, "unknown role: None"),
        ({"content": "x"}, "unknown role"),
        ({"role": "user"}, "no text: None"),
        ({"role": "user", "content": None}, "no text: None"),
        ({"role": "user", "content": "\ud800"}, r"no text: '\\ud800'"),
    ],
)
def test_what_is_no_conversation_is_a_data_error(message, said):
    with pytest.raises(DataError, match=said):
        CHAT.encode([message])


def test_a_broken_template_is_a_data_error():
    with pytest.raises(DataError, match="no valid jinja"):
        ChatTokenizer(CHAT.tokenizer, "{% generation %}")


def test_a_template_cannot_reach_python():
    with pytest.raises(DataError, match="refuses"):
        ChatTokenizer(CHAT.tokenizer, "{{ messages.__class__.__mro__ }}").encode([])


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("{{ messages | length }}<|assistant|>", "token 0 differs"),
        ("{% if add_generation_prompt %}<|user|><|user|>{% else %}<|user|>{% endif %}", "token 1 differs"),
    ],
)
def test_a_template_that_moves_the_prompt_is_refused_with_the_place(template, place):
    with pytest.raises(DataError, match=place):
        ChatTokenizer(CHAT.tokenizer, template).response([{"role": "user", "content": "hi"}], "x")


def test_a_tokenizer_without_the_special_tokens_is_a_data_error():
    from tokenizers import models

    with pytest.raises(DataError, match="no token <|end|>".replace("|", r"\|")):
        ChatTokenizer(Tokenizer(models.BPE()))


def test_threads_may_share_a_chat_tokenizer():
    talks = [
        [{"role": "user", "content": f"q {i}" * 9}, {"role": "assistant", "content": f"a {i}"}]
        for i in range(400)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert [tuple(found) for found in pool.map(CHAT.encode, talks)] == [turns(talk) for talk in talks]


@given(st.lists(CONTENT, max_size=3))
def test_documents_end_with_the_end_of_text_and_hold_no_other_special_token(texts):
    for text, ids in zip(texts, CHAT.documents(texts), strict=True):
        assert ids == [*CHAT.guard.plain(text), CHAT.end_of_text]
        assert all(number >= len(SPECIAL) for number in ids[:-1])
        assert CHAT.decode(ids) == text

"""Turns of a conversation: where a reply ends, which turns are learnt, and what beside text a turn may hold."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from test_foreign import CHATML, TALK, byte_level, learnt
from tokenizers import AddedToken
from transformers import AutoTokenizer

from trivium.errors import DataError
from trivium.text.chat import ChatTokenizer
from trivium.text.special import Special

THINKS = (  # as Qwen3: thoughts stay only behind the last question
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}{% for m in messages %}{% set thoughts = m.reasoning_content or '' %}{% set said = m.content or '' %}"
    "{% if not thoughts and '</think>' in said %}{% set thoughts = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if loop.index0 > ns.last and (loop.last or thoughts) %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}{{ said }}"
    "{% for call in m.tool_calls or [] %}\n<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ said }}</tool_response><|im_end|>\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ said }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAGGED_TOOLS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.reasoning_content }}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
]
CALLED = [
    {"role": "user", "content": "what is 2 + 2?"},
    {"role": "assistant", "content": None, "reasoning_content": "add them",
     "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "2"}}}]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "four"},
]  # fmt: skip


def base(template: str = CHATML) -> ChatTokenizer:
    """As Qwen's base models: the tokenizer ends texts in one token, the template turns in another."""
    return ChatTokenizer(byte_level(), template, Special("<|endoftext|>"))


def test_the_token_that_ends_a_turn_is_a_stop():
    made = base()
    end = made.tokenizer.token_to_id("<|im_end|>")
    assert made.turn_end == ("<|im_end|>", "<|im_end|>")
    assert (made.end, made.stops[0]) == (end, end)
    assert made.tokenizer.token_to_id("<|endoftext|>") in made.stops
    assert learnt(made, TALK) == ["four<|im_end|>", "\n\nsix<|im_end|>"]
    assert made.pad != end


@pytest.mark.parametrize(
    ("template", "text", "token"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "", None),
        ("{% for m in messages %}{{ m.content }}</turn>\n{% endfor %}", "</turn>", None),
        ("{% for m in messages %}{{ m.content }} <|im_end|>\n{% endfor %}", "<|im_end|>", "<|im_end|>"),
    ],
)
def test_what_a_template_writes_behind_a_reply(template, text, token):
    made = base(template)
    assert made.turn_end == (text, token)
    assert made.tokenizer.token_to_id("<|endoftext|>") in made.stops


def test_history_that_is_rendered_otherwise():
    """Prompts and replies after thoughts; both turns of a conversation are learnt as the one full text has them."""
    made = base(THINKS)
    first = {"role": "assistant", "content": "<think>\n2 and 2\n</think>\n\nfour"}
    talk = [TALK[0], first, TALK[2]]
    prompt = made.prompt(talk)
    assert "2 and 2" not in made.tokenizer.decode(prompt)
    encoded = made.response(talk, "<think>\nadd\n</think>\n\nsix")
    assert encoded.ids[: len(prompt)] == prompt
    assert not any(encoded.mask[: len(prompt)])
    whole = [*talk, {"role": "assistant", "content": "<think>\nadd\n</think>\n\nsix"}]
    assert learnt(made, whole) == ["four<|im_end|>", "<think>\nadd\n</think>\n\nsix<|im_end|>"]
    assert learnt(made, whole[:2]) == ["<think>\n2 and 2\n</think>\n\nfour<|im_end|>"]


ENDS_OTHERWISE = (  # as Phi-3: the end of the text stands behind the last turn
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
SEVERAL = (  # as TRL has it for training: a block a turn, and one for the end of the text
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% elif messages[-1].role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}"
    "{% endif %}"
)
PARTS = (  # as models that see
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_every_turn_learns_its_end_where_more_stands_behind_the_last():
    made = base(ENDS_OTHERWISE)
    assert learnt(made, TALK) == ["four<|im_end|>", "\n\nsix<|im_end|>\n<|endoftext|>"]
    assert made.end == made.tokenizer.token_to_id("<|im_end|>")


def test_a_block_beyond_one_a_turn_carries_the_weight_of_its_turn():
    made = base(SEVERAL)
    prompt, answered = made.prompt(TALK[:3]), made.response(TALK[:3], "six")
    assert answered.ids[: len(prompt)] == prompt
    assert learnt(made, TALK) == ["four<|im_end|>", "\n\nsix<|im_end|>", "<|endoftext|>"]
    said = [number for number, learn in zip(answered.ids, answered.mask, strict=True) if learn]
    assert made.tokenizer.decode(said, skip_special_tokens=False) == "six<|im_end|><|endoftext|>"
    first = made.encode([TALK[0], TALK[1] | {"weight": 0.5}, *TALK[2:]])
    assert [weight for weight in dict.fromkeys(first.mask) if weight] == [0.5, 1]


def test_a_template_that_reads_parts_is_given_parts():
    """A text in their place would be written nowhere, without a word."""
    made = base(PARTS)
    assert "what is 2 + 2?<|im_end|>" in made.tokenizer.decode(
        made.prompt(TALK[:1]), skip_special_tokens=False
    )
    assert learnt(made, TALK) == [" four<|im_end|>", " \n\nsix<|im_end|>"]
    assert made.end == made.tokenizer.token_to_id("<|im_end|>")


IN_USE = Path(str(find_spec("trl").origin)).parent / "chat_templates" if find_spec("trl") else Path("none")
UNLIKE = "deepseek|nemotron|qwen3_5_nothink_training|qwen3_[568]\\w*_training"
"""Prompts of theirs open thoughts, and their conversations have none or others: replies to a prompt are refused."""


@pytest.mark.parametrize("path", sorted(IN_USE.glob("*.jinja")), ids=lambda path: path.stem)
def test_templates_in_use_write_the_question_and_learn_the_reply(path):
    template, tokenizer = path.read_text(encoding="utf-8"), byte_level()
    names = set(re.findall(r"<\|\w+\|>|<\w+\|?>|<\|\w+>|</s>|<｜[^｜]+｜>", template)) - set(
        tokenizer.get_vocab()
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in sorted(names)])
    made = ChatTokenizer(tokenizer, template, Special("<|endoftext|>", "<|endoftext|>"))
    talk = TALK[:3]
    prompt = made.prompt(talk)
    written = made.tokenizer.decode(prompt, skip_special_tokens=False)
    assert all(turn["content"] in written for turn in talk)
    if re.match(UNLIKE, path.stem):
        with pytest.raises(DataError, match="does not keep the prompt as a prefix"):
            made.response(talk, "seven")
        return
    answered = made.response(talk, "seven")
    assert answered.ids[: len(prompt)] == prompt and not any(answered.mask[: len(prompt)])
    said = [number for number, learn in zip(answered.ids, answered.mask, strict=True) if learn]
    assert "seven" in made.tokenizer.decode(said)
    assert made.turn_end.token is None or made.end in said


def test_tools_calls_and_thoughts_reach_the_template(tmp_path):
    made = base(THINKS)
    made.save(tmp_path, context=99)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(CALLED, tools=TOOLS, return_dict=False)
    encoded = made.encode(CALLED, tools=TOOLS)
    assert encoded.ids == expected
    pieces = [p for p in theirs.decode(encoded.ids).split("<|im_end|>") if "add them" in p]
    assert len(pieces) == 1
    as_text = [dict(turn) for turn in CALLED]
    call = {"name": "add", "arguments": '{"a": 2, "b": "2"}'}
    as_text[1]["tool_calls"] = [{"type": "function", "function": call}]
    assert made.encode(as_text, tools=TOOLS) == encoded  # arguments in a string, as APIs give them
    taught = "".join(learnt_of(made, encoded))
    assert "add them" in taught
    assert '"arguments"' in taught
    assert "tool_response" not in taught


def learnt_of(made, encoded):
    return [made.tokenizer.decode([n], skip_special_tokens=False) for n, m in zip(*encoded, strict=True) if m]


def test_masks_are_those_of_transformers_with_tools_and_thoughts(tmp_path):
    made = base(TAGGED_TOOLS)
    made.save(tmp_path, context=99)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    talk = [dict(turn, content=turn["content"] or "") for turn in CALLED]
    said = theirs.apply_chat_template(talk, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True)
    encoded = made.encode(talk, tools=TOOLS)
    assert encoded.ids == said["input_ids"]
    assert list(map(bool, encoded.mask)) == list(map(bool, said["assistant_masks"]))


@pytest.mark.parametrize(
    "template", [CHATML, TAGGED_TOOLS, THINKS, None], ids=["plain", "tagged", "thinks", "ours"]
)
def test_weights_of_turns_and_the_last_turn_only(template, request):
    made = request.getfixturevalue("chat") if template is None else base(template)
    talk = [TALK[0], dict(TALK[1], weight=0), TALK[2], dict(TALK[3], weight=0.5)]
    plain, weighted, last = made.encode(TALK), made.encode(talk), made.encode(TALK, learn="last")
    assert plain.ids == weighted.ids == last.ids
    places = [n for n, m in enumerate(plain.mask) if m]
    second = next(n for n, (a, b) in enumerate(pairwise(places), 1) if b != a + 1)
    assert [weighted.mask[n] for n in places] == [0] * second + [0.5] * (len(places) - second)
    assert [last.mask[n] for n in places] == [0] * second + [1] * (len(places) - second)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"reasoning_content": "hm"}, "does not write `reasoning_content`"),
        ({"tool_calls": [{"function": {"name": "add"}}]}, "does not write `tool_calls`"),
        ({"audio": "x"}, "the field `audio` is not supported"),
        ({"weight": -1}, "`weight` is -1"),
        ({"weight": float("nan")}, "`weight` is nan"),
        ({"content": [{"type": "image", "url": "x"}]}, "of the type 'image'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(turn, said):
    with pytest.raises(DataError, match=said):
        base().encode([TALK[0], {**TALK[1], **turn}])


def test_tools_that_no_template_writes_are_refused(chat):
    for made in (base(), chat):
        with pytest.raises(DataError, match="does not write `tools`"):
            made.prompt(TALK[:1], tools=TOOLS)


def test_content_in_parts_is_text_and_missing_fields_are_missing():
    made = base()
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "what is "}, {"type": "text", "text": "2 + 2?"}],
    }
    assert made.encode([parts, TALK[1]]) == made.encode(TALK[:2])
    assert made.encode([{**TALK[0], "tool_calls": None, "weight": None}]) == made.encode(TALK[:1])

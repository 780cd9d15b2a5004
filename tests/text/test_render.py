"""Chat templates of others: what transformers renders, within limits that no template gets out of."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_foreign import CHATML, FORGETS, TAGGED, TALK, byte_level, chat

from trivium.errors import ArtifactError, DataError
from trivium.text import render
from trivium.text.chat import ChatTokenizer

BOMBS = [
    "{{ 'a' * 50000000000 }}",
    "{{ 'a'.ljust(50000000000) }}",
    "{{ 'a'.center(50000000000) }}",
    "{{ 'a'.zfill(50000000000) }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{{ 10 ** 1000000000 }}",
    "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_a_template_that_asks_for_the_whole_machine_is_an_error_and_the_next_one_works(template):
    with pytest.raises(DataError, match=r"memory|works for more|refuses"):
        chat(template).encode(TALK)
    assert chat().encode(TALK[:1]).ids


def test_a_template_that_takes_its_whole_time_is_asked_once(monkeypatch):
    asked = []
    ask = render._WORKER.ask
    monkeypatch.setattr(render._WORKER, "ask", lambda message: asked.append(message) or ask(message))
    for _ in range(2):  # as two readers of one checkpoint
        made = chat("{% for a in range(99999) %}{% for b in range(99998) %}{% endfor %}{% endfor %}")
        assert made.turn_end.token is None
        with pytest.raises(DataError, match="works for more"):
            made.encode(TALK)
    assert len(asked) == 1


def test_ctrl_c_is_not_for_the_process():
    """A terminal sends it to the whole group; a process that took it wrote its traceback there."""
    code = (
        "import os, signal; from trivium.text.render import _WORKER\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "for _ in range(2): print(_WORKER.ask(['{{ a }}', {'a': 'rendered'}])['text']); os.killpg(0, signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("rendered\nrendered\n", "")


def test_a_conversation_that_takes_its_whole_time_says_nothing_of_the_next():
    work = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    made = chat(f"{{% if 'slow' in messages[0].content %}}{work}{{% endif %}}{{{{ messages[0].content }}}}")
    with pytest.raises(DataError, match="works for more"):
        made.encode([{"role": "user", "content": "slow"}])
    assert made.encode([{"role": "user", "content": "quick"}]).ids


def test_what_formats_is_allowed():
    made = chat("{{ 'a%sc' % 'b' }}{{ '%d|%s' | format(1, 'x') }}{{ '{}'.format(2) }}{{ 'a'.ljust(3) }}.")
    assert made.tokenizer.decode(made.encode(TALK).ids) == "abc1|x2a  ."


def test_the_date_is_always_the_same():
    made = chat("{{ strftime_now('%d %b %Y') }}")
    assert made.tokenizer.decode(made.encode([]).ids) == "26 Jul 2024"
    guarded = chat("{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% else %}never{% endif %}")
    assert guarded.tokenizer.decode(guarded.encode([]).ids) == "2024-07-26"


def test_tojson_keeps_its_arguments(tmp_path):
    from transformers import AutoTokenizer

    made = chat("{{ messages | tojson(indent=2, sort_keys=true) }}{{ messages[0] | tojson(separators=(',', ':')) }}"
                "{{ messages[0].content | tojson(ensure_ascii=true) }}")  # fmt: skip
    talk = [{"role": "user", "content": 'é "<" '}]
    made.save(tmp_path, context=9)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert made.encode(talk).ids == theirs.apply_chat_template(talk, return_dict=False)


def test_a_spelt_control_token_stays_text_in_ascii_json_too():
    made = chat("<|im_start|>{{ messages[0].content | tojson(ensure_ascii=true) }}<|im_end|>")
    ids = made.encode([{"role": "user", "content": "é<|im_end|>"}]).ids
    assert ids.count(made.end) == 1
    assert made.tokenizer.decode(ids) == '"\\u00e9<|im_end|>"'


def _folder(tmp_path, template, **more):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": template, **more}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_templates_by_name(tmp_path, kind):
    named = {"default": "plain", "tool_use": "{{ tools[0].name }}"}
    listed = [{"name": name, "template": text} for name, text in named.items()]
    made = ChatTokenizer.load(_folder(tmp_path, named if kind == "dict" else listed))
    made.save(tmp_path / "again", context=9)
    for read in (made, ChatTokenizer.load(tmp_path / "again")):
        assert read.tokenizer.decode(read.encode(TALK[:1]).ids) == "plain"
        assert read.tokenizer.decode(read.encode(TALK[:1], tools=[{"name": "add"}]).ids) == "add"


def test_named_templates_without_a_default_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="none of the chat templates is the default: rag"):
        ChatTokenizer.load(_folder(tmp_path, [{"name": "rag", "template": "x"}]))


def test_extra_special_tokens_have_names_in_templates_and_are_control(tmp_path):
    folder = _folder(
        tmp_path, "{{ turn_token }}{{ messages[0].content }}", extra_special_tokens={"turn_token": "<think>"}
    )
    made = ChatTokenizer.load(folder)
    made.save(tmp_path / "again", context=9)
    for read in (made, ChatTokenizer.load(tmp_path / "again")):
        ids = read.encode([{"role": "user", "content": "<think>"}]).ids
        assert ids.count(read.tokenizer.token_to_id("<think>")) == 1


def _child(queue):
    queue.put(chat().encode(TALK).ids)


def test_a_forked_process_has_a_renderer_of_its_own():
    expected = chat().encode(TALK).ids
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=600) for _ in children] == [expected, expected]
    for child in children:
        child.join()
    assert chat().encode(TALK).ids == expected


def test_our_own_template_starts_no_process(monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(render.subprocess, "Popen", never)
    monkeypatch.setattr(render._WORKER, "_process", None)
    variables = {"messages": TALK, "_trivium_begin": "", "_trivium_end": ""}
    assert "four" in render.render(render.TEMPLATE, variables)
    with pytest.raises(AssertionError):
        render.render(CHATML, variables)


PIECES = ["{{", "}}", "{%", "%}", "{#", " messages", "[0]", "[-1]", ".content", "['role']", "m", " for m in messages ",
          " endfor ", " if ", " else ", " endif ", "|", "tojson", "~", " * ", "9" * 9, "loop.index", "raise_exception('no')",
          "namespace(a=1)", " ** ", "range(", ")", "(", "'", ".__class__", ".format", " generation ", " endgeneration ",
          " break ", " macro f() ", " endmacro ", "\0", "<|im_end|>", "é"]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4
)


@settings(max_examples=150, deadline=None)
@given(template=st.sampled_from([CHATML, TAGGED, FORGETS]), edits=EDITS)
def test_law_a_changed_template_encodes_or_says_why(template, edits):
    for place, cut, piece in edits:
        at = int(place * len(template))
        template = template[:at] + piece + template[at + cut :]
    try:
        made = chat(template).encode(TALK)
    except (DataError, ArtifactError):
        return
    assert len(made.ids) == len(made.mask)

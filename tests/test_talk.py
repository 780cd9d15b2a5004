"""`trivium chat` with a real (tiny) checkpoint: at a pseudo-terminal, and line by line in this process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium import talk
from trivium.cli import main
from trivium.corpus import records
from trivium.corpus.run import build
from trivium.errors import DataError
from trivium.generate.engine import generate
from trivium.generate.sampling import SamplingParams
from trivium.model import generation, hf
from trivium.recipe.data import DataStage
from trivium.recipe.network import Generation
from trivium.seeds import derive


def lines(*texts: str) -> Callable[[str], str]:
    """Reads these lines, then the end of the input."""
    left = iter(texts)

    def read(_: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    return read


@pytest.fixture
def session(chat, model) -> Callable[..., talk.Session]:
    def make(system: str | None = None, **drawn: float) -> talk.Session:
        generation = Generation.model_validate({"temperature": 1.0, "max_new_tokens": 8, **drawn})
        return talk.Session(model, chat, generation, system=system)

    return make


def said(session: talk.Session) -> list[str]:
    return [message["content"] for message in session.messages if message["role"] != "assistant"]


# ---- what is sent ----------------------------------------------------------------------------------------

words = st.text("ab é😀\n<|end|>", max_size=40)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    system=st.none() | words,
    turns=st.lists(st.tuples(words, words), max_size=6),
    question=words,
    context=st.integers(16, 160),
    most=st.integers(1, 200),
)
def test_what_is_sent_fits_and_holds_the_newest_question_whole(chat, system, turns, question, context, most):
    start = [] if system is None else [{"role": "system", "content": system}]
    older = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    newest = {"role": "user", "content": question}
    needed = len(chat.prompt([*start, newest]))
    if needed >= context:
        with pytest.raises(DataError, match=rf"{needed:,} tokens.*context of {context:,}"):
            talk.fitted(chat, [*start, *older, newest], context, most)
        return
    sent, left_out = talk.fitted(chat, [*start, *older, newest], context, most)
    assert sent == [*start, *older[2 * left_out :], newest]
    ids, whole = chat.prompt(sent), chat.guard.plain(question)
    assert len(ids) < context
    assert any(ids[i : i + len(whole)] == whole for i in range(len(ids)))
    room = min(most, context // 2)
    assert len(ids) + room <= context or not older[2 * left_out :]
    if left_out:  # and no more was left out than had to be
        more = [*start, *older[2 * left_out - 2 :], newest]
        assert len(chat.prompt(more)) + room > context


def test_a_conversation_longer_than_the_context_goes_on_and_says_so(session, capsys):
    talking = session("be kind", max_new_tokens=12)
    talking.run(lines(*(f"the cat {n}" for n in range(6))))
    told = capsys.readouterr().err
    assert said(talking) == ["be kind", *(f"the cat {n}" for n in range(6))]  # all of it is remembered
    assert (
        "the context of 64 tokens is full: the model no longer sees the oldest question and its reply" in told
    )
    assert "the oldest 2 questions and their replies" in told


def test_a_message_that_is_too_long_is_told_and_not_remembered(session, capsys):
    talking = session()
    talking.run(lines("the cat", "x" * 400, "a dog"))
    assert said(talking) == ["the cat", "a dog"]
    assert "too long: with what the template adds it has 40" in (told := capsys.readouterr().err)
    assert "the model's context of 64" in told
    with pytest.raises(DataError, match="too long"):
        talking.reply("x" * 400)


# ---- commands --------------------------------------------------------------------------------------------


def test_a_conversation_keeps_its_turns_until_new(session, capsys):
    talking = session("be kind")
    talking.run(lines("hello", "and then?"))
    assert [message["role"] for message in talking.messages] == ["system", *["user", "assistant"] * 2]
    assert said(talking) == ["be kind", "hello", "and then?"]
    talking.run(lines("/new", "again", "", "never read"))
    assert said(talking) == ["be kind", "again"]
    assert talking.messages[-1]["content"] in capsys.readouterr().out


def test_regenerate_draws_another_reply_and_edit_another_question(session, capsys):
    talking = session(max_new_tokens=20)
    talking.run(lines("hello"))
    first = talking.messages
    talking.run(lines("/regenerate"))
    assert talking.messages[0] == first[0] and len(talking.messages) == 2
    assert talking.messages[1] != first[1]
    talking.run(lines("more", "/edit less"))
    assert said(talking) == ["hello", "less"]
    kept = talking.messages
    talking.run(lines("/edit " + "x" * 400))
    assert talking.messages == kept  # what cannot be asked replaces nothing
    capsys.readouterr()
    session().run(lines("/regenerate", "/edit this", "/save", "/save f", "/nonsense"))
    told = capsys.readouterr()
    assert told.out == ""
    for part in (
        "no question yet",
        "there is none yet",
        "name of a file",
        "nothing was said",
        "no /nonsense",
    ):
        assert part in told.err


def test_a_text_that_begins_like_a_path_is_a_question(session):
    talking = session()
    talking.run(lines("/etc/hosts is what?"))
    assert said(talking) == ["/etc/hosts is what?"]


def test_help_lists_every_command(session, capsys):
    session().run(lines("/help"))
    told = capsys.readouterr().err
    assert all(f"/{name}" in told for name in ("new", "regenerate", "edit", "save", "speed", "help", "quit"))


def test_speed_is_shown_on_request(session, capsys):
    talking = session(temperature=0)
    talking.run(lines("hello", "/speed", "hello"))
    first, _, second = capsys.readouterr().err.partition("tokens a second: shown")
    assert "tokens" not in first
    ids = generate(
        talking.model,
        [talking.tokenizer.prompt(talking.messages[:3])],
        SamplingParams(max_new_tokens=8),
        talking.tokenizer.stops,
    )[0]
    assert f"{len(ids)} tokens, " in second


def test_speed_is_tokens_by_seconds():
    assert talk.speed([(0, 1.0)]) == "0 tokens"
    assert talk.speed([(0, 1.0), (1, 1.5)]) == "1 tokens, 0.50 s to the first"
    assert (
        talk.speed([(0, 1.0), (2, 1.5), (5, 1.75), (12, 2.5)])
        == "12 tokens, 0.50 s to the first, then 10 tokens/s"
    )


def test_what_is_saved_is_read_by_a_source(session, tmp_path, capsys):
    talking = session("be kind")
    file = tmp_path / "talks.jsonl"
    talking.run(lines("the cat é", f"/save {file}", "/new", "a dog", f"/save {file}", f"/save {tmp_path}"))
    assert "could not be saved" in capsys.readouterr().err
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[1] == {"messages": talking.messages}
    stage = DataStage.model_validate(
        {
            "kind": "data",
            "format": "conversations",
            "heldout": 0,
            "sources": [{"kind": "jsonl", "path": file.name}],
        }
    )
    build(stage, seed=1, recipe_folder=tmp_path, out=tmp_path / "out", against={}, emit=lambda _: None)
    read = [row["messages"] for row in records.read(tmp_path / "out" / "train")]
    assert sorted(read, key=str) == sorted((row["messages"] for row in rows), key=str)


# ---- Ctrl-C ----------------------------------------------------------------------------------------------


def test_control_c_stops_the_reply_and_keeps_what_stands_there(session, monkeypatch, capsys):
    talking, real = session(max_new_tokens=30, temperature=0), talk.stream

    def interrupted(*arguments) -> Iterator[str]:
        for number, piece in enumerate(real(*arguments)):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
            yield piece

    talking.run(lines("hello"))
    whole = talking.messages[1]["content"]
    monkeypatch.setattr(talk, "stream", interrupted)
    talking.run(lines("/regenerate"))
    part = talking.messages[1]["content"]
    assert whole.startswith(part) and 0 < len(part) < len(whole)
    assert "stopped; what stands there is kept" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        talking.reply("hello")  # -p: there is nothing to go on with


def test_a_reply_stopped_before_it_began_leaves_no_turn(session, monkeypatch, capsys):
    talking, real = session(), talk.stream
    talking.run(lines("hello"))
    kept = talking.messages
    monkeypatch.setattr(talk, "stream", lambda *_: signal.raise_signal(signal.SIGINT))
    talking.run(lines("and then?"))
    assert talking.messages == kept
    monkeypatch.setattr(talk, "stream", real)
    talking.run(lines("/regenerate"))
    assert said(talking) == ["hello", "and then?"]


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        import pty

        self.end, theirs = pty.openpty()
        code = (
            "import fcntl, sys, termios; from trivium.cli import main\n"
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0); main(sys.argv[1:])"
        )
        self.program = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        os.close(theirs)
        self.text = ""

    def interrupt(self) -> None:
        """Ctrl-C until it has ended: readline does not hear of one that comes just before it waits for keys, which it does
        once it shows what is typed."""
        self.type("x")
        self.until(lambda text: "x" in text)
        for _ in range(10):
            self.type("\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.program.wait(30)
                return

    def until(self, wanted: Callable[[str], bool], seconds: float = 120) -> str:
        """What is shown from here on until it is as `wanted`."""
        self.text, deadline = "", time.monotonic() + seconds
        while not wanted(self.text):
            ready, _, _ = select.select([self.end], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"after {seconds} s, it shows only {self.text[-400:]!r}"
            self.text += os.read(self.end, 4096).decode(errors="replace")
        return self.text

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_at_a_terminal_control_c_stops_the_reply_and_then_the_program(checkpoint):
    folder = checkpoint(context=100_000, layers=1)
    model = hf.load(folder)
    with torch.no_grad():  # a model that never ends its reply
        model.lm_head.weight[:6] = 0
    hf.save(model, folder, eos=3, pad=0, generation=Generation(temperature=0, max_new_tokens=90_000))
    terminal = Terminal("chat", str(folder))
    try:
        terminal.until(lambda text: text.endswith("> "))
        terminal.type("the cat\n")
        terminal.until(lambda text: len(text) > 40)
        terminal.type("\x03")
        assert "stopped; what stands there is kept" in terminal.until(lambda text: text.endswith("\n> "))
        terminal.type("/save " + str(folder / "talk.jsonl") + "\n")
        assert "2 messages" in terminal.until(lambda text: text.endswith("\n> "))
        terminal.interrupt()
        assert terminal.program.wait(300) == 128 + signal.SIGINT
    finally:
        terminal.program.kill()
        os.close(terminal.end)
    reply = json.loads((folder / "talk.jsonl").read_text(encoding="utf-8"))["messages"][1]["content"]
    assert len(reply) > 10


# ---- how replies are drawn -------------------------------------------------------------------------------


def test_replies_are_drawn_as_the_checkpoint_says_unless_the_command_line_does(checkpoint, chat, capsys):
    folder = checkpoint()
    hf.save(
        hf.load(folder), folder, eos=chat.end, pad=chat.pad,
        generation=Generation(temperature=0.5, top_p=0.9, top_k=7, max_new_tokens=6),
    )  # fmt: skip

    def shown(*options: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["chat", str(folder), "-p", "the cat", "--seed", "5", *options])
        assert stop.value.code == 0
        return capsys.readouterr().out

    def drawn(**values: float) -> str:
        sampling = SamplingParams(**values, seed=derive(5, "chat", 0))
        prompt = chat.prompt([{"role": "user", "content": "the cat"}])
        return chat.decode(generate(hf.load(folder), [prompt], sampling, chat.stops)[0]) + "\n"

    assert shown() == drawn(temperature=0.5, top_p=0.9, top_k=7, max_new_tokens=6)
    assert shown("--temperature", "0", "--max-new-tokens", "9") == drawn(temperature=0, max_new_tokens=9)
    hot = ("--temperature", "2", "--top-p", "1", "--top-k", "0", "--max-new-tokens", "20")
    assert shown(*hot) == drawn(temperature=2, max_new_tokens=20)
    (folder / generation.FILE).write_text('{"eos_token_id": 3}')
    assert shown("--max-new-tokens", "9") == drawn(temperature=0.7, max_new_tokens=9)


def test_there_has_to_be_a_checkpoint(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["chat", str(tmp_path)])
    assert stop.value.code == 4
    assert "no checkpoint" in capsys.readouterr().err

"""A conversation with a checkpoint or a server on the terminal: `trivium chat`.

The whole conversation is kept; what is sent to the model is as much of its end as leaves the reply room.
"""

from __future__ import annotations

import json
import re
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trivium.errors import DataError
from trivium.files import append
from trivium.generate.engine import stream
from trivium.generate.sampling import SamplingParams
from trivium.generate.streaming import Streaming
from trivium.model.transformer import Transformer
from trivium.recipe.network import Generation
from trivium.seeds import derive
from trivium.text.chat import ChatTokenizer

Messages = list[dict[str, str]]

HELP = """\
/new          start over
/regenerate   another reply to the last question
/edit TEXT    ask TEXT instead of the last question
/save FILE    add the conversation to FILE, one row of JSON that a `jsonl` source of conversations reads
/speed        show tokens a second after each reply, or stop that
/help         this list
/quit         leave; so do an empty line, Ctrl-D and Ctrl-C; while a reply is written, Ctrl-C stops the reply
"""


def fitted(
    tokenizer: ChatTokenizer, messages: Messages, context: int, max_new_tokens: int
) -> tuple[Messages, int]:
    """(`messages` without as many of the oldest exchanges as must go, how many went).

    An exchange is a question and its reply; the system message and the newest question, which is last, always stay. The reply
    is left `max_new_tokens`, but no more than half of the context, unless the newest question needs that.
    DataError, with both numbers, if what always stays fills the context.
    """
    first = int(messages[0]["role"] == "system")
    exchanges = (len(messages) - first) // 2
    room = min(max_new_tokens, context // 2)

    def kept(left_out: int) -> Messages:
        return messages[:first] + messages[first + 2 * left_out :]

    def fits(left_out: int) -> bool:
        return len(tokenizer.prompt(kept(left_out))) + room <= context

    left_out = bisect_left(range(exchanges), True, key=fits)
    if left_out == exchanges:
        length = len(tokenizer.prompt(kept(left_out)))
        if length >= context:
            around = "the system message and what the template adds" if first else "what the template adds"
            raise DataError(
                f"the message is too long: with {around} it has {length:,} tokens, and the model's context of {context:,} "
                "has to hold the reply, too",
                fix="write a shorter one",
            )
    return kept(left_out), left_out


class Talk:
    """What was said, and how to go on. Replies go to stdout, everything else to stderr. Who speaks is the subclass's affair."""

    temperature: float | None
    """Of the replies; None where the other side decides."""

    def __init__(self, *, system: str | None = None, seed: int = 0) -> None:
        self.seed = seed
        self.start: Messages = [{"role": "system", "content": system}] if system else []
        self.speed = False
        self.asked = 0
        self.new("")

    def run(self, read: Callable[[str], str]) -> None:
        """Turns until an empty line, /quit or the end of the input. What cannot be answered is told, and not remembered."""
        commands: dict[str, Callable[[str], None]] = {
            "/new": self.new,
            "/regenerate": self.regenerate,
            "/edit": self.edit,
            "/save": self.save,
            "/speed": self.toggle_speed,
            "/help": lambda _: tell(HELP.rstrip()),
        }
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                return
            if line in ("", "/quit"):
                return
            word, _, rest = line.partition(" ")
            try:
                if word in commands:
                    commands[word](rest.strip())
                elif re.fullmatch("/[a-z]*", word):
                    tell(f"there is no {word}; /help lists what there is")
                else:
                    self.answer(self.messages, line)
            except DataError as error:
                tell(str(error))

    def new(self, _: str) -> None:
        self.messages: Messages = list(self.start)
        self.before = self.messages
        """The conversation up to the last question."""
        self.question: str | None = None
        self.left_out = 0

    def regenerate(self, _: str) -> None:
        if self.question is None:
            tell("there is no question yet")
            return
        if self.temperature == 0:
            tell("at temperature 0 a whole reply is always the same: `--temperature 0.7` gives others")
        self.answer(self.before, self.question)

    def edit(self, text: str) -> None:
        if self.question is None or not text:
            tell(
                "/edit TEXT asks TEXT instead of the last question"
                + (", and there is none yet") * (not self.question)
            )
            return
        self.answer(self.before, text)

    def save(self, name: str) -> None:
        if not name or self.messages == self.start:
            tell("nothing was said yet" if name else "/save FILE needs the name of a file")
            return
        try:
            append(Path(name).expanduser(), json.dumps({"messages": self.messages}, ensure_ascii=False))
        except OSError as error:
            tell(f"it could not be saved: {error}")
            return
        tell(f"saved: {name}, {len(self.messages)} messages")

    def toggle_speed(self, _: str) -> None:
        self.speed = not self.speed
        tell(f"tokens a second: {'shown' if self.speed else 'not shown'}")

    def answer(self, before: Messages, question: str) -> None:
        """Asks `question` after `before`, and goes on from there. Ctrl-C stops the reply; what it has by then is kept."""
        pieces: list[str] = []
        asked = [*before, {"role": "user", "content": question}]
        try:
            self._write(asked, pieces)
        except KeyboardInterrupt:
            print(flush=True)
            tell("stopped" + ("; what stands there is kept" if pieces else ""))
        self.before, self.question = before, question
        if (reply := "".join(pieces)).strip():
            self.messages = [*asked, {"role": "assistant", "content": reply}]
        else:
            self.messages = before
            tell("there is no reply, so the question is not remembered; /regenerate asks it again")

    def reply(self, question: str) -> None:
        """Writes the reply to one question. DataError if it does not fit."""
        self._write([*self.messages, {"role": "user", "content": question}], [])

    def stream(self, asked: Messages, seed: int, ids: list[int]) -> Iterator[str]:
        """The reply to `asked` in pieces; its tokens are put into `ids` as they come."""
        raise NotImplementedError

    def _write(self, asked: Messages, pieces: list[str]) -> None:
        """Writes the reply to `asked` on stdout, and adds its pieces to `pieces` as they come."""
        # Another seed each time: the same words drawn again would repeat the last reply's luck.
        seed = derive(self.seed, "chat", self.asked)
        self.asked += 1
        ids: list[int] = []
        times = [(0, time.perf_counter())]
        for piece in self.stream(asked, seed, ids):
            pieces.append(piece)
            times.append((len(ids), time.perf_counter()))
            print(piece, end="", flush=True)
        print(flush=True)
        if self.speed:
            tell(speed(times))


class Session(Talk):
    """With a model that is here."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: ChatTokenizer,
        generation: Generation,
        *,
        system: str | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.tokenizer, self.generation = model, tokenizer, generation
        self.temperature = generation.temperature
        super().__init__(system=system, seed=seed)

    def stream(self, asked: Messages, seed: int, ids: list[int]) -> Iterator[str]:
        drawn = self.generation
        messages, left_out = fitted(self.tokenizer, asked, self.model.config.context, drawn.max_new_tokens)
        if left_out > self.left_out:
            tell(
                f"the context of {self.model.config.context:,} tokens is full: the model no longer sees the oldest "
                + ("question and its reply" if left_out == 1 else f"{left_out} questions and their replies")
            )
        self.left_out = left_out
        sampling = SamplingParams(**drawn.model_dump(), seed=seed)
        yield from stream(self.model, self.tokenizer, messages, sampling, ids)


class RemoteSession(Talk):
    """With a model behind OpenAI's protocol, ours or any other; `explicit`: how replies are drawn, as the command line says."""

    def __init__(
        self, server: Streaming, explicit: Mapping[str, Any], *, system: str | None = None, seed: int = 0
    ) -> None:
        self.server, self.explicit, self.temperature = server, explicit, explicit.get("temperature")
        super().__init__(system=system, seed=seed)

    def stream(self, asked: Messages, seed: int, ids: list[int]) -> Iterator[str]:
        for piece in self.server.chat(asked, {**self.explicit, "seed": seed % 2**31}):
            ids.append(-1)  # servers tell no ids; a piece is a token, as far as can be seen from here
            yield piece


def speed(times: Sequence[tuple[int, float]]) -> str:
    """What (tokens so far, seconds) say, the first before the prompt was read: the rate is that of the tokens after the first."""
    (_, asked), (count, end) = times[0], times[-1]
    if len(times) < 2:
        return "0 tokens"
    first, begun = times[1]
    said = f"{count} tokens, {begun - asked:.2f} s to the first"
    return f"{said}, then {(count - first) / (end - begun):,.0f} tokens/s" if count > first else said


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""Conversations to tokens, and the one place where the loss mask of a conversation is made.

The mask comes out of the template itself: what stands between `{% generation %}` and `{% endgeneration %}` is
what the model must learn to say. The template is rendered with marks around those blocks and around every message's
content; the marks split the text into pieces, each piece is encoded on its own, and its tokens carry loss exactly if the
piece lies inside a generation block. Content is encoded by a tokenizer that knows no control tokens, so a message that spells
`<|end|>` cannot end its own turn.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from trivium.errors import DataError
from trivium.text import foreign, special, turns
from trivium.text.guarded import Guarded
from trivium.text.render import TEMPLATE, check, render
from trivium.text.sandbox import BEGIN, END
from trivium.text.special import Special
from trivium.text.tokenizer import SPECIAL, load, save, save_foreign

Message = Mapping[str, Any]
"""A turn: `role`, `content`, and the other fields of `trivium.text.turns.FIELDS`."""


class Encoded(NamedTuple):
    """A conversation as token ids and, for each, the weight of its loss (0: none; False and True are 0 and 1)."""

    ids: list[int]
    mask: Sequence[float]


_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")


@dataclass
class ChatTokenizer:
    """A tokenizer with its chat template: the only way from conversations to ids."""

    tokenizer: Tokenizer
    template: str | None = TEMPLATE
    """None: a base model's tokenizer, which has documents and no conversations."""
    special: Special | None = None
    """The special tokens of a tokenizer that others made; None: the six of `trivium.text.tokenizer`."""

    tool_template: str | None = None
    """The template for conversations with tools, where that is another."""

    def __post_init__(self) -> None:
        for template in (self.template, self.tool_template):
            check(template or "")
        self.begin: list[int] = []  # what a document starts with
        if self.special is None:
            self._id("<|end|>")
            self.end_of_text = self._id("<|end_of_text|>")
            self.pad = self._id("<|pad|>")
        else:
            self.end_of_text = special.document_end(self.tokenizer, self.special)
            self.pad = self._id(self.special.pad or self.special.eos)
            bare = self.tokenizer.encode("a", add_special_tokens=False).ids
            framed = self.tokenizer.encode("a").ids
            self.begin = framed[: framed.index(bare[0])] if bare and bare[0] in framed else []

    @cached_property
    def end(self) -> int:
        """The id that ends a turn: what the template writes there, else the end token that the tokenizer names."""
        if self.special is None:
            return self._id("<|end|>")
        written = self.turn_end.token
        return self._id(self.special.eos if written is None else written)

    @cached_property
    def turn_end(self) -> turns.End:
        """What the template writes behind a reply."""
        return turns.end_of_turn(self._probe, self._known)

    @cached_property
    def guard(self) -> Guarded:
        """The tokenizer that text is encoded with: it knows no control tokens."""
        if self.special is None:
            return Guarded(self.tokenizer, SPECIAL)
        written = turns.openings(self._probe) if self.template else ""
        return Guarded(self.tokenizer, special.control(self.tokenizer, self.special, written))

    @property
    def _known(self) -> list[str]:
        added = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        return added if self.special is None else [*added, *self.special.as_config().values()]

    def _probe(self, messages: Sequence[Message], reply: bool) -> str:
        if self.template is None:
            raise DataError("the tokenizer has no chat template")
        marks = foreign.Marks.fresh()
        text = self._render(messages, reply, marks, probe=True)
        return text.replace(marks.begin, "").replace(marks.end, "")

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a reply, the usual one first."""
        if self.special is None:
            return (self.end, self.end_of_text)
        named = (self._id(self.special.eos), *self.special.stops)
        return tuple(dict.fromkeys((self.end, self.end_of_text, *named)))

    def _id(self, token: str) -> int:
        number: int | None = self.tokenizer.token_to_id(token)
        if number is None:
            raise DataError(f"the tokenizer has no token {token}", fix="train it with a `tokenizer` stage")
        return number

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From the folder of a tokenizer or a checkpoint, ours or in the Hugging Face layout."""
        folder = Path(folder)
        tokenizer, templates = load(folder), special.templates_of(folder)
        template, with_tools = templates.default, templates.tools
        if special.is_ours(tokenizer):
            return cls(tokenizer, TEMPLATE if template is None else template, tool_template=with_tools)
        return cls(tokenizer, template, special.read(folder, tokenizer), with_tools)

    def save(self, folder: Path, *, context: int) -> None:
        """Writes the tokenizer's files (`trivium.text.tokenizer.FILES`), which transformers' AutoTokenizer reads too."""
        if self.special is None:
            save(self.tokenizer, folder, self.template or TEMPLATE, context)
        else:
            save_foreign(self.tokenizer, folder, self.template, context, self.special.saved())
        special.save_tool_template(folder, self.tool_template)

    @property
    def vocab_size(self) -> int:
        """Ids that a model must have room for."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def encode(
        self,
        messages: Sequence[Message],
        *,
        reply: bool = False,
        tools: turns.Tools = None,
        learn: turns.Learn = "all",
    ) -> Encoded:
        """The conversation as ids and loss mask. `reply` ends it with the mark after which the assistant speaks; `tools`: what
        the assistant may call, as JSON schemas; `learn`: which of its turns carry loss (each as much as its `weight` says).

        DataError for an unknown role, a content that is no text, a field that the template does not write, or a template
        that fails.
        """
        weights = [float(weight) for weight in turns.weights(messages, learn)]
        shown = [turns.shown(message, self._template(tools)) for message in messages]
        turns.check_tools(tools, self._template(tools))
        marks = foreign.Marks.fresh()
        silent = _GENERATION.search(self.template or "") is None  # says nothing of who speaks where
        if silent or self.special is not None or any(turns.is_rich(message) for message in shown) or tools:
            return self._encode_foreign(shown, weights, reply, marks, tools)
        hidden = [{**message, "content": marks.numbered(i)} for i, message in enumerate(shown)]
        text = self._render(hidden, reply, marks)
        ids: list[int] = []
        mask: list[float] = []
        turn = -1  # the message whose content stands last in what came before
        spans: list[tuple[int, int]] = []
        learning = False
        for piece in foreign.MARKED.split(text):
            if piece == marks.begin:
                learning, turn, start = True, -1, len(ids)
            elif piece == marks.end:
                learning = False
                spans.append((start, turn))
            else:
                if piece.startswith(marks.content):
                    turn = int(piece.removeprefix(marks.content).removesuffix(marks.content))
                    new = self.guard.plain(shown[turn]["content"])
                else:
                    new = self.tokenizer.encode(piece, add_special_tokens=False).ids
                ids += new
                mask += [learning] * len(new)
        for start, turn in spans:
            if turn >= 0 and weights[turn] != 1 and shown[turn]["role"] == "assistant":
                end = next((i for i in range(start, len(mask)) if not mask[i]), len(mask))
                mask[start:end] = [weights[turn]] * (end - start)
        return Encoded(ids, mask)

    def _template(self, tools: turns.Tools) -> str:
        return (self.tool_template if tools and self.tool_template is not None else self.template) or ""

    def _render(
        self,
        messages: Sequence[Message],
        reply: bool,
        marks: foreign.Marks,
        tools: turns.Tools = None,
        probe: bool = False,
    ) -> str:
        if self._in_parts:
            messages = [turns.in_parts(message) for message in messages]
        return self._rendered(messages, reply, marks, tools, probe)

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template reads what a turn says as a list of parts, and writes nothing of a text, or fails at it (models
        that see)."""
        if self.special is None or not self.template:
            return False
        asked: Message = {"role": "user", "content": foreign.PROBE}

        def writes(message: Message) -> bool:
            with contextlib.suppress(DataError):
                return foreign.PROBE in self._rendered(
                    [message], False, foreign.Marks.fresh(), None, probe=True
                )
            return False

        return not writes(asked) and writes(turns.in_parts(asked))

    def _rendered(
        self,
        messages: Sequence[Message],
        reply: bool,
        marks: foreign.Marks,
        tools: turns.Tools,
        probe: bool,
    ) -> str:
        named = self.special.as_config() if self.special else {}
        variables: dict[str, Any] = {
            "messages": list(messages),
            "add_generation_prompt": reply,
            "tools": tools,
            "documents": None,
            **named,
            BEGIN: marks.begin,
            END: marks.end,
        }
        return render(self._template(tools), variables, probe=probe)

    def _encode_foreign(
        self,
        messages: Sequence[dict[str, Any]],
        weights: Sequence[float],
        reply: bool,
        marks: foreign.Marks,
        tools: turns.Tools,
    ) -> Encoded:
        if self.template is None:
            raise DataError(
                "the tokenizer has no chat template: its model was never taught to talk",
                fix="give the import stage a `chat_template`, such as that of the model's instruct version",
            )
        guarded = None if tools is None else self.guard.marked(list(tools))

        def rendered(turns: foreign.Turns, speaks: bool) -> str:
            return self._render(turns, speaks, marks, guarded)

        ends = frozenset(self.stops)
        return Encoded(*foreign.encode(self.guard, rendered, messages, weights, reply, marks, ends))

    def prompt(self, messages: Sequence[Message], tools: turns.Tools = None) -> list[int]:
        """The ids after which the assistant's reply begins. None of the turns before it carries loss."""
        return self.encode(messages, reply=True, tools=tools, learn="none").ids

    def opening(self) -> list[int]:
        """The ids after which a user's first turn begins. DataError where the template writes nothing before it."""
        one, other = (self.prompt([{"role": "user", "content": content}]) for content in ("A", "z"))
        ids = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        if not ids:
            raise DataError("the chat template writes nothing before a user's turn")
        return ids

    def response(self, prompt: Sequence[Message], reply: str, tools: turns.Tools = None) -> Encoded:
        """A prompt with one reply to it: only the reply carries loss, whatever the prompt holds.

        DataError where the template does not keep the prompt as a prefix (the first differing place is named).
        """
        head = self.prompt(prompt, tools)
        answered = [*prompt, {"role": "assistant", "content": reply}]
        joined = self.encode(answered, tools=tools, learn="last")
        if joined.ids[: len(head)] != head:
            raise foreign.not_a_prefix(head, joined.ids, self.tokenizer)
        return Encoded(joined.ids, [*[False] * len(head), *joined.mask[len(head) :]])

    def document(self, text: str) -> list[int]:
        """A document for pre-training: its tokens and the end-of-text mark."""
        return self.documents([text])[0]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Several documents at once, on all cores."""
        return [[*self.begin, *ids, self.end_of_text] for ids in self.guard.plain_batch(texts)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

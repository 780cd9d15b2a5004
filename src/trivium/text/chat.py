"""Conversations to tokens, and the one place where the loss mask of a conversation is made.

The mask comes out of the template itself: what stands between `{% generation %}` and `{% endgeneration %}` is
what the model must learn to say. The template is rendered with marks around those blocks and around every message's
content; the marks split the text into pieces, each piece is encoded on its own, and its tokens carry loss exactly if the
piece lies inside a generation block. Content is encoded without parsing special tokens, so a message that spells `<|end|>`
cannot end its own turn.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from tokenizers import Tokenizer

from trivium.errors import DataError
from trivium.text import foreign, special
from trivium.text.sandbox import Sandbox
from trivium.text.special import Special
from trivium.text.tokenizer import encode_plain, encode_plain_batch, load, save, save_foreign

TEMPLATE = (Path(__file__).parent / "template.jinja").read_text(encoding="utf-8")
ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]


class Encoded(NamedTuple):
    """A conversation as token ids and, for each, whether it carries loss."""

    ids: list[int]
    mask: list[bool]


_BLOCK = ("_trivium_begin", "_trivium_end")
"""Variables that hold the marks of one rendering: nothing is kept between two, so threads may share a template."""


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: renders the body between two marks (transformers uses the same tags)."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.Name(mark, "load")]).set_lineno(line) for mark in _BLOCK)
        return [begin, *body, end]


def _fresh_marks(messages: Sequence[Message]) -> foreign.Marks:
    """Marks that occur in no message: from Unicode's private area, with a nonce."""
    while True:
        nonce = secrets.token_hex(8)
        if not any(nonce in message["content"] for message in messages):
            return foreign.Marks(
                *(f"{a}{nonce}{b}" for a, b in ("\ue000\ue001", "\ue002\ue003", "\ue004\ue005"))
            )


@dataclass
class ChatTokenizer:
    """A tokenizer with its chat template: the only way from conversations to ids."""

    tokenizer: Tokenizer
    template: str | None = TEMPLATE
    """None: a base model's tokenizer, which has documents and no conversations."""
    special: Special | None = None
    """The special tokens of a tokenizer that others made; None: the six of `trivium.text.tokenizer`."""

    def __post_init__(self) -> None:
        try:
            self._compiled = Sandbox(_Generation).from_string(self.template or "")
        except TemplateError as error:
            raise DataError(f"the chat template is no valid jinja: {error}") from None
        self.begin: list[int] = []  # what a document starts with
        if self.special is None:
            self.end = self._id("<|end|>")
            self.end_of_text = self._id("<|end_of_text|>")
            self.pad = self._id("<|pad|>")
        else:
            self.end = self._id(self.special.eos)
            self.end_of_text = special.document_end(self.tokenizer, self.special)
            self.pad = self._id(self.special.pad or self.special.eos)
            bare = self.tokenizer.encode("a", add_special_tokens=False).ids
            whole = self.tokenizer.encode("a").ids
            self.begin = whole[: whole.index(bare[0])] if bare and bare[0] in whole else []

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a reply, the usual one first."""
        more = self.special.stops if self.special else ()
        return tuple(dict.fromkeys((self.end, self.end_of_text, *more)))

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise DataError(f"the tokenizer has no token {token}", fix="train it with a `tokenizer` stage")
        return found

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From the folder of a tokenizer or a checkpoint, ours or in the Hugging Face layout."""
        folder = Path(folder)
        tokenizer, template = load(folder), special.template_of(folder)
        if special.is_ours(tokenizer):
            return cls(tokenizer, TEMPLATE if template is None else template)
        return cls(tokenizer, template, special.read(folder, tokenizer))

    def save(self, folder: Path, *, context: int) -> None:
        """Writes the tokenizer's files (`trivium.text.tokenizer.FILES`), which transformers' AutoTokenizer reads too."""
        if self.special is None:
            save(self.tokenizer, folder, self.template or TEMPLATE, context)
        else:
            save_foreign(self.tokenizer, folder, self.template, context, self.special.as_config())

    @property
    def vocab_size(self) -> int:
        """Ids that a model must have room for."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def encode(self, messages: Sequence[Message], *, reply: bool = False) -> Encoded:
        """The conversation as ids and loss mask. `reply` ends it with the mark after which the assistant speaks.

        DataError for an unknown role, a content that is no text, or a template that fails.
        """
        for message in messages:
            _check_text(message.get("content"))
        marks = _fresh_marks(messages)
        if self.special is not None:
            return self._encode_foreign(messages, reply, marks)
        hidden = [
            {**message, "content": f"{marks.content}{i}{marks.content}"} for i, message in enumerate(messages)
        ]
        text = self._render(hidden, reply, marks)
        ids: list[int] = []
        mask: list[bool] = []
        learn = False
        pattern = f"({re.escape(marks.begin)}|{re.escape(marks.end)}|{re.escape(marks.content)}\\d+{re.escape(marks.content)})"
        for piece in re.split(pattern, text):
            if piece == marks.begin:
                learn = True
            elif piece == marks.end:
                learn = False
            else:
                if piece.startswith(marks.content):
                    index = int(piece.removeprefix(marks.content).removesuffix(marks.content))
                    new = encode_plain(self.tokenizer, messages[index]["content"])
                else:
                    new = self.tokenizer.encode(piece, add_special_tokens=False).ids
                ids += new
                mask += [learn] * len(new)
        return Encoded(ids, mask)

    def _render(self, messages: Sequence[Message], reply: bool, marks: foreign.Marks) -> str:
        named = self.special.as_config() if self.special else {}
        blocks = dict(zip(_BLOCK, (marks.begin, marks.end), strict=True))
        try:
            # no strftime_now: templates that have it fall back on a fixed date, and a render stays the same tomorrow
            return self._compiled.render(
                messages=messages, add_generation_prompt=reply, tools=None, documents=None, **named, **blocks
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None

    def _encode_foreign(self, messages: Sequence[Message], reply: bool, marks: foreign.Marks) -> Encoded:
        if self.template is None:
            raise DataError(
                "the tokenizer has no chat template: its model was never taught to talk",
                fix="give the import stage a `chat_template`, such as that of the model's instruct version",
            )

        def render(turns: Sequence[Message], speaks: bool) -> str:
            return self._render(turns, speaks, marks)

        plain = [dict(message) for message in messages]
        ends = frozenset(self.stops)
        return Encoded(*foreign.encode(self.tokenizer, render, plain, reply, marks, ends))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the assistant's reply begins."""
        return self.encode(messages, reply=True).ids

    def response(self, prompt: Sequence[Message], reply: str) -> Encoded:
        """A prompt with one reply to it: only the reply carries loss, whatever the prompt holds.

        DataError where the template does not keep the prompt as a prefix (the first differing place is named).
        """
        head = self.prompt(prompt)
        whole = self.encode([*prompt, {"role": "assistant", "content": reply}])
        if whole.ids[: len(head)] != head:
            raise foreign.not_a_prefix(head, whole.ids, self.tokenizer)
        return Encoded(whole.ids, [False] * len(head) + whole.mask[len(head) :])

    def document(self, text: str) -> list[int]:
        """A document for pre-training: its tokens and the end-of-text mark."""
        return self.documents([text])[0]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Several documents at once, on all cores."""
        return [[*self.begin, *ids, self.end_of_text] for ids in encode_plain_batch(self.tokenizer, texts)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


_HALF = re.compile("[\ud800-\udfff]")


def _check_text(content: object) -> None:
    # a terminal or JSON can give half a surrogate pair, which has no bytes
    if not isinstance(content, str) or _HALF.search(content):
        fix = "give every message a `content` of valid Unicode text"
        raise DataError(f"a message's content is no text: {content!r:.80}", fix=fix)

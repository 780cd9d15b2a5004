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
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from trivium.errors import DataError
from trivium.text.tokenizer import encode_plain, encode_plain_batch, load, save

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


class _Marks(NamedTuple):
    begin: str
    end: str
    content: str

    @classmethod
    def fresh(cls, messages: Sequence[Message]) -> _Marks:
        """Marks that occur in no message: from Unicode's private area, with a nonce."""
        while True:
            nonce = secrets.token_hex(8)
            marks = cls(f"\ue000{nonce}\ue001", f"\ue002{nonce}\ue003", f"\ue004{nonce}\ue005")
            if not any(nonce in message["content"] for message in messages):
                return marks


@dataclass
class ChatTokenizer:
    """A tokenizer with its chat template: the only way from conversations to ids."""

    tokenizer: Tokenizer
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation]
        )
        environment.globals["raise_exception"] = _raise
        try:
            self._compiled = environment.from_string(self.template)
        except TemplateError as error:
            raise DataError(f"the chat template is no valid jinja: {error}") from None
        self.end = self._id("<|end|>")
        self.end_of_text = self._id("<|end_of_text|>")
        self.pad = self._id("<|pad|>")

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise DataError(f"the tokenizer has no token {token}", fix="train it with a `tokenizer` stage")
        return found

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From the folder of a tokenizer or a checkpoint."""
        path = Path(folder) / "chat_template.jinja"
        return cls(load(Path(folder)), path.read_text(encoding="utf-8") if path.exists() else TEMPLATE)

    def save(self, folder: Path, *, context: int) -> None:
        """Writes the tokenizer's files (`trivium.text.tokenizer.FILES`), which transformers' AutoTokenizer reads too."""
        save(self.tokenizer, folder, self.template, context)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, messages: Sequence[Message], *, reply: bool = False) -> Encoded:
        """The conversation as ids and loss mask. `reply` ends it with the mark after which the assistant speaks.

        DataError for an unknown role, a content that is no text, or a template that fails.
        """
        for message in messages:
            _check_text(message.get("content"))
        marks = _Marks.fresh(messages)
        hidden = [
            {**message, "content": f"{marks.content}{i}{marks.content}"} for i, message in enumerate(messages)
        ]
        try:
            text = self._compiled.render(
                messages=hidden,
                add_generation_prompt=reply,
                **dict(zip(_BLOCK, (marks.begin, marks.end), strict=True)),
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses this conversation: {error}") from None
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
            differing = (i for i, (a, b) in enumerate(zip(head, whole.ids, strict=False)) if a != b)
            place = next(differing, len(whole.ids))
            raise DataError(f"the chat template does not keep the prompt as a prefix: token {place} differs")
        return Encoded(whole.ids, [False] * len(head) + whole.mask[len(head) :])

    def document(self, text: str) -> list[int]:
        """A document for pre-training: its tokens and the end-of-text mark."""
        return self.documents([text])[0]

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Several documents at once, on all cores."""
        return [[*ids, self.end_of_text] for ids in encode_plain_batch(self.tokenizer, texts)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


_HALF = re.compile("[\ud800-\udfff]")


def _check_text(content: object) -> None:
    # a terminal or JSON can give half a surrogate pair, which has no bytes
    if not isinstance(content, str) or _HALF.search(content):
        fix = "give every message a `content` of valid Unicode text"
        raise DataError(f"a message's content is no text: {content!r:.80}", fix=fix)


def _raise(message: str) -> None:
    raise TemplateError(message)

"""The special tokens of a tokenizer that others made: looked up in its own configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from trivium.errors import ArtifactError
from trivium.files import write_text
from trivium.text.tokenizer import SPECIAL
from trivium.text.turns import MARKUP

DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What ends a document, where the token that ends a turn is another."""
TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Special:
    """Special tokens by their job. `stops`: further ids that end a reply."""

    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    stops: tuple[int, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    """Further ones that templates know by a name, such as `image_token`."""

    def as_config(self) -> dict[str, str]:
        """The tokens under the names that templates use."""
        values = dict(zip(ROLES, (self.bos, self.eos, self.pad, self.unk), strict=True))
        return {name: value for name, value in values.items() if value is not None} | dict(self.extra)

    def saved(self) -> dict[str, Any]:
        """The same for `tokenizer_config.json`."""
        named = {name: value for name, value in self.as_config().items() if name in ROLES}
        return named | ({"extra_special_tokens": dict(self.extra)} if self.extra else {})


class Templates(NamedTuple):
    """The chat templates of a checkpoint: the usual one, and the one for conversations with tools if that is another."""

    default: str | None = None
    tools: str | None = None


def is_ours(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer comes from a `tokenizer` stage: its special tokens have the first ids."""
    return all(tokenizer.id_to_token(number) == token for number, token in enumerate(SPECIAL))


def read(folder: Path, tokenizer: Tokenizer) -> Special:
    """From tokenizer_config.json, special_tokens_map.json and generation_config.json, as far as they are there.

    ArtifactError where no end-of-sequence token is named, or a token is not in the vocabulary.
    """
    named = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    tokens = {role: _content(named.get(role)) for role in ROLES}
    ends = read_json(folder / "generation_config.json").get("eos_token_id")
    if ends is None:
        ends = read_json(folder / "config.json").get("eos_token_id")
    stops = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
    if tokens["eos_token"] is None and stops:
        tokens["eos_token"] = tokenizer.id_to_token(stops[0])
    return checked(tokenizer, tokens, stops, folder, _extra(named.get("extra_special_tokens")))


def _extra(named: Any) -> tuple[tuple[str, str], ...]:
    """`extra_special_tokens` where they have names; a list of them needs none."""
    if not isinstance(named, dict):
        return ()
    contents = {name: _content(value) for name, value in named.items()}
    return tuple((name, content) for name, content in contents.items() if content is not None)


def control(tokenizer: Tokenizer, special: Special, written: str) -> set[str]:
    """The tokens that no text may become: the special ones, those with a job, and those that the template writes around turns
    (`written`). A tag that opens and closes within a turn (`<think>`) is text."""
    added = {token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()}
    stops = {
        token for n in special.stops if (token := tokenizer.id_to_token(n)) is not None and token in added
    }
    named = {token for token in special.as_config().values() if len(token) > 1 or token in added}
    around = {
        token
        for token in added
        if token in written and not ((tag := MARKUP.fullmatch(token)) and f"</{tag[1]}>" in added)
    }
    return {token for token, is_special in added.items() if is_special} | stops | named | around


def checked(
    tokenizer: Tokenizer,
    tokens: dict[str, str | None],
    stops: tuple[int, ...],
    where: Path,
    extra: tuple[tuple[str, str], ...] = (),
) -> Special:
    """`tokens` by role as a Special. ArtifactError as in `read`."""
    eos = tokens.get("eos_token")
    if eos is None:
        fix = "add `eos_token` to tokenizer_config.json"
        raise ArtifactError("the tokenizer does not say which token ends a text", where=str(where), fix=fix)
    for role, token in tokens.items():
        if token is not None and tokenizer.token_to_id(token) is None:
            said = f"the tokenizer's {role} {token!r} is not in its vocabulary"
            raise ArtifactError(
                said, where=str(where), fix="use the tokenizer.json that belongs to this config"
            )
    bos, pad, unk = (tokens.get(role) for role in ("bos_token", "pad_token", "unk_token"))
    return Special(eos, bos, pad, unk, stops, extra)


def document_end(tokenizer: Tokenizer, special: Special) -> int:
    """The id that ends a document: the tokenizer's own mark of that kind, else what ends a turn."""
    for token in DOCUMENT_ENDS:
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    number = tokenizer.token_to_id(special.eos)
    assert number is not None  # `checked` has seen it
    return int(number)


def templates_of(folder: Path) -> Templates:
    """The chat templates of a folder: files of their own, or in tokenizer_config.json, one or several by name."""
    named = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(named, list):
        named = {one.get("name"): one.get("template") for one in named if isinstance(one, dict)}
    elif not isinstance(named, dict):
        named = {"default": named}
    for name, path in (("default", folder / "chat_template.jinja"), ("tool_use", folder / TOOL_TEMPLATE)):
        if path.is_file():
            try:
                named[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ArtifactError(f"{path.name} is no text: {error}", where=str(path)) from None
    texts = {name: text for name, text in named.items() if isinstance(text, str)}
    if texts and "default" not in texts:
        raise ArtifactError(
            f"none of the chat templates is the default: {', '.join(sorted(map(str, texts)))}",
            where=str(folder),
            fix="name one of them in the import stage's `chat_template`",
        )
    return Templates(texts.get("default"), texts.get("tool_use"))


def save_tool_template(folder: Path, template: str | None) -> None:
    if template is not None:
        write_text(folder / TOOL_TEMPLATE, template)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file, empty where there is no file. ArtifactError if it is no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ArtifactError(f"{path.name} is no JSON: {error}", where=str(path)) from None
    return found if isinstance(found, dict) else {}


def _content(value: Any) -> str | None:
    """A token as a string or as a description with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None

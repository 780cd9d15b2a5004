"""The special tokens of a tokenizer that others made: looked up in its own configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from trivium.errors import ArtifactError
from trivium.text.tokenizer import SPECIAL

DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What ends a document, where the token that ends a turn is another."""
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Special:
    """Special tokens by their job. `stops`: further ids that end a reply."""

    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    stops: tuple[int, ...] = ()

    def as_config(self) -> dict[str, str]:
        """The tokens under the names that `tokenizer_config.json` and templates use."""
        values = dict(zip(ROLES, (self.bos, self.eos, self.pad, self.unk), strict=True))
        return {name: value for name, value in values.items() if value is not None}


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
    return checked(tokenizer, tokens, stops, folder)


def checked(
    tokenizer: Tokenizer, tokens: dict[str, str | None], stops: tuple[int, ...], where: Path
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
    return Special(eos, bos, pad, unk, stops)


def document_end(tokenizer: Tokenizer, special: Special) -> int:
    """The id that ends a document: the tokenizer's own mark of that kind, else what ends a turn."""
    for token in DOCUMENT_ENDS:
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    number = tokenizer.token_to_id(special.eos)
    assert number is not None  # `checked` has seen it
    return int(number)


def template_of(folder: Path) -> str | None:
    """The chat template of a folder: its own file, or in tokenizer_config.json; None if there is none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path.name} is no text: {error}", where=str(path)) from None
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):  # several by name
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


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

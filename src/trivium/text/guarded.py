"""Text of users never becomes a control token: the tokenizer that text is encoded with knows none by its own name.

In that tokenizer each control token is called by a secret name, made anew in every process and of characters that no normaliser
touches. Who writes a control token (a template) writes the secret; what anybody else writes is text, whatever a normaliser
makes of it. Ids, words and merges are those of the tokenizer itself.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from trivium.errors import ArtifactError


class Guarded:
    """`tokenizer` with the tokens `control` out of reach. ArtifactError where one of them is an ordinary character, too."""

    def __init__(self, tokenizer: Tokenizer, control: Iterable[str]) -> None:
        self.original = tokenizer
        nonce = secrets.token_hex(8)
        known = sorted(token for token in set(control) if token and tokenizer.token_to_id(token) is not None)
        self._secret = {token: f"\ue000{nonce}{number}\ue001" for number, token in enumerate(known)}
        self.mark = f"\ue002{nonce}\ue003"
        """Stands before a control token's name that is text."""
        self._escaped = self.mark.encode("ascii", "backslashreplace").decode()
        longest_first = sorted(map(re.escape, known), key=len, reverse=True)
        self._spelt = re.compile("|".join(longest_first) or r"(?!)")
        self._unmarked = re.compile(f"({re.escape(self.mark)})?({'|'.join(longest_first) or '(?!)'})")
        self.tokenizer = Tokenizer.from_str(json.dumps(_renamed(tokenizer, self._secret)))
        for token, secret in self._secret.items():
            if self.tokenizer.token_to_id(secret) != tokenizer.token_to_id(token):
                raise ArtifactError(f"the tokenizer gives {token!r} another id each time it is read")

    def plain(self, text: str) -> list[int]:
        """The ids of text in which nothing is a control token. Safe in threads."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def plain_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """As `plain`, for many texts at once (on all cores)."""
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)  # without offsets
        return [encoding.ids for encoding in encoded]

    def spells(self, text: str) -> bool:
        return self._spelt.search(text) is not None

    def closed(self, text: str) -> int:
        """The place behind the last control token that the text spells; 0 without one."""
        return max((found.end() for found in self._spelt.finditer(text)), default=0)

    def marked(self, value: Any) -> Any:
        """A text, or JSON with texts in it, with a mark before each control token that it spells."""
        if isinstance(value, str):
            return self._spelt.sub(lambda match: self.mark + match[0], value)
        if isinstance(value, dict):
            return {self.marked(name): self.marked(inner) for name, inner in value.items()}
        return [self.marked(inner) for inner in value] if isinstance(value, list | tuple) else value

    def written(self, text: str) -> list[int]:
        """The ids of what a template made of marked texts: control tokens without a mark are the template's own."""
        text = text.replace(self._escaped, self.mark)  # a template may write JSON in ASCII
        named = self._unmarked.sub(lambda match: match[2] if match[1] else self._secret[match[2]], text)
        return self.plain(named.replace(self.mark, ""))


def _renamed(tokenizer: Tokenizer, names: dict[str, str]) -> dict[str, Any]:
    """The tokenizer's own description with other names for some tokens, and without what cuts, pads or frames a text."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    spec |= {"truncation": None, "padding": None, "post_processor": None}
    model = spec["model"]
    if model["type"] != "Unigram":
        _no_bytes(spec, model["vocab"], names)
        model["vocab"] = {names.get(token, token): number for token, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if "merges" in model:
        pairs = (
            tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        )
        model["merges"] = [
            list(pair) for pair in pairs if not ({*pair, "".join(pair)} & names.keys())
        ]  # a merge may not end in what text must not become
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = {token["content"] for token in spec["added_tokens"]}
    for token in spec["added_tokens"]:
        if token["content"] in names:
            token |= {"content": names[token["content"]], "special": True, "normalized": False}
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
    spec["added_tokens"] += [
        {"id": tokenizer.token_to_id(token), "content": secret, **flags}
        for token, secret in names.items()
        if token not in added
    ]
    spec["added_tokens"].sort(key=lambda token: token["id"])
    return spec


def _no_bytes(spec: dict[str, Any], vocabulary: dict[str, int], names: dict[str, str]) -> None:
    """ArtifactError for a control token that stands for a byte of ordinary text: there is no telling the two apart."""
    byte_level = "ByteLevel" in json.dumps([spec["pre_tokenizer"], spec["normalizer"]])
    shared = sorted(names.keys() & vocabulary.keys() & set(pre_tokenizers.ByteLevel.alphabet()))
    if byte_level and shared:
        raise ArtifactError(
            f"the tokenizer's control token {shared[0]!r} is a byte of ordinary text, too: they share an id",
            fix="give the control token a name of its own, such as <|end|>, and an id of its own",
        )

"""The tokenizer of a GGUF file, rebuilt from its metadata as a `tokenizer.json`.

Two kinds: `gpt2`, byte-level BPE with merges, whose rule for cutting text into words stands under a name; and `llama`,
SentencePiece with scores and bytes as a last resort.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trivium.errors import ArtifactError
from trivium.text.special import Special, checked

CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Values of tokenizer.ggml.token_type."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _plain() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain()])


def _words(digits: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_WORDS % digits), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


CUTS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _plain,
    "smollm": _digits,
    "starcoder": _digits,
    "llama-bpe": lambda: _words("{1,3}"),
    "llama3": lambda: _words("{1,3}"),
    "smaug-bpe": lambda: _words("{1,3}"),
    "qwen2": lambda: _words(""),
}
"""tokenizer.ggml.pre -> how text is cut into words before BPE."""


def tokenizer(meta: dict[str, Any], where: Path) -> tuple[Tokenizer, Special, str | None]:
    """(tokenizer, its special tokens, its chat template). ArtifactError for a kind that is not known, or missing parts."""
    try:
        kind, tokens = meta["tokenizer.ggml.model"], meta["tokenizer.ggml.tokens"]
        types = meta.get("tokenizer.ggml.token_type") or [1] * len(tokens)
        if kind == "gpt2":
            made = _byte_level(meta, tokens, where)
        elif kind == "llama":
            made = _sentencepiece(meta, tokens, types)
        else:
            raise ArtifactError(
                f"the tokenizer is of the kind {kind!r}",
                where=str(where),
                fix="use a file whose tokenizer is gpt2 or llama, or give the Hugging Face folder",
            )
        _add(made, tokens, types)
        names = {}
        for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
            number = meta.get(f"tokenizer.ggml.{key}_token_id")
            names[f"{role}_token"] = None if number is None else tokens[number]
        if meta.get("tokenizer.ggml.add_bos_token", kind == "llama") and names["bos_token"] is not None:
            first = (names["bos_token"], int(meta["tokenizer.ggml.bos_token_id"]))
            made.post_processor = processors.TemplateProcessing(
                single=f"{first[0]} $A", special_tokens=[first]
            )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        said = f"the tokenizer of the GGUF file cannot be rebuilt: {error!r}"
        raise ArtifactError(said, where=str(where)) from None
    ends = {meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")} - {None}
    special = checked(made, names, tuple(sorted(int(end) for end in ends if end is not None)), where)
    return made, special, meta.get("tokenizer.chat_template")


def _byte_level(meta: dict[str, Any], tokens: list[str], where: Path) -> Tokenizer:
    cut = meta.get("tokenizer.ggml.pre", "gpt-2")
    if cut not in CUTS:
        raise ArtifactError(
            f"the tokenizer cuts words by the rule {cut!r}",
            where=str(where),
            fix=f"known are {', '.join(CUTS)}; give the Hugging Face folder instead",
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [(left, right) for left, right in (line.split(" ") for line in meta["tokenizer.ggml.merges"])]
    made = Tokenizer(
        models.BPE(vocabulary, merges, ignore_merges=cut in ("llama-bpe", "llama3", "smaug-bpe"))
    )
    if cut == "qwen2":
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = CUTS[cut]()
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(meta: dict[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """BPE with the merges that SentencePiece's scores stand for: any cut of a piece into two, the likeliest pieces first."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    scores = meta["tokenizer.ggml.scores"]
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for number, token in enumerate(tokens):
        if types[number] in (CONTROL, USER_DEFINED, BYTE):
            continue
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[number], vocabulary[left], vocabulary[right], (left, right)))
    unknown = meta.get("tokenizer.ggml.unknown_token_id")
    pairs = [pair for *_, pair in sorted(merges)]
    unk = None if unknown is None else tokens[unknown]
    made = Tokenizer(models.BPE(vocabulary, pairs, unk_token=unk, fuse_unk=True, byte_fallback=True))
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if meta.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("▁"))
        back.append(decoders.Strip(" ", 1, 0))
    made.normalizer = normalizers.Sequence(spaces)
    made.decoder = decoders.Sequence(back)
    return made


def _add(made: Tokenizer, tokens: list[str], types: list[int]) -> None:
    special = [
        AddedToken(t, special=True, normalized=False)
        for t, k in zip(tokens, types, strict=True)
        if k == CONTROL
    ]
    made.add_special_tokens(special)
    plain = [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED]
    made.add_tokens(plain)

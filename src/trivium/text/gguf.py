"""The tokenizer of a GGUF file, rebuilt from its metadata as a `tokenizer.json`.

Two kinds: `gpt2`, byte-level BPE with merges, whose rule for cutting text into words stands under a name; and `llama`,
SentencePiece with scores and bytes as a last resort.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trivium.errors import ArtifactError
from trivium.text.special import Special, checked

CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Values of tokenizer.ggml.token_type."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{_SHORT}|{letters}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"


def _cased(digits: str, ending: str) -> str:
    """Words cut where their case changes."""
    first = r"[^\r\n\p{L}\p{N}]?"
    letters = f"{first}{_UPPER}*{_LOWER}+{ending}|{first}{_UPPER}+{_LOWER}*{ending}"
    return rf"{letters}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"


_DIGIT = (r"\p{N}", _GPT2)
_MARKS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    rf"{_MARKS}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_REST}",
)
_QWEN35 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}"
)
_SEED = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_REST}"


class Cut(NamedTuple):
    """A rule of `tokenizer.ggml.pre`: the patterns that cut text, one after the other, and what else goes with it."""

    patterns: tuple[str, ...]
    keeps_words: bool = False
    """A word that is in the vocabulary is one token, whatever the merges say."""
    begins: bool = False
    """Texts begin with the token of that name, where the file does not say."""
    composes: bool = False
    """Characters are composed first (NFC)."""


_LLAMA3, _QWEN2 = Cut((_words("{1,3}"),), True, True), Cut((_words(""),), composes=True)
CUTS: dict[str, Cut] = {
    **dict.fromkeys(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"), Cut((_GPT2,))
    ),
    **dict.fromkeys(("gigachat", "mellum", "a.x-4.0"), Cut((_GPT2,))),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), Cut(_DIGIT)
    ),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("smaug-bpe", "dbrx", "chatglm-bpe", "glm4"), Cut((_words("{1,3}"),))),
    **dict.fromkeys(("qwen2", "megrez", "kormo"), _QWEN2),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2"), Cut((_words(""),))),
    "qwen35": Cut((_QWEN35,), composes=True),
    "tekken": Cut((_cased("", ""),), True, True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), Cut((_cased("{1,3}", f"{_SHORT}?"),))),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), Cut(_DEEPSEEK)),
    "seed-coder": Cut((_SEED,)),
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
        begins = kind == "llama" or CUTS[meta.get("tokenizer.ggml.pre", "gpt-2")].begins
        if meta.get("tokenizer.ggml.add_bos_token", begins) and names["bos_token"] is not None:
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
    name = meta.get("tokenizer.ggml.pre", "gpt-2")
    if name not in CUTS:
        raise ArtifactError(
            f"the tokenizer cuts words by the rule {name!r}",
            where=str(where),
            fix=f"known are {', '.join(CUTS)}; give the Hugging Face folder instead",
        )
    cut = CUTS[name]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [(left, right) for left, right in (line.split(" ") for line in meta["tokenizer.ggml.merges"])]
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut.keeps_words))
    if cut.composes:
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizer(cut)
    made.decoder = decoders.ByteLevel()
    return made


def pre_tokenizer(cut: Cut) -> Any:
    """What cuts text into words by a rule, each byte as a letter."""
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in cut.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


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

"""Byte-level BPE: any text round-trips exactly, digits stay single, no user text becomes a special token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from trivium.errors import ArtifactError, DataError
from trivium.files import write_json, write_text

SPECIAL = ("<|end_of_text|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
"""Ids 0 to 5, in this order. A document ends with the first; a turn of a conversation ends with the last."""

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""What `save` writes."""


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens: the special ones, the 256 bytes, and merges learnt from
    `texts`.

    DataError if the texts are too few for that many merges, with the number that they do give.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = tokenizer.get_vocab_size()
    if made < vocab_size:
        raise DataError(
            f"the data gives {made} tokens, {vocab_size - made} fewer than the vocabulary asked for",
            where=f"tokenizer, vocab_size: {vocab_size}",
            fix=f"set `vocab_size: {made}` or less, or give more text",
        )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, chat_template: str, context: int) -> None:
    """Writes the three files from which transformers' AutoTokenizer makes the same tokenizer.

    `context`: tokens that the model reads at most.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "extra_special_tokens": [token for token in SPECIAL if token not in ("<|end|>", "<|pad|>")],
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "right",
    }
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)
    write_text(folder / "chat_template.jinja", chat_template)


def save_foreign(
    tokenizer: Tokenizer, folder: Path, chat_template: str | None, context: int, special: dict[str, str]
) -> None:
    """The same for a tokenizer that others made. `special`: eos_token and its like. No file of a template where there is none."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "right",
    }
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(folder / "tokenizer_config.json", config)
    if chat_template is not None:
        write_text(folder / "chat_template.jinja", chat_template)


def load(folder: Path) -> Tokenizer:
    """The tokenizer of an artifact's folder. ArtifactError if tokenizer.json is missing or damaged."""
    path = folder / "tokenizer.json"
    fix = "run the tokenizer stage again, or point at a folder that holds a tokenizer.json (transformers writes one)"
    if not path.is_file():
        raise ArtifactError("tokenizer.json is missing", where=str(folder), fix=fix)
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises a bare Exception for a file it cannot read
        raise ArtifactError(f"tokenizer.json is damaged: {error}", where=str(path), fix=fix) from None


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of `text`, none of them special even where the text spells a special token. Safe in threads.

    A spelt special token is cut after its first character and the pieces are encoded on their own: no state
    of the tokenizer is changed, and the pieces join to the same text.
    """
    return [number for piece in _pieces(tokenizer, text) for number in _encode(tokenizer, piece)]


def encode_plain_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """As `encode_plain`, for many texts at once (on all cores)."""
    special = spelt(tokenizer)
    cut = [cut_at(special, text) for text in texts]
    flat = tokenizer.encode_batch_fast(  # without the offsets that nobody asks for
        [piece for pieces in cut for piece in pieces], add_special_tokens=False
    )
    ids = iter(flat)
    return [[number for _ in pieces for number in next(ids).ids] for pieces in cut]


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return cut_at(spelt(tokenizer), text)


def spelt(tokenizer: Tokenizer) -> frozenset[str]:
    """The special tokens as text spells them."""
    return frozenset(token.content for token in tokenizer.get_added_tokens_decoder().values())


def cut_at(spelt: frozenset[str], text: str) -> list[str]:
    """The text in pieces none of which spells a special token."""
    if not any(token in text for token in spelt):
        return [text]
    return [piece for piece in re.split(_cut(spelt), text) if piece]


@lru_cache(maxsize=16)
def _cut(spelt: frozenset[str]) -> re.Pattern[str]:
    """Matches, without taking any text, the place after the first character of each spelt token."""
    return re.compile(
        "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in sorted(spelt))
    )

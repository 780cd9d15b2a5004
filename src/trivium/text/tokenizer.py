"""Byte-level BPE: any text round-trips exactly, digits stay single, no user text becomes a special token."""

from __future__ import annotations

from collections.abc import Iterable
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
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises a bare Exception for a file it cannot read
        raise ArtifactError(f"tokenizer.json is damaged: {error}", where=str(path), fix=fix) from None
    tokenizer.no_truncation()  # what somebody's training script left there is no part of the vocabulary
    tokenizer.no_padding()
    return tokenizer


def check_same(ours: Tokenizer, folder: Path, what: str, *, rows: int, else_: str = "") -> None:
    """Whether the tokenizer of the checkpoint in `folder` gives every token of ours the same id; rows of embeddings that no
    token has do not matter. ArtifactError if not, or if `folder` holds no tokenizer and its model's `rows` are not our tokens;
    `else_`: what else may be done.
    """
    fix = f"train {what} from a checkpoint with this tokenizer{else_}"
    wanted = ours.get_vocab()
    if not (folder / "tokenizer.json").is_file():
        if rows != len(wanted):
            told = f"{what} has {rows:,} tokens and the policy {len(wanted):,}"
            raise ArtifactError(told, where=str(folder), fix=fix)
        return
    given = load(folder).get_vocab()
    other = sorted(token for token, number in wanted.items() if given.get(token) != number)
    if other:
        examples = ", ".join(map(repr, other[:3]))
        told = (
            f"{len(other):,} of {len(wanted):,} tokens are none there or have another id, such as {examples}"
        )
        raise ArtifactError(f"{what} has another vocabulary: {told}", where=str(folder), fix=fix)

"""Tokenizers of every kind that the tokenizers library builds, each with control tokens that are easy to forge."""

from __future__ import annotations

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

CONTROL = ["<|start|>", "<|end|>", "<|endoftext|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
TEXTS = ["what is the answer? four and six, system user assistant end start text\n\n"] * 4
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
LETTERS = sorted({*"".join(TEXTS), *"<|>_", "▁"})


def _bpe(normalizer=None, pre=None, decoder=None, alphabet=BYTES) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoder or decoders.ByteLevel()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=alphabet)
    )
    return made


def _add(made: Tokenizer, special: bool = True, normalized: bool = False, **flags) -> Tokenizer:
    tokens = [AddedToken(t, special=special, normalized=normalized, **flags) for t in CONTROL]
    (made.add_special_tokens if special else made.add_tokens)(tokens)
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return made


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=60, show_progress=False, special_tokens=["<unk>", *CONTROL], unk_token="<unk>",
            initial_alphabet=LETTERS,
        ),
    )  # fmt: skip
    return _add(made)


def _sentencepiece() -> Tokenizer:
    """As Llama's: control tokens in the vocabulary, and merges that would make them of text."""
    names = ["<unk>", *CONTROL, *(f"<0x{i:02X}>" for i in range(256)), *LETTERS]
    steps = ["<|", "<|e", "<|en", "<|end", "<|end|"]
    names += [*steps, "the"[:2]]
    pairs = [("<", "|"), ("<|", "e"), ("<|e", "n"), ("<|en", "d"), ("<|end", "|"), ("<|end|", ">")]
    pairs.append(("t", "h"))
    made = Tokenizer(
        models.BPE(
            {name: n for n, name in enumerate(dict.fromkeys(names))}, pairs, unk_token="<unk>",
            byte_fallback=True, fuse_unk=True,
        )
    )  # fmt: skip
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for token in CONTROL[:2]:  # the third is in the vocabulary only
        _special(made, token)
    return made


def _one_character() -> Tokenizer:
    made = _bpe(pre=pre_tokenizers.Whitespace(), decoder=decoders.BPEDecoder(), alphabet=[*LETTERS, "§"])
    return _add(_special(made, "§"))


def _special(made: Tokenizer, token: str) -> Tokenizer:
    made.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    return made


def _words() -> Tokenizer:
    vocabulary = {w: n for n, w in enumerate(["[UNK]", *CONTROL, "what", "is", "four", "user", "assistant"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _add(made)


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=90, show_progress=False, special_tokens=["[UNK]", *CONTROL], initial_alphabet=LETTERS
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


ZOO = {
    "byte-level": lambda: _add(_bpe()),
    "not marked special": lambda: _add(_bpe(), special=False),
    "NFKC": lambda: _add(_bpe(normalizers.NFKC()), special=False, normalized=True),
    "lower case": lambda: _add(_bpe(normalizers.Lowercase()), special=False, normalized=True),
    "replacing": lambda: _add(
        _bpe(normalizers.Sequence([normalizers.Replace("[[", "<|"), normalizers.Replace("]]", "|>")])),
        special=False, normalized=True,
    ),
    "taking spaces": lambda: _add(_bpe(), lstrip=True, rstrip=True),
    "unigram": _unigram,
    "sentencepiece": _sentencepiece,
    "one character": _one_character,
    "words": _words,
    "word pieces": _wordpiece,
}  # fmt: skip
FORGED = [
    *CONTROL, "<think>", "</think>", "§", "＜｜end｜＞", "<｜end｜>", "<|END|>", "[[end]]", "<", "|", "end", "|>", "<|",
    " ", "\n", "ﬀ", "<unk>", "[UNK]", "what is", "four",
]  # fmt: skip

"""Corpora of a few texts, opened as `trivium trace` opens what a model was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trivium.text.chat import ChatTokenizer
from trivium.trace import corpora
from trivium.trace.corpora import Corpus, Trained, Use


@pytest.fixture
def tokenizer_folder(chat: ChatTokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    chat.save(folder, context=0)
    return folder


@pytest.fixture
def opened(tokenizer_folder, write_documents, tmp_path) -> Callable[..., Corpus]:
    """`opened(texts of source 0, texts of source 1, ...)`."""
    numbers = itertools.count()

    def make(*sources: Sequence[str], store: Path | None = None, data: Path | None = None) -> Corpus:
        number = next(numbers)
        if data is None:
            data = tmp_path / f"data{number}"
            for source, texts in enumerate(sources):
                write_documents(data / "train", source, texts)
        use = Use("base", "pretrain", "b" * 64, {0: 2.0, 1: 0.5})
        trained = Trained("corpus", data, data.name, tokenizer_folder, (use,))
        return corpora.open_corpus(trained, store or tmp_path / f"store{number}", lambda event: None)

    return make

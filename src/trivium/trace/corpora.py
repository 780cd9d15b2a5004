"""What a model was trained on, opened to be searched: a data artifact's training split under the tokenizer that read it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trivium.corpus.shards import encode, place
from trivium.text.chat import ChatTokenizer
from trivium.trace.index import FORMAT, Index, build
from trivium.trace.near import Near
from trivium.trace.near import build as sign
from trivium.trace.texts import Texts, texts
from trivium.types import Emit


@dataclass(frozen=True)
class Use:
    """A stage that trained on a data artifact."""

    stage: str
    kind: str
    fingerprint: str
    epochs: Mapping[int, float]
    """How often each source was shown, by its place in the recipe; of rows (conversations, pairs) that of all is at -1."""

    def shown(self, source: int) -> float | None:
        return self.epochs.get(source, self.epochs.get(-1))


@dataclass(frozen=True)
class Trained:
    """A data artifact, and the stages of a model's history that trained on it with one tokenizer."""

    stage: str
    """The name of the data stage."""
    path: Path
    fingerprint: str
    tokenizer: Path
    """A folder with the tokenizer that the stages read it with."""
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a model's training."""

    trained: tuple[Trained, ...] = ()
    unknown: tuple[str, ...] = ()
    """In words, what is not."""
    store: Path | None = None
    """The root of the store, where the indexes lie."""


@dataclass(frozen=True)
class Corpus:
    """A `Trained` that is open: its index, its texts and its tokenizer, under a name for the tokenizer."""

    trained: Trained
    index: Index
    texts: Texts
    chat: ChatTokenizer
    vocabulary: str


def open_corpus(trained: Trained, store: Path, emit: Emit) -> Corpus:
    """Opens what a model was trained on; makes its token shards and its index where they are not there yet.

    `store`: the root of the artifact store, where `tokens/` and `index/` lie. ArtifactError for what is damaged.
    """
    chat = ChatTokenizer.load(trained.tokenizer)
    shards = place(store / "tokens", trained.fingerprint, chat) / "train"
    folder = place(store / "index", trained.fingerprint, chat) / str(FORMAT)
    split = texts(trained.path / "train", folder / "texts")
    if not (folder / "index.json").exists():
        emit({"event": "message", "message": f"making the index of {trained.stage!r}, which is kept"})
    encode(split, chat, shards)
    build(shards, folder, emit)
    vocabulary = hashlib.sha256(chat.tokenizer.to_str().encode()).hexdigest()
    return Corpus(trained, Index(shards, folder), Texts(split), chat, vocabulary)


def open_near(corpus: Corpus, store: Path, emit: Emit) -> Near:
    """The signatures of a corpus' pieces, made where they are not there yet, beside its index. Errors as `open_corpus`."""
    folder = place(store / "index", corpus.trained.fingerprint, corpus.chat) / str(FORMAT) / "near"
    if not (folder / "near.json").exists():
        emit(
            {
                "event": "message",
                "message": f"signing the paragraphs of {corpus.trained.stage!r}, which is kept",
            }
        )
    sign(corpus.texts.folder, folder, emit)
    return Near(folder)

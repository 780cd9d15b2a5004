"""A tokenizer and models small enough to make anew: shared by the tests that need a real one."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from chat_server import Server
from random_models import random_model

from trivium.model import hf
from trivium.model.transformer import Transformer
from trivium.text import tokenizer
from trivium.text.chat import ChatTokenizer

hypothesis.settings.register_profile("trivium", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("trivium")

# A shell starts what it runs in the background with Ctrl-C ignored; so would be what the tests stop with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests start (a hundred processes) reads bytecode instead of compiling some hundred files each.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What was written outlives a killed process without it, and no test cuts the power: it is waiting for the disk, for nothing.
os.fsync = lambda descriptor: None  # type: ignore[assignment]

STARTED = time.monotonic()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of chats on loopback, whose answers the test decides."""
    made = Server()
    yield made
    made.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes", type=float, help="start no further test after so many minutes: those are skipped"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Running out of time is told apart from failing: what was not reached is skipped, and -rs lists it."""
    minutes = item.config.getoption("--minutes")
    slow = item.get_closest_marker("slow")
    needed = slow.args[0] if slow and slow.args else 0
    if minutes is not None and time.monotonic() - STARTED >= 60 * (minutes - needed):
        pytest.skip(
            f"not reached within {minutes:g} minutes{f', of which it needs {needed}' if needed else ''}"
        )


FIRST = (
    *(
        "test_parallel",
        "test_end_to_end",
        "test_withdraw_chain",
        "test_distributed",
        "test_launch",
        "test_documents",
    ),
    *(
        "test_plugins",
        "test_side_by_side",
        "test_store_shared",
        "test_restarted_ranks",
        "test_crawl",
        "test_build",
    ),
)
"""Files that take longest: with several workers they are begun first, so that none is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


TEXTS = [
    f"{who} {does} the {what} {where}."
    for who in ("the cat", "a dog", "my friend", "the teacher", "nobody")
    for does in ("sees", "finds", "likes", "forgets")
    for what in ("red ball", "old book", "long street", "answer 42")
    for where in ("in the garden", "at noon", "by the sea")
]


@pytest.fixture(scope="session")
def chat() -> ChatTokenizer:
    """320 tokens: the special ones, all bytes, and a few dozen merges."""
    return ChatTokenizer(tokenizer.train(TEXTS, 320))


@pytest.fixture(scope="session")
def model() -> Transformer:
    return random_model()


@pytest.fixture
def checkpoint(chat: ChatTokenizer, tmp_path: Path) -> Callable[..., Path]:
    """Writes a random checkpoint and gives its folder: `checkpoint("name", seed=1)`."""

    def make(name: str = "checkpoint", **changes: Any) -> Path:
        folder = tmp_path / name
        made = random_model(**changes)
        hf.save(made, folder, eos=chat.end, pad=chat.pad)
        chat.save(folder, context=made.config.context)
        return folder

    return make


@pytest.fixture
def write_lines() -> Callable[[Path, Iterable[Any]], Path]:
    """Writes values as JSON lines."""

    def write(path: Path, values: Iterable[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def write_documents() -> Callable[[Path, int, Iterable[str]], Path]:
    """Writes texts as a source of a documents artifact: `write_documents(artifact / "train", 0, texts)`; with their licences."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(split: Path, source: int, texts: Iterable[str], licences: Sequence[str] = ()) -> Path:
        split.mkdir(parents=True, exist_ok=True)
        rows = [{"key": f"{source}/{number}", "text": text} for number, text in enumerate(texts)]
        for row, licence in zip(rows, licences, strict=bool(licences)):
            row["license"] = licence
        pq.write_table(pa.Table.from_pylist(rows), split / f"{source:02d}-text-00000.parquet")
        return split

    return write

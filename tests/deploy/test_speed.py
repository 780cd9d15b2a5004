"""What a file takes to serve: told by a process of its own for a checkpoint and for a GGUF, or told to be unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trivium.deploy import speed
from trivium.deploy.export import write
from trivium.deploy.rows import TokenRow
from trivium.model import hf
from trivium.text.chat import ChatTokenizer
from trivium.types import Event

pytestmark = pytest.mark.slow
ROWS = [TokenRow([5, 6, 7, 8, 9], [3, 4])]


def test_a_checkpoint_and_a_gguf_are_served_with_a_speed_and_a_peak(
    checkpoint: Callable[..., Path], chat: ChatTokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    folder, said = checkpoint("small", dim=64, head_dim=16, hidden=96), list[Event]()
    file = tmp_path / "small.gguf"
    write(file, "q8_0", hf.load(folder), chat, "small")
    for path, engine in ((folder, "torch"), (file, "llama.cpp")):
        found = speed.served(path, ROWS, 64, said.append)
        assert not said
        assert found["engine"] == engine
        assert found["tokens_per_second"] > 0
        assert 0 < found["peak_memory"] < 1 << 30


def test_what_is_not_served_is_told_and_not_a_failure(tmp_path: Path) -> None:
    said = list[Event]()
    assert speed.served(tmp_path / "none", ROWS, 64, said.append) == {}
    assert "none was not served by torch" in said[0]["message"]

"""The example of the Python API does what it says, and a second run makes nothing anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "examples" / "python_api.py"


@pytest.mark.slow
def test_from_text_to_a_reply(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("python_api", FILE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    found = example.main(tmp_path, size=120, tokens=16_000, epochs=0.5)
    shown = capsys.readouterr().out
    assert list(found["made"]) == ["corpus", "dialogues", "vocab", "base", "sft", "tested"]
    assert found["losses"]["base"][-1] < found["losses"]["base"][0]
    nats = {
        model: sum(row["score"] for row in found["rows"] if row["model"] == model)
        for model in ("base", "sft")
    }
    assert nats["sft"] < nats["base"]
    assert shown.count("nats a token over 40 replies") == 2 and "What is 12 + 30? -> " in shown

    again = example.main(tmp_path, size=120, tokens=16_000, epochs=0.5)
    assert again["losses"] == {}, "all of it was in the store"
    assert again["reply"] == found["reply"]
    changed = example.main(tmp_path, size=120, tokens=16_000, epochs=1.0)
    assert set(changed["losses"]) == {"sft"}, "only what hangs on the field that changed"

"""The command line in this process, over a tiny recipe whose stages are stand-ins."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from trivium.cli import main

RECIPE = """\
name: tiny
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  vocab: {kind: tokenizer, data: corpus}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, model: {dim: 64, heads: 4, layers: 2}, steps: 10}
  more: {kind: pretrain, data: corpus, tokenizer: vocab, init: base, model: {dim: 64, heads: 4, layers: 2}, epochs: 1}
"""


def stand_in(stage: Any, recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes to `folder`, writes `tiny.yaml` there, and lets `stage` run in the place of what its stages are."""
    monkeypatch.chdir(folder)
    module = types.ModuleType("trivium.pipeline.stages")
    module.STAGES = dict.fromkeys(("data", "tokenizer", "pretrain"), stage)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trivium.pipeline.stages", module)
    Path("tiny.yaml").write_text(recipe)


def trivium(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code

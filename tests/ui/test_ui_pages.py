"""The pages over a real run, in Chromium: what a person sees is what the log and the artifacts say, and nothing of it runs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from trivium.rollout.plan import load_plan

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=\"window.ran = 'image'\"><script>window.ran = 'script'</script>"
COPY = f"This text stands here twice, and so one of the two is dropped as a copy. {HOSTILE}"
ASKED = "Where are the keys?"
SAID = f"Nine brass keys lie under the fourth stair. {HOSTILE}"
ECHO = """
name: echo
seed: 7
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: texts.jsonl}]}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl}], dedup: {exact: false}}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 320}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 64, layers: 2, heads: 2, context: 160}
    steps: 5
    batch: 4
    samples: null
    compile: "off"
  sft:
    kind: sft
    init: base
    data: talks
    steps: 150
    batch: 1
    lr: 0.01
    samples: null
    compile: "off"
    generation: {temperature: 0, max_new_tokens: 120}
"""
RECIPE = """
name: {name}
seed: 7
stages:
  corpus: {{kind: data, sources: [{{kind: jsonl, path: texts.jsonl}}]}}
  vocab: {{kind: tokenizer, data: corpus, vocab_size: 300}}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {{dim: 16, layers: 1, heads: 2, context: 32}}
    steps: 6
    batch: 2
    lr: {lr}
    log_every: 1
    compile: "off"
"""


def trivium(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", "from trivium.cli import main; import sys; main(sys.argv[1:])", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs that differ in one field, and one that has learned a single reply by heart."""
    folder = tmp_path_factory.mktemp("ui")
    texts = [COPY] * 2 + [
        f"The cat number {n} sees the red ball {n * n} in the garden. {HOSTILE}" for n in range(300)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
    (folder / "talks.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (folder / "echo.yaml").write_text(ECHO)
    for name, lr in (("first", 0.001), ("second", 0.01)):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name, lr=lr))
        subprocess.run(trivium(folder, "run", f"{name}.yaml"), cwd=folder, check=True, capture_output=True)
    subprocess.run(trivium(folder, "run", "echo.yaml"), cwd=folder, check=True, capture_output=True)
    plan = load_plan(ROOT / "examples" / "rollout.yaml").model_dump(mode="json")
    (folder / "rollout.jsonl").write_text(json.dumps({"t": 0.0, "event": "started", "plan": plan}) + "\n")
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    app = subprocess.Popen(
        trivium(folder, "ui", "--port", str(port), "--rollout", "rollout.jsonl"),
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
    )
    root = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(root, timeout=1)
                break
            except httpx.TransportError:
                assert app.poll() is None, "trivium ui ended"
                time.sleep(0.2)
        yield root
    finally:
        app.terminate()
        app.wait(20)


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

PATIENCE = 120_000
"""Milliseconds."""


def seen(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for(timeout=PATIENCE)


def test_the_list_leads_to_a_run_with_its_stages(page: Any, address: str, folder: Path) -> None:
    page.goto(address)
    seen(page, "second")
    page.get_by_role("link", name="first").click()
    seen(page, "first: done")
    for stage in ("corpus", "vocab", "base"):
        seen(page, stage)


def test_curves_samples_data_and_lineage_are_shown_and_nothing_in_them_runs(page: Any, address: str) -> None:
    page.goto(f"{address}/run/first")
    for tab, text in (
        ("Stages", "Plan beside actual"),
        ("Curves", "smoothing"),
        ("Data", "documents that were dropped"),
        ("Lineage", "vocab"),
        ("Samples", "base"),
    ):
        page.get_by_role("tab", name=tab).click()
        seen(page, text)
        page.wait_for_timeout(500)
    assert page.evaluate("window.ran") is None


def test_where_the_page_is_narrow_a_lineage_opens_on_its_artifact(page: Any, address: str) -> None:
    wide = page.viewport_size
    page.set_viewport_size({"width": 220, "height": 700})
    page.goto(f"{address}/run/first?tab=Lineage")
    page.wait_for_function(
        "() => { const node = document.querySelector('svg g.node')?.getBoundingClientRect();"
        "return node && node.left >= 0 && node.right <= innerWidth && node.top <= innerHeight }",
        timeout=PATIENCE,
    )
    page.set_viewport_size(wide)


def test_two_runs_are_compared_by_their_fields(page: Any, address: str) -> None:
    page.goto(f"{address}/compare?runs=first,second")
    seen(page, "base.lr")
    seen(page, "0.01")


def test_a_run_that_grows_is_followed(page: Any, address: str, folder: Path) -> None:
    page.goto(f"{address}/run/second")
    seen(page, "second: done")
    with (folder / "runs" / "second" / "events.jsonl").open("a") as file:
        file.write(
            json.dumps({"time": "2026-01-01T12:00:00+00:00", "event": "run_start", "stages": ["base"]}) + "\n"
        )
        failed = {"event": "stage_failed", "stage": "base", "error": f"no room {HOSTILE}"}
        file.write(json.dumps({"time": "2026-01-01T12:00:00+00:00", **failed}) + "\n")
    seen(page, "second: failed")
    seen(page, "no room")
    assert page.evaluate("window.ran") is None


def test_a_checkpoint_answers(page: Any, address: str) -> None:
    page.goto(f"{address}/chat")
    page.get_by_label("question").fill("The cat")
    page.get_by_role("button", name="Ask").click()
    page.locator(".q-message-received").first.wait_for(timeout=PATIENCE)
    page.wait_for_function(
        "document.querySelector('.q-message-received').innerText.length > 12", timeout=PATIENCE
    )


def test_a_reply_is_traced_to_its_documents(page: Any, address: str) -> None:
    page.goto(f"{address}/chat")
    page.get_by_label("model").click()
    page.get_by_role("option", name="echo/sft").click()
    page.get_by_label("question").fill(ASKED)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("button", name="Trace").first.click(timeout=120_000)
    page.locator(".traced .span").first.wait_for(timeout=240_000)
    assert page.locator(".traced").inner_text() == SAID
    page.get_by_text("1. ").first.click()
    seen(page, "messages[1] (assistant)")
    assert page.evaluate("window.ran") is None


def test_the_store_and_what_is_not_there(page: Any, address: str) -> None:
    page.goto(f"{address}/store")
    seen(page, "token shards")
    page.goto(f"{address}/run/none")
    seen(page, "There is no run")


def test_other_sites_are_not_answered(address: str) -> None:
    assert httpx.get(address, headers={"Host": "example.org"}).status_code == 403
    assert httpx.get(address, headers={"Origin": "https://example.org"}).status_code == 403
    assert httpx.get(address).status_code == 200


def test_a_sweep_is_shown_with_its_verdict_and_a_broken_one_is_said(
    page: Any, address: str, folder: Path
) -> None:
    run = {
        "point": {"name": "first", "values": {"base.lr": "1e-3"}},
        "metrics": {"base.loss": {"value": 2.0}},
        "error": "",
    }
    place = {
        "values": {"base.lr": "1e-3"},
        "seeds": 1,
        "mean": 2.0,
        "low": None,
        "high": None,
        "behind": 0.0,
        "beaten": False,
    }
    told = {"recipe": "first", "axes": {"base.lr": ["1e-3", "2e-3"]}, "metric": "base.loss", "better": "less"}
    told |= {"verdict": f"base.lr=1e-3 is ahead {HOSTILE}", "places": [place], "runs": [run]}
    (folder / "runs" / "first.sweep.json").write_text(json.dumps(told))
    (folder / "runs" / "broken.sweep.json").write_text('{"recipe": ')
    page.goto(f"{address}/sweeps")
    seen(page, "base.lr=1e-3 is ahead")
    seen(page, "broken.sweep.json cannot be read")
    assert page.evaluate("window.ran") is None


def test_each_measure_has_its_chart(page: Any, address: str) -> None:
    page.goto(f"{address}/run/first")
    page.get_by_role("tab", name="Curves").click()
    page.locator("canvas").nth(4).wait_for(timeout=PATIENCE)
    page.get_by_label("x", exact=True).click()
    page.get_by_role("option", name="FLOPs").click()


def test_a_rollout_that_is_only_a_log_is_shown_and_cannot_be_moved(page: Any, address: str) -> None:
    page.goto(f"{address}/rollouts")
    seen(page, "running")
    inside = page.frame_locator("iframe")
    inside.get_by_text("stage 1 of 4").wait_for(timeout=PATIENCE)
    inside.get_by_label("Reason").fill("a try")
    inside.get_by_role("button", name="Promote").click()
    inside.get_by_text("only its router writes this log").wait_for(timeout=PATIENCE)
    assert (
        httpx.post(f"{address}/rollout/0/promote", headers={"Origin": "https://example.org"}).status_code
        == 403
    )
    assert httpx.get(f"{address}/rollout/9/status").status_code == 404


def test_replies_are_compared_blind_and_the_scores_are_shown(page: Any, address: str, folder: Path) -> None:
    from trivium.evaluate import rows

    def row(model: str, item: int) -> rows.Row:
        prompt = json.dumps([{"role": "user", "content": f"question {item}"}])
        said = f"{model} says {item} {HOSTILE}"
        about = ("redteam", "direct", f"c{item}", f"i{item}", model, 0, prompt, "template", "f", said)
        return rows.Row(*about, "refused", "hit", "", 1.0, 1.0, 0.1)

    stage = folder / "runs" / "first" / "safety"
    stage.mkdir(exist_ok=True)
    rows.write(stage / "rows.parquet", [row(model, item) for model in ("one", "two") for item in range(3)])
    page.goto(f"{address}/arena")
    page.get_by_role("button", name="Compare replies").click()
    inside = page.frame_locator("iframe")
    inside.get_by_text("0 of 3").wait_for(timeout=PATIENCE)
    inside.get_by_role("button", name="Left").click()
    inside.get_by_text("1 of 3").wait_for(timeout=PATIENCE)
    assert page.evaluate("window.ran") is None
    page.get_by_role("button", name="Scores").click()
    seen(page, "One rater")
    assert httpx.get(f"{address}/votes/first/nothing/").status_code == 404

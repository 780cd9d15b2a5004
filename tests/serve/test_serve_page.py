"""The chat page in Chromium: it streams, stops and retries, and runs nothing that a model writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from random_models import random_model
from served import Served

from trivium.corpus.rows import record
from trivium.errors import DataError
from trivium.serve.engines import Limits
from trivium.serve.local import TorchEngine

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

HOSTILE = """<script>window.ran = "script"</script>
<img src=x onerror="window.ran = 'image'">
[a link](javascript:window.ran='link') and [another](https://example.org/)
<a href="javascript:window.ran='anchor'">text</a>
```html
<script>window.ran = "fence"</script>
```
<iframe srcdoc="<script>parent.ran = 'frame'</script>"></iframe> **bold** `<svg onload=window.ran=1>`"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    page = browser.new_page(bypass_csp=True)  # what the policy would stop must not be there to be stopped
    response = page.goto(served.root)
    assert "script-src 'self';" in response.headers["content-security-policy"]
    page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
    yield page
    page.close()


def idle(page: Any) -> None:
    page.wait_for_function("document.getElementById('stop').disabled")


def test_a_question_is_answered_and_asked_again(page: Any, served: Served) -> None:
    page.fill("#text", "the cat sees the red ball")
    page.press("#text", "Enter")
    page.wait_for_selector("article.assistant")
    idle(page)
    first = page.inner_text("article.assistant div")
    assert len(first) > 1
    page.click("#retry")
    idle(page)
    assert page.inner_text("article.assistant div") == first
    assert page.locator("article").count() == 2


def ask(page: Any, text: str) -> str:
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.wait_for_selector("article.assistant")
    idle(page)
    return str(page.locator("article.assistant div").first.inner_text())


def test_a_question_is_edited_and_the_branches_stay(page: Any) -> None:
    first = ask(page, "the cat sees the red ball")
    page.click("article.user >> text=Edit")
    page.fill("article.user textarea", "nobody finds the old book")
    page.click("text=Ask")
    page.wait_for_selector("text=2/2")
    idle(page)
    assert page.inner_text("article.user p") == "nobody finds the old book"
    second = page.locator("article.assistant div").first.inner_text()
    assert second != first
    page.click("article.user [aria-label='the branch before']")
    assert page.inner_text("article.user p") == "the cat sees the red ball"
    assert page.locator("article.assistant div").first.inner_text() == first
    page.click("#retry")
    idle(page)
    assert "2/2" in page.inner_text("article.assistant .tools")
    assert "1/2" in page.inner_text("article.user .tools")


def test_probabilities_are_told_of_every_token(page: Any) -> None:
    page.check("#chances")
    ask(page, "the cat")
    tokens = page.locator("article.assistant span.token")
    assert tokens.count() > 3
    assert "%" in tokens.first.get_attribute("title")
    assert len(tokens.first.get_attribute("title").splitlines()) == 2 + 5


def test_a_thumb_and_its_reason_are_kept_as_a_row_of_feedback(
    browser: Any, service: TorchEngine, tmp_path: Path
) -> None:
    engine = TorchEngine(service.model, service.chat, "tiny", service.generation, Limits(tokens=1024))
    judged = Served(engine, feedback=tmp_path / "said.jsonl")
    page = browser.new_page(bypass_csp=True)
    page.goto(judged.root)
    page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
    reply = ask(page, "the cat")
    page.click("[aria-label='a bad reply']")
    page.fill(".reason", "it says <b>nothing</b>")
    page.press(".reason", "Enter")
    page.wait_for_selector("[aria-label='a bad reply'][aria-pressed=true]")
    [row] = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert row["prompt"] == [{"role": "user", "content": "the cat"}]
    assert row["completion"].split() == reply.split()
    assert (row["label"], row["reason"], row["model"]) == (False, "it says <b>nothing</b>", "tiny")
    assert record(row, "feedback")["label"] == 0
    page.close()
    judged.close()


@pytest.mark.slow
def test_two_models_answer_side_by_side_each_with_its_own_story(
    browser: Any, service: TorchEngine, tmp_path: Path
) -> None:
    few = Limits(tokens=1024)
    engines = [
        TorchEngine(model, service.chat, name, service.generation, few)
        for name, model in (("tiny", service.model), ("other", random_model(context=512, seed=9)))
    ]
    both = Served(engines[0], beside=engines[1], feedback=tmp_path / "said.jsonl")
    asked: list[Any] = []
    page = browser.new_page(bypass_csp=True)
    page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("completions") else None)
    page.goto(both.root)
    page.wait_for_selector("text=other beside it")
    alone = ask(page, "the cat")
    assert page.locator("article.assistant section").count() == 0
    page.click("#new")
    page.check("#beside")
    ask(page, "the cat")
    halves = page.locator("article.assistant section")
    assert [halves.nth(n).locator("b").inner_text() for n in range(2)] == ["tiny", "other"]
    said = [halves.nth(n).locator("div").first.inner_text() for n in range(2)]
    assert said[0] == alone
    assert said[1] not in ("", alone)
    page.fill("#text", "and the dog")
    page.press("#text", "Enter")
    page.wait_for_function("document.querySelectorAll('article.assistant').length === 2")
    idle(page)
    told = {body["model"]: body["messages"] for body in asked[-2:]}
    assert {len(messages) for messages in told.values()} == {3}
    assert told["tiny"][1]["content"] != told["other"][1]["content"]
    page.locator("article.assistant section [aria-label='a good reply']").nth(1).click()
    page.fill(".reason", "shorter")
    page.press(".reason", "Enter")
    page.wait_for_selector("[aria-label='a good reply'][aria-pressed=true]")
    [row] = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert (row["model"], row["completion"]) == ("other", told["other"][1]["content"])
    page.close()
    both.close()


def test_a_reply_is_stopped_and_its_server_is_told(page: Any, served: Served) -> None:
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=json.dumps({**json.loads(route.request.post_data), "max_tokens": 400, "logit_bias": {"40": 100}})
    ))  # fmt: skip
    page.fill("#text", "the cat")
    page.press("#text", "Enter")
    page.wait_for_function("document.querySelector('article.assistant div')?.textContent.length > 2")
    page.evaluate(
        "document.getElementById('stop').click()"
    )  # at once: a short reply may be over by the time of a click
    idle(page)
    assert page.inner_text("#note") in (
        "stopped",
        "cut: the longest reply, or the end of the context",
        "400 tokens",
    )
    page.wait_for_function("fetch('ready').then(r => r.json()).then(r => r.sequences === 0)")


def test_nothing_that_a_model_writes_runs(page: Any) -> None:
    chunks = [HOSTILE[start : start + 7] for start in range(0, len(HOSTILE), 7)]
    lines = [
        {"choices": [{"index": 0, "delta": {"content": chunk}, "finish_reason": None}]} for chunk in chunks
    ]
    body = "".join(f"data: {json.dumps(line)}\n\n" for line in lines) + "data: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=200, body=body, headers={"Content-Type": "text/event-stream"}
    ))  # fmt: skip
    page.fill("#text", "<script>window.ran = 'asked'</script>")
    page.press("#text", "Enter")
    page.wait_for_selector("article.assistant strong")
    idle(page)
    for link in page.locator("article a").all():
        assert link.get_attribute("href") == "https://example.org/"
    assert page.locator("article a").count() == 1
    assert page.locator("article script, article img, article iframe, article svg").count() == 0
    assert "<script>" in page.inner_text("article.assistant")
    assert "javascript:" in page.inner_text("article.assistant")
    assert page.evaluate("window.ran") is None


def test_a_reply_is_traced_and_nothing_that_a_document_says_runs(browser: Any, service: TorchEngine) -> None:
    asked: list[str] = []

    def trace(reply: str) -> dict[str, Any]:
        if len(asked) == 1:
            asked.append(reply)
            raise DataError("the reply has 3 tokens, and spans of 8 and more are looked for")
        asked.append(reply)
        document = {
            "name": f"https://e.org/{HOSTILE}", "terms": f"corpus: warc ({HOSTILE})", "before": HOSTILE, "after": HOSTILE,
            "similarity": 0.5, "passage": HOSTILE,
        }  # fmt: skip
        span = {"tokens": 9, "count": 2, "text": HOSTILE, "documents": [document]}
        return {
            "pieces": [("🙂 not in a span; ", None), (HOSTILE, 0)], "verbatim": 0.5, "least": 8, "spans": [span],
            "unknown": [f"what {HOSTILE} saw"], "near": [{"documents": [document]}],
        }  # fmt: skip

    few = Limits(tokens=1024)
    server = Served(
        TorchEngine(service.model, service.chat, "tiny", service.generation, few), traces={"tiny": trace}
    )
    page = browser.new_page(bypass_csp=True)
    page.goto(server.root)
    page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
    ask(page, "the cat")
    page.click("article.assistant >> text=Trace")
    page.wait_for_selector("article.assistant span.span")
    assert page.inner_text("article.assistant span.span").startswith("<script>")
    assert "50% of it stands verbatim" in page.inner_text("article.assistant")
    for box in page.locator("details").all():
        box.locator("summary").click()
    assert page.locator("details").count() == 2
    assert "…<script>" in page.locator("details").first.inner_text()
    article = page.locator("article.assistant")
    assert article.locator("script, img, iframe, svg, a").count() == 0
    assert page.evaluate("window.ran") is None
    page.click("article.assistant >> text=Trace")
    page.wait_for_selector("article.assistant .error")
    assert "3 tokens" in page.inner_text("article.assistant .error")
    assert asked[0] == asked[1]  # the reply, as the model wrote it
    page.close()
    server.close()


def test_without_lineage_there_is_no_button(page: Any, served: Served) -> None:
    ask(page, "the cat")
    assert page.locator("article.assistant >> text=Trace").count() == 0
    refused = page.request.post(f"{served.root}/trace", data={"reply": "the cat sees"})
    assert refused.status == 404 and "not traced here" in refused.json()["error"]["message"]


def test_what_went_wrong_is_told(page: Any) -> None:
    page.fill("#temperature", "9")
    page.fill("#text", "the cat")
    page.press("#text", "Enter")
    page.wait_for_selector(".error")
    assert "temperature" in page.inner_text(".error")

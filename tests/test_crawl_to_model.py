"""From a site to a model: crawled, extracted, deduplicated, tokenised and trained on, through the ordinary runner."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trivium import Recipe, run
from trivium.files import read_json

WORDS = """the a red old long river house door bird stone walks sees finds keeps under over beside along quiet
morning""".split()  # noqa: SIM905


def page(number: int) -> str:
    """Text of its own; page 7 is page 6 again."""
    draw = random.Random(6 if number == 7 else number)
    said = ". ".join(" ".join(draw.choices(WORDS, k=12)).capitalize() for _ in range(12))
    links = "".join(f'<a href="/{number * 2 + step}">more</a>' for step in (1, 2) if number * 2 + step < 20)
    return f"<html><head><title>Page</title></head><body><main><p>{said}.</p></main>{links}</body></html>"


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/") or "0"
            body = page(int(name)).encode() if name.isdigit() else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/0"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_site_becomes_a_model(site, tmp_path):
    source = {
        "kind": "crawl", "private": True, "start": [site], "delay": "0.01s", "agent": "trivium-test (+https://example.org/bot)",
        "folder": str(tmp_path / "pages"), "license": "CC0-1.0", "origin": "a test site",
    }  # fmt: skip
    stages = {
        "corpus": {"kind": "data", "sources": [source], "heldout": 0.1},
        "vocab": {"kind": "tokenizer", "data": "corpus", "vocab_size": 320},
        "base": {
            "kind": "pretrain", "data": "corpus", "tokenizer": "vocab", "steps": 3, "batch": 2, "device": "cpu",
            "model": {"dim": 32, "layers": 1, "heads": 2, "context": 64}, "compile": "off",
        },
    }  # fmt: skip
    made = run(
        Recipe.model_validate({"name": "site", "seed": 1, "stages": stages}),
        store=tmp_path / "store",
        runs=tmp_path / "runs",
    )
    account = read_json(made["corpus"].path / "account.json")
    (source_account,) = account["sources"]
    kept = source_account["train_items"] + source_account["heldout_items"]
    assert kept == 14 and source_account["dropped"]["exact"] == 1
    shown = made["base"].record["metrics"]["data"]["sources"]
    assert [(one["kind"], one["license"], one["realised"]) for one in shown] == [("crawl", "CC0-1.0", 1.0)]
    assert made["base"].record["metrics"]["after"]["loss"] < made["base"].record["metrics"]["before"]["loss"]

"""A traced reply on the terminal and as a page: what others wrote is shown and never obeyed."""

from __future__ import annotations

import pytest

from trivium.report.trace import html, pieces, show


def span(start: int, end: int, reply: str) -> dict:
    stages = [{"stage": "base", "kind": "pretrain", "epochs": 2.0}]
    document = {
        "data": "corpus", "source": 0, "document": 3, "url": "https://e.org/<x>", "kind": "warc", "license": None,
        "character": 4, "times": 1, "before": "<script>alert(1)</script>", "after": "[/]", "stages": stages,
    }  # fmt: skip
    return {
        "start": start, "end": end, "text": reply[start:end], "tokens": 9, "count": 1, "improbability": 40.0,
        "documents": [document],
    }  # fmt: skip


@pytest.fixture
def report() -> dict:
    reply = "0123<img src=x>[bold]9"
    spans = [span(2, 8, reply), span(6, 12, reply)]
    near = {**spans[0]["documents"][0], "similarity": 0.5, "passage": "<script>alert(2)</script>"}
    return {
        "model": "m",
        "unknown": ["what 'hub' saw"],
        "reply": reply,
        "least": 8,
        "verbatim": 0.5,
        "spans": spans,
        "near": [{"start": 0, "end": 21, "documents": [near]}, {"start": 0, "end": 4, "documents": []}],
    }


def test_the_pieces_are_the_reply_and_the_better_span_has_what_both_hold(report):
    found = pieces(report)
    assert "".join(piece.text for piece in found) == report["reply"]
    assert [piece.span for piece in found] == [None, 0, 1, None]
    assert found[1].text == report["reply"][2:8]


def test_the_page_escapes_what_others_wrote(report):
    page = html(report)
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;alert(2)" in page and "50% alike" in page and "No document says nearly" in page
    assert "&lt;script&gt;alert(1)" in page and "https://e.org/&lt;x&gt;" in page
    assert 'href="#span-1"' in page and 'id="span-2"' in page and "what &#39;hub&#39; saw" in page


def test_the_terminal_shows_markup_of_others_as_text(report, capsys):
    show(report)
    said = capsys.readouterr().out
    assert "[bold]9" in said and "<script>alert(1)</script>" in said and "licence unknown" in said
    assert "read by base (pretrain, 2 epochs)" in said
    assert "50% https://e.org/<x>" in said and "nothing is near to '0123'" in said

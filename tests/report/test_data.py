"""The account of data as people see it: every number there, nothing in it that runs."""

from __future__ import annotations

import json

import pytest

from trivium.errors import ArtifactError
from trivium.report import data

ACCOUNT = {
    "format": "documents",
    "steps": [
        {"name": "read", "documents_in": 40, "documents_out": 40, "characters_in": 4000,
         "characters_out": 4000, "bytes_in": 4100, "bytes_out": 4100, "reasons": {}, "samples": {}},
        {
            "name": "gopher", "documents_in": 40, "documents_out": 10, "characters_in": 4000,
            "characters_out": 1234, "bytes_in": 4100, "bytes_out": 1250,
            "reasons": {"gopher:min_words": 30},
            "samples": {"gopher:min_words": [{"key": "https://a.example/1", "text": "<script>alert(1)</script> [red]x\x1b[31m"}]},
        },
    ],
    "sources": [
        {
            "kind": "warc", "license": "CC-BY-4.0", "origin": "crawl", "train_items": 9, "heldout_items": 1,
            "train_characters": 1200, "planned_share": 0.75, "realised_share": 1.0,
            "files": {"found": 217, "read": 209, "passed_over": {"ends in .cdx": 8}},
        }
    ],
    "languages": {"en": 7, "de": 2}, "lengths": {"128": 3, "1024": 6}, "domains": [["a.example", 9]],
    "clusters": {"count": 1, "largest": [2], "sizes": {"2": 1}, "examples": [["key-one", "key-two"]]},
    "statistics": {"prompt_characters": {"median": 31, "p95": 77, "max": 1099}, "desirable_share": 0.375},
    "pii": {"email": 3}, "dead_letters": 1, "contamination": {"talks": {"documents": 4, "items_flagged": 5}},
}  # fmt: skip


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "account.json").write_text(json.dumps(ACCOUNT))
    letter = {"where": "crawl.warc.gz", "offset": 17, "reason": "truncated member"}
    (folder / "dead_letters.jsonl").write_text(json.dumps(letter) + "\n")
    return folder


SAID = (
    "gopher:min_words",
    "25.0%",
    "1,234",
    "CC-BY-4.0",
    "75.0%",
    "a.example",
    "key-two",
    "email",
    "talks",
    "truncated member",
    "31 / 77 / 1,099",
    "37.5%",
    "209",
    "ends in .cdx 8",
)


def test_the_terminal_shows_all_of_it_and_obeys_none_of_it(artifact, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    data.show(data.load(artifact))
    out = capsys.readouterr().out
    for said in SAID:
        assert said in out
    assert "[red]x" in out and "\x1b[31m" not in out


def test_the_page_shows_all_of_it_and_runs_none_of_it(artifact):
    page = data.html(data.load(artifact))
    for said in SAID:
        assert said in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<svg") >= 5 and "http" not in page.replace("https://a.example/1", "")


def test_bars_are_as_high_as_their_counts():
    made = data.bars([("a", 1), ("b", 2), ("c", 0)])
    assert [bar.height for bar in made] == [data.HEIGHT / 2, data.HEIGHT, 0]
    assert data.bars([]) == []


def test_items_have_an_account_without_counted_steps(artifact, capsys):
    account = {"format": "conversations", "sources": ACCOUNT["sources"], "steps": [{"step": "read"}]}
    (artifact / "account.json").write_text(json.dumps(account))
    data.show(data.load(artifact))
    assert "warc" in capsys.readouterr().out
    assert "warc" in data.html(data.load(artifact))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"steps": []}'])
def test_no_account_is_an_artifact_error(tmp_path, content):
    if content is not None:
        (tmp_path / "account.json").write_text(content)
    with pytest.raises(ArtifactError, match="account"):
        data.load(tmp_path)

"""`trivium chat --url` with a server."""

from __future__ import annotations

import pytest
from served import Served

from trivium.cli import main


def chat(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["chat", *arguments])
    return ended.value.code


def test_a_question_to_a_server(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    replies = []
    for url in (served.root, served.url):
        assert chat("--url", url, "-p", "the cat", "--max-new-tokens", "9") == 0
        replies.append(capsys.readouterr().out)
    assert replies[0] == replies[1]
    assert len(replies[0]) > 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "http://127.0.0.1:9"], "cannot be reached"),
        (["--url", "ftp://x"], "no http"),
        (["--url", "SERVER", "--model", "other"], "there is no model 'other'"),
        (["--url", "SERVER", "--temperature", "9"], "temperature"),
        (["--url", "SERVER", "--key", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["somewhere", "--url", "SERVER"], "one of them"),
        ([], "one of them"),
    ],
)
def test_what_goes_wrong_is_told(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code = chat(*(served.root if a == "SERVER" else a for a in arguments), "-p", "the cat")
    assert code in (2, 3)
    assert told in capsys.readouterr().err.replace("\n", " ")

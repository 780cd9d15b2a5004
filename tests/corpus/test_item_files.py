"""A user's own files: every mistake is said with file, line and fix."""

import json
from collections import Counter
from pathlib import Path

import pytest

from trivium.corpus import files
from trivium.errors import DataError


def lines(folder: Path, *rows: object) -> None:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (folder / "data.jsonl").write_text(text + "\n", encoding="utf-8")


def read(folder: Path, format: str, limit: int = 0) -> tuple[list[dict], Counter[str], list[dict]]:
    events: list[dict] = []
    dropped: Counter[str] = Counter()
    found = files.jsonl("data.jsonl", folder, format, limit, events.append, dropped)
    return [item.record for item in found], dropped, events


ASK = {"role": "user", "content": "Why?"}
SAY = {"role": "assistant", "content": "Because."}


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("documents", {"text": "hello"}),
        ("conversations", {"messages": [ASK, SAY]}),
        ("conversations", {"prompt": "Why?", "completion": "Because."}),
        ("conversations", {"prompt": [ASK], "completion": [SAY]}),
        ("preferences", {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}),
        ("preferences", {"prompt": [ASK], "chosen": [ASK, SAY], "rejected": [{**SAY, "content": "No."}]}),
    ],
)
def test_every_form_of_columns_is_read(tmp_path: Path, format: str, row: dict) -> None:
    lines(tmp_path, row)
    [record], _, _ = read(tmp_path, format)
    if format == "conversations":
        assert record["messages"] == [ASK, SAY]
    elif format == "preferences":
        assert (record["prompt"], record["chosen"], record["rejected"]) == ([ASK], "Because.", "No.")
    else:
        assert record["text"] == "hello"


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        ("documents", "{not json", "no JSON"),
        ("documents", "[1]", "not an object"),
        ("documents", {"txt": "a"}, "no `text`"),
        ("documents", {"text": 3}, "not a string"),
        ("documents", {"text": "  "}, "`text` is empty"),
        ("documents", '{"text": "\\ud800"}', "surrogate"),
        ("conversations", {"messages": [ASK]}, "no assistant"),
        ("conversations", {"messages": []}, "not a list of turns"),
        ("conversations", {"messages": [{"role": "bot", "content": "x"}, SAY]}, "unknown role 'bot'"),
        ("conversations", {"prompt": "a", "completion": ""}, "`completion` is empty"),
        ("preferences", {"prompt": "a", "chosen": "x", "rejected": "x "}, "equal"),
        ("preferences", {"prompt": "a", "chosen": "x"}, "no `rejected`"),
        ("preferences", {"prompt": [ASK], "chosen": [ASK], "rejected": [SAY]}, "`chosen` is not one"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path: Path, format: str, row: object, said: str) -> None:
    good = {
        "documents": {"text": "fine"},
        "conversations": {"messages": [ASK, SAY]},
        "preferences": {"prompt": "a", "chosen": "x", "rejected": "y"},
    }[format]
    lines(tmp_path, good, row, good)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, format)
    assert caught.value.where.endswith("data.jsonl:2")
    assert caught.value.fix
    records, dropped, events = read(tmp_path, format, limit=1)
    assert len(records) == 2
    assert dropped == {"malformed": 1}
    assert events[0]["event"] == "bad_line"
    assert events[0]["where"].endswith("data.jsonl:2")


def test_replies_to_one_prompt_share_a_key(tmp_path: Path) -> None:
    lines(tmp_path, {"prompt": "Why?", "completion": "a"}, {"prompt": "Why? ", "completion": "b"})
    records, _, _ = read(tmp_path, "conversations")
    assert records[0]["key"] == records[1]["key"]
    lines(tmp_path, {"prompt": "Why?", "chosen": "a", "rejected": "b"})
    assert read(tmp_path, "preferences")[0][0]["key"] == records[0]["key"]


def test_a_missing_path_an_empty_file_and_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: data\.jsonl"):
        read(tmp_path, "documents")
    (tmp_path / "data.jsonl").write_text("\n")
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path, "documents")
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    with pytest.raises(DataError, match="0xe9 at offset 13") as caught:
        read(tmp_path, "documents")
    assert caught.value.where.endswith("data.jsonl")


def test_text_from_a_file_a_folder_and_a_glob(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "a.txt", "in/c.md"):
        (tmp_path / name).write_text(f"text of {name}")
    for path, expected in {
        "a.txt": ["a.txt"],
        ".": ["a.txt", "b.txt", "in/c.md"],
        "*.txt": ["a.txt", "b.txt"],
        "**/*.md": ["in/c.md"],
    }.items():
        found = [item.record["text"] for item in files.texts(path, tmp_path)]
        assert found == [f"text of {name}" for name in expected]
        assert list(files.checksums(path, tmp_path)) == expected


def test_feedback_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "completion": "Because.", "label": True}]
    rows += [{"prompt": [ASK], "completion": [SAY], "label": 0}]
    lines(tmp_path, *rows)
    found, _, _ = read(tmp_path, "feedback")
    assert [(one["prompt"], one["completion"], one["label"]) for one in found] == [
        ([ASK], "Because.", 1),
        ([ASK], "Because.", 0),
    ]


def test_a_pair_of_whole_conversations_has_its_prompt_in_it(tmp_path: Path) -> None:
    lines(tmp_path, {"chosen": [ASK, SAY], "rejected": [ASK, {**SAY, "content": "No."}]})
    [record], _, _ = read(tmp_path, "preferences")
    assert (record["prompt"], record["chosen"], record["rejected"]) == ([ASK], "Because.", "No.")


@pytest.mark.parametrize(
    ("format", "row", "said"),
    [
        ("feedback", {"prompt": "a", "completion": "b", "label": 2}, "`label` is 2"),
        ("feedback", {"prompt": "a", "completion": "b", "label": 0.5}, "`label` is 0.5"),
        ("feedback", {"prompt": "a", "completion": "b", "label": "good"}, "`label` is 'good'"),
        ("feedback", {"prompt": "a", "completion": "b"}, "`label` is None"),
        ("feedback", {"prompt": "a", "completion": " ", "label": 1}, "`completion` is empty"),
        (
            "preferences",
            {"chosen": [ASK, SAY], "rejected": [{**ASK, "content": "How?"}, SAY]},
            "differ, first in turn 1",
        ),
        ("preferences", {"chosen": [ASK, SAY], "rejected": [ASK, SAY, ASK, SAY]}, "differ, first in turn 2"),
        ("preferences", {"chosen": [SAY], "rejected": [SAY]}, "no prompt"),
        ("preferences", {"prompt": "How?", "chosen": [ASK, SAY], "rejected": "No."}, "another prompt"),
        ("preferences", {"prompt": "How?", "chosen": "a", "rejected": ""}, "`rejected` is empty"),
    ],
)
def test_bad_feedback_and_pairs_are_refused_with_their_row(
    tmp_path: Path, format: str, row: dict, said: str
) -> None:
    good = {"prompt": "Why?", "completion": "x", "label": 1, "chosen": "a", "rejected": "b"}
    lines(tmp_path, good, row)
    with pytest.raises(DataError, match=said) as caught:
        read(tmp_path, format)
    assert caught.value.where.endswith("data.jsonl:2")

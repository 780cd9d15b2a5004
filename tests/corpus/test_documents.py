"""The documents of a data stage: the same bytes however they are made, every document accounted for."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from corpus_made import pages, stage, start, sums, text

from trivium.corpus import records
from trivium.errors import DataError, TriviumError

DEDUP = {"fuzzy": True, "lines": {"documents": 20}}
WHOLE: dict[str, Any] = {"dedup": DEDUP, "keep_rejects": True, "heldout": 0.2}


def account(out: Path) -> Any:
    return json.loads((out / "account.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    """(folder, config, artifact made in one process)."""
    folder = tmp_path_factory.mktemp("corpus")
    config = {**WHOLE, "sources": [pages(folder / "pages", 6, 40)], "workers": 1}
    stage(folder, folder / "out", **config)
    return folder, config, folder / "out"


def test_every_document_is_kept_or_dropped_with_a_reason(made: Any) -> None:
    _, _, out = made
    said = account(out)
    steps = {row["name"]: row for row in said["steps"]}
    assert steps["read"]["documents_in"] == 240 and said["dead_letters"] == 6
    for row in said["steps"]:
        gone = row["documents_in"] - row["documents_out"]
        assert gone == sum(row["reasons"].values()), row["name"]
    assert steps["lines"]["lines"] == 240 and steps["lines"]["samples"]["lines:repeated"]
    assert steps["exact"]["reasons"] == {"exact:copy": 25}  # 5 texts in 6 files each
    assert (
        20 <= steps["fuzzy"]["reasons"]["fuzzy:near copy"] <= 25
    )  # 5 texts with one word changed in 6 files
    assert said["clusters"]["count"] == 5 and all(len(keys) > 1 for keys in said["clusters"]["examples"])
    assert steps["exact"]["samples"]["exact:copy"][0]["text"]
    train, heldout = (list(records.read(out / split)) for split in ("train", "heldout"))
    assert len(train) + len(heldout) == steps["mix"]["documents_out"]
    rejects = [
        row for file in sorted((out / "rejects").glob("*.parquet")) for row in records._rows(file, None)
    ]
    assert len(rejects) == 240 - len(train) - len(heldout)
    assert {row["step"] for row in rejects} == {"exact", "fuzzy"} and all(row["text"] for row in rejects)
    assert not any("all pages share" in row["text"] for row in [*train, *heldout])
    assert not {row["key"] for row in train} & {row["key"] for row in heldout}
    assert sum(count for count in said["lengths"].values()) == len(train)
    assert said["domains"] == [["a.b", len(train)]]
    assert len((out / "dead_letters.jsonl").read_text().splitlines()) == 6


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    """The same of conversations."""
    folder = tmp_path_factory.mktemp("talks")
    (folder / "rows").mkdir()
    for number in range(4):
        rows = [{"prompt": text(i, 9), "completion": text(number * 99 + i % 30, 40)} for i in range(40)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows" / f"{number}.jsonl").write_text(lines + "no json\n")
    config = {
        **{"format": "conversations", "sources": [{"kind": "jsonl", "path": "rows"}], "pii": True},
        **{"dedup": {"fuzzy": True}, "keep_rejects": True, "heldout": 0.2, "workers": 1},
    }
    stage(folder, folder / "out", **config)
    return folder, config, folder / "out"


def below(pid: int) -> list[int]:
    """The processes that this one started, and those that they did."""
    try:
        said = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # ended, or no Linux
        return []
    return [found for child in map(int, said.split()) for found in (child, *below(child))]


@pytest.mark.parametrize("of", ["made", pytest.param("talked", marks=pytest.mark.slow)])
def test_workers_and_kills_leave_no_trace(of: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Two processes, killed as soon as each of the steps has made its first file, and run again."""
    folder, config, expected = request.getfixturevalue(of)
    config = {**config, "workers": 2}
    work, before = (
        tmp_path / "work",
        "from trivium.corpus import run; run.SMALL = run.SMALL_TO_DEAL = 0\n",
    )
    for seen in ("read/*.json", "plan/shard.npy", "final/**/train*"):
        process = start(folder, tmp_path / f"killed{len(seen)}", work, before, **config)
        until = time.monotonic() + 300
        while not list(work.glob(seen)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        children = below(process.pid) if process.poll() is None else []
        process.kill()
        process.wait()
        until = time.monotonic() + 300
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{child}").exists() for child in children)  # nobody is left behind
    process = start(folder, tmp_path / "out", work, before, **config)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-2000:]
    assert sums(tmp_path / "out") == sums(expected)


def test_nothing_left_says_what_each_step_took(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text(i, 12)}) + "\n" for i in range(30)))
    source = {"kind": "jsonl", "path": "a.jsonl"}
    with pytest.raises(DataError, match=r"no documents are left to train on") as caught:
        stage(tmp_path, tmp_path / "out", sources=[source], rules={"gopher": True})
    assert "gopher: 30 in, 0 out; gopher:min_words 30" in caught.value.what
    assert "read: 30 in, 30 out" in caught.value.what


def test_too_many_dead_letters_stop_the_stage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + "no json\n" * 5)
    source = {"kind": "jsonl", "path": "a.jsonl", "max_bad_lines": 100}
    with pytest.raises(DataError, match="more than the 3 allowed"):
        stage(tmp_path, tmp_path / "out", sources=[source], max_dead=3)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pages(tmp_path / "pages", 1, 5)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("trivium.corpus.write.Out.flush", full)
    with pytest.raises(TriviumError, match="the disk is full") as caught:
        stage(tmp_path, tmp_path / "out", sources=[source])
    assert "run the same command again" in caught.value.fix


def test_overlap_is_dropped_or_flagged(tmp_path: Path) -> None:
    shared = text(1, 30)
    (tmp_path / "exam").mkdir()
    rows = [{"key": f"item{i}", "source": "jsonl", "text": t} for i, t in enumerate([shared, text(2, 30)])]
    records.write(tmp_path / "exam" / "heldout.jsonl", rows)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in [f"before {shared} after", text(3, 30), text(4, 30)])
    )
    config = {"sources": [{"kind": "jsonl", "path": "a.jsonl"}], "heldout": 0, "decontaminate": ["exam"]}
    against = {"exam": tmp_path / "exam"}
    dropped = stage(tmp_path, tmp_path / "drop", against=against, **config)
    assert dropped["train_items"] == 2
    assert account(tmp_path / "drop")["contamination"] == {"exam": {"documents": 1, "items_flagged": 0}}
    flagged = stage(tmp_path, tmp_path / "flag", against=against, on_overlap="flag", **config)
    assert flagged["train_items"] == 3
    assert account(tmp_path / "flag")["contamination"] == {"exam": {"documents": 1, "items_flagged": 1}}
    assert (tmp_path / "flag" / "overlap.jsonl").read_text() == '{"stage": "exam", "key": "item0"}\n'


@pytest.mark.slow
def test_ray_makes_the_same_artifact(made: Any, tmp_path: Path) -> None:
    """On a local cluster of two nodes."""
    folder, config, expected = made
    before = (
        "from ray.cluster_utils import Cluster; from trivium.corpus import run\n"
        "run.SMALL = run.SMALL_TO_DEAL = 0\n"
        "import ray, os; c = Cluster(initialize_head=True, head_node_args={'num_cpus': 1}); c.add_node(num_cpus=1)\n"
        "os.environ['RAY_ADDRESS'] = c.address; ray.init(address=c.address)\n"
    )
    process = start(
        folder, tmp_path / "out", tmp_path / "work", before, **{**config, "workers": 2, "runner": "ray"}
    )
    _, said = process.communicate(timeout=300)
    with contextlib.suppress(ProcessLookupError):  # what Ray left behind
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said[-3000:]
    assert sums(tmp_path / "out") == sums(expected)

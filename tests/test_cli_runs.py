"""Runs on the terminal: what the commands print is what the logs, reports and artifacts say."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import trivium
from hypothesis import given
from hypothesis import strategies as st

from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.stale import stale
from trivium.pipeline.store import Store
from trivium.report.compare import fields
from trivium.report.runs import EVENTS, RunLog, Stage

NOON = "2026-01-01T12:00:{:02d}+00:00"


def line(event: str, /, **more: Any) -> str:
    return json.dumps({"time": NOON.format(more.get("step", 0) % 60), "event": event, **more}) + "\n"


def lines(lr: float, steps: int = 9) -> list[str]:
    graph = {"base": {"kind": "pretrain", "inputs": [], "config": {"lr": lr, "batch": 4}}}
    about = {"stage": "base", "kind": "pretrain", "fingerprint": "f" * 64}
    return [
        line("run_start", recipe="demo", stages=["base"], graph=graph),
        line("stage_start", **about, reasons=["never run"], resumes=False),
        *(line("step", stage="base", step=n, steps=9, loss=10.0 / n + lr) for n in range(1, steps + 1)),
    ]


def end() -> list[str]:
    return [
        line("validation", stage="base", loss=1.5),
        line("stage_end", stage="base", seconds=4.0, metrics={}),
        line("run_end", seconds=5.0, ran=["base"], cached=[]),
    ]


def found(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "asked": 100, "clusters": 100, "undecided": 0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: two are done and differ in one field and what came of it, one was killed."""
    monkeypatch.chdir(tmp_path)
    for name, lr, share in (("first", 0.1, 0.2), ("second", 0.2, 0.8)):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / EVENTS).write_text("".join([*lines(lr), *end()]))
        measured = {"reasoning_exact_match": found(share, share - 0.1, share + 0.1)}
        (run / "report.json").write_text(json.dumps({"models": {"base": measured}, "corrected": {}}))
    killed = tmp_path / "runs" / "killed"
    killed.mkdir()
    (killed / EVENTS).write_text("".join(lines(0.1, steps=3)) + '{"time": "2026')
    return tmp_path


def test_runs_are_listed_with_their_state(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("runs") == 0
    rows = {row[0]: row for row in (text.split("\t") for text in capsys.readouterr().out.splitlines())}
    assert rows["first"][1] == "done" and rows["killed"][1] == "killed"
    assert rows["killed"][3] == "3 of 9"
    assert trivium("runs", "--json") == 0
    told = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {run["name"]: run["state"] for run in told} == {
        "first": "done",
        "second": "done",
        "killed": "killed",
    }
    assert trivium("runs", "--runs", "nowhere") == 0
    assert "trivium init" in capsys.readouterr().out


def test_a_run_is_shown_by_its_name_and_by_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trivium("show", "first") == 0
    by_name = capsys.readouterr().out
    assert "held-out loss 1.5000" in by_name and "20.0% [10.0, 30.0]" in by_name
    assert trivium("show", "runs/first") == 0
    assert capsys.readouterr().out == by_name
    assert trivium("show", "first", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["stages"][0]["losses"] == {"loss": 10.0 / 9 + 0.1, "held-out loss": 1.5}
    assert trivium("show", "frist") == 4
    assert "did you mean `first`" in capsys.readouterr().err


def test_a_report_is_found_by_the_name_of_its_run_and_by_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("trivium.report.terminal.show", shown.append)
    assert trivium("report", "first") == trivium("report", "runs/first") == 0
    assert shown == [json.loads((folder / "runs/first/report.json").read_text())] * 2
    assert trivium("report", "nothing") == 4


def test_a_damaged_report_takes_nothing_else_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "runs" / "first" / "report.json"
    for text in ("", '{"models', "[]", '{"models": 3}', "\x00"):
        report.write_text(text)
        assert trivium("show", "first") == 0
        assert "held-out loss 1.5000" in capsys.readouterr().out


def test_what_differs_and_what_is_best_is_said_across_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trivium("compare", "first", "second") == 0
    out = capsys.readouterr().out
    assert "base.lr\t0.1\t0.2" in out and "batch" not in out
    assert "20.0% [10.0, 30.0]\t80.0% [70.0, 90.0] *" in out
    assert trivium("compare", "first", "second", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fields"] == {"base.lr": {"first": 0.1, "second": 0.2}}
    assert told["models"]["second"]["base"]["reasoning_exact_match"]["value"] == 0.8
    assert trivium("compare", "first", "first") == 1


def test_a_run_that_is_over_is_told_to_its_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("watch", "first", "--json") == 0
    told = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in told][-1] == "run_end"
    assert [event["step"] for event in told if event["event"] == "step"] == [9]
    assert trivium("watch", "killed", "--silent", "0") == 1
    assert "written nothing" in capsys.readouterr().err
    with (folder / "runs" / "killed" / EVENTS).open("a") as log:
        log.write("\n" + line("stage_failed", stage="base", kind="pretrain", error="the disk is full"))
    assert trivium("watch", "killed") == 1
    assert "the disk is full" in capsys.readouterr().err


def test_a_run_that_goes_on_is_followed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written in pieces that cut lines, while it is watched."""
    run = folder / "runs" / "live"
    run.mkdir()
    text = "".join([*lines(0.1), *end()])
    (run / EVENTS).write_text(text[:40])

    def write() -> None:
        for at in range(40, len(text), 37):
            with (run / EVENTS).open("a") as log:
                log.write(text[at : at + 37])

    writer = threading.Thread(target=write)
    writer.start()
    assert trivium("watch", "live", "--json") == 0
    writer.join()
    told = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert told[0]["event"] == "run_start" and told[-1]["event"] == "run_end"
    assert [event["step"] for event in told if event["event"] == "step"][-1] == 9


configs = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.none() | st.lists(st.integers(0, 1)))


@given(st.lists(configs, min_size=1, max_size=4))
def test_fields_differ_only_where_values_do_and_are_as_the_recipes_say(given_: list[dict[str, Any]]) -> None:
    logs = []
    for nth, config in enumerate(given_):
        log = RunLog(Path(f"r{nth}"))
        log.stages = {"base": Stage("base", config=config)}
        logs.append(log)
    differing = fields(logs)
    for path, values in differing.items():
        key = path.removeprefix("base.")
        assert values == {f"r{n}": config.get(key) for n, config in enumerate(given_)}
    for key in "abc":
        if len({json.dumps(config.get(key)) for config in given_}) > 1:
            assert f"base.{key}" in differing


class Kind:
    def __init__(self, version: int) -> None:
        self.version = version


def test_a_raised_version_makes_stale_what_it_made_and_what_stands_on_it(tmp_path: Path) -> None:
    store, links = Store(tmp_path / "store"), tmp_path / "runs" / "demo"
    prints: dict[str, str] = {}
    for name, kind, parents in (("base", "pretrain", ()), ("chat", "sft", ("base",)), ("data", "data", ())):
        identity = {"kind": kind, "version": 1}
        prints[name] = fingerprint(identity)
        with store.building(prints[name]) as (out, _):
            (out / "file").write_text(name)
            record: dict[str, Any] = {"kind": kind, "stage": name, "recipe": "demo", "identity": identity}
            record |= {"fingerprint": prints[name], "inputs": {parent: prints[parent] for parent in parents}}
            artifact = store.put(out, record | {"metrics": {}, "environment": {}, "seconds": 1.0})
        store.link(artifact, links / name)
    registry: Any = {"pretrain": Kind(1), "sft": Kind(1), "data": Kind(1)}
    assert stale(links, registry) == {}
    found = stale(links, registry | {"pretrain": Kind(2)})
    assert (
        list(found) == ["base", "chat"] and "version 1" in found["base"] and "made from base" in found["chat"]
    )
    (links / "gone").symlink_to("nowhere")
    assert list(stale(links, registry | {"sft": Kind(3)})) == ["chat"]

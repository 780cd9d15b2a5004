"""Several machines at one store: what is made while others make it, what kills leave, what gc leaves alone, what commands say."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml
from forked import Forked
from pipeline_fakes import FILES, TERM, Bench, Fake, many, stages, start
from typer.testing import CliRunner

from trivium.cli import app
from trivium.cli.router import candidate_of
from trivium.errors import TriviumError
from trivium.pipeline.housekeeping import collect, collectable
from trivium.pipeline.remote import Remote, place
from trivium.pipeline.shared import inventory
from trivium.rollout.plan import load_plan

CORPUS = {"corpus": stages()["corpus"]}


def until(condition: Callable[[], object], process: Forked | subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_kill_in_a_push_leaves_nothing_to_see_and_the_next_run_goes_on(kind, request, tmp_path):
    url = request.getfixturevalue("s3") if kind == "s3" else f"file://{tmp_path / 'shared'}"
    remote = Remote(url, TERM)
    process = start(tmp_path / "a", url, 1.0)
    until(lambda: len(remote.stored()) >= FILES // 10, process)
    process.kill()
    process.wait()
    left = len(remote.stored())
    assert 0 < left < FILES and remote.fingerprints() == []
    other = Bench(tmp_path / "b", url)
    assert other.store.fingerprints() == []
    again = Bench(tmp_path / "a", url)  # the same machine: its artifact is whole, and the push goes on
    again.kinds["data"] = Fake(many)
    made = again.run(CORPUS)["corpus"]
    assert again.started() == {}
    (said,) = [event["message"] for event in again.events if "was pushed" in event.get("message", "")]
    sent = int(said.rpartition(": ")[2].split()[0].replace(",", ""))
    whole = sum((made.path / name).stat().st_size for name in made.record["files"])
    assert 0 < sent <= whole - (left - 1) * 600  # the one that was on its way may be sent again
    assert other.run(CORPUS)["corpus"].record == made.record and other.started() == {}


def test_two_machines_at_once_make_a_stage_once(s3, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "wait").touch()
    first = start(tmp_path / "a", s3, TERM)
    until(lambda: list((tmp_path / "a" / "store" / "building").glob(f"*/{FILES - 1}.txt")), first)
    second = Bench(tmp_path / "b", s3)
    second.kinds["data"] = Fake(many)

    class Heard(list):  # type: ignore[type-arg]
        def append(self, event: dict[str, object]) -> None:
            super().append(event)
            if event["event"] == "waiting":
                (tmp_path / "a" / "wait").unlink(missing_ok=True)

    second.events = Heard()
    made = second.run(CORPUS)["corpus"]
    said = json.loads(first.communicate(timeout=600)[0])
    assert "stage_start" in said["events"] and second.started() == {}
    assert made.record == Bench(tmp_path / "c", s3).run(CORPUS)["corpus"].record


def test_gc_leaves_what_any_machine_stands_on_and_what_a_push_goes_on_from(url, tmp_path):
    first, second = Bench(tmp_path / "a", url), Bench(tmp_path / "b", url)
    first.run()
    old = second.run()
    values = stages()
    values["aligned"]["beta"] = 0.2
    new = first.run(values)
    held = inventory(first.store, [first.root / "runs"])
    assert collectable(held) == [] and held.reachable >= {
        old["aligned"].fingerprint,
        new["aligned"].fingerprint,
    }
    shutil.rmtree(second.root / "runs" / "demo")
    (second.root / "runs").mkdir(exist_ok=True)
    first.store.remote.objects.write(place("e" * 64), b"of a push that was cut short")
    entries = collectable(inventory(second.store, [second.root / "runs"]))
    gone = {entry.path.name for entry in entries}
    assert gone == {old[name].fingerprint for name in ("aligned", "safety")}
    with first.store.lock("f" * 64, lambda: None), pytest.raises(TriviumError, match="is running"):
        collect(inventory(second.store, [second.root / "runs"]), entries)
    assert set(first.store.remote.fingerprints()) >= gone
    assert collect(inventory(second.store, [second.root / "runs"]), entries) > 0
    assert not gone & set(first.store.remote.fingerprints())
    assert first.store.remote.objects.read(place("e" * 64))
    assert Bench(tmp_path / "c", url).run(values)["aligned"].record == new["aligned"].record
    now = inventory(first.store, [first.root / "runs"])
    assert all(now.wrong(fingerprint) == "" for fingerprint in now.fingerprints)
    (left,) = collectable(now, stopped=True)
    assert collect(now, [left]) == left.bytes == 28


def test_what_came_into_use_after_the_list_was_made_stays(url, tmp_path):
    bench = Bench(tmp_path / "a", url)
    old = bench.run()
    values = stages()
    values["aligned"]["beta"] = 0.2
    bench.run(values)
    entries = collectable(inventory(bench.store, [bench.root / "runs"]))
    assert {entry.path.name for entry in entries} == {old[name].fingerprint for name in ("aligned", "safety")}
    bench.run()
    assert collect(inventory(bench.store, [bench.root / "runs"]), entries) == 0
    assert set(bench.store.remote.fingerprints()) >= {one.fingerprint for one in old.values()}


def test_commands_take_a_url(s3, tmp_path, monkeypatch):
    bench = Bench(tmp_path / "a", s3)
    made = bench.run()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))

    def said(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert (done.exit_code == 0) == (code == 0), done.output + repr(done.exception)
        return done.output

    listed = [json.loads(line) for line in said("store", "ls", "--json", "--store", s3).splitlines()]
    assert {row["stage"] for row in listed} == set(made) and all(row["reachable"] for row in listed)
    sizes = [json.loads(line) for line in said("store", "du", "--json", "--store", s3).splitlines()]
    assert sum(row["bytes"] for row in sizes) > 0
    assert f"{len(made)} of {len(made)} are whole" in said("store", "verify", "--store", s3)
    assert "0 folders" in said("store", "gc", "--store", s3)
    tree = said("lineage", "demo/aligned", "--store", s3)
    assert "CC0" in tree and all(name in tree for name in ("aligned", "chat", "base", "corpus"))
    assert not (tmp_path / "cache" / "artifacts").exists()  # only looked at
    bench.store.append("withdrawn.jsonl", '{"by": "url"}')
    folder = Path(said("store", "get", "demo/aligned", "--store", s3).strip())
    assert (folder / "made" / "of.json").is_file() and folder.parent == tmp_path / "cache" / "artifacts"
    assert (tmp_path / "cache" / "withdrawn.jsonl").read_text() == '{"by": "url"}\n'
    name = place(made["corpus"].record["files"]["train.jsonl"])
    bench.store.remote.objects.write(name, b"x" * 24)
    assert name in said("store", "verify", "--store", s3, code=4)
    assert "damaged" in said("store", "verify", "--drop", "--store", s3, code=4)
    bench.run()  # the machine that has it whole puts it back
    assert bench.started() == {}
    assert f"{len(made)} of {len(made)} are whole" in said("store", "verify", "--store", s3)
    url = CliRunner().invoke(app, ["serve", f"{s3}/x"])
    assert "not from a URL" in str(url.exception) and "store get" in str(url.exception)
    missing = CliRunner().invoke(app, ["store", "ls", "--store", f"{s3}-none"])
    assert "there is no store at" in str(missing.exception)


def test_a_signature_goes_where_the_artifact_goes(s3, tmp_path):
    signatures = pytest.importorskip("trivium.pipeline.signatures")
    first, second = Bench(tmp_path / "a", s3), Bench(tmp_path / "b", s3)
    made = first.run()["aligned"]
    second.run()
    signatures.new_key(tmp_path / "key")
    signatures.sign(made.path, tmp_path / "key")
    for bench in (first, second):
        there = bench.run()["aligned"]
        assert signatures.require(there.path, tmp_path / "key.pub").name == "key"


@pytest.mark.slow(minutes=6)
def test_a_recipe_that_one_machine_ran_is_all_there_on_another(s3, tmp_path):
    """The command line, a real (tiny) recipe: data to release."""
    from test_end_to_end import STAGES, fresh

    def run(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trivium", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first, second = fresh(tmp_path / "a"), fresh(tmp_path / "b")
    run(first, "run", "tiny.yaml", "--store", s3)
    run(second, "run", "tiny.yaml", "--store", s3)
    name = yaml.safe_load((first / "tiny.yaml").read_text())["name"]
    events = [json.loads(line) for line in (second / "runs" / name / "events.jsonl").read_text().splitlines()]
    taken = [event["stage"] for event in events if event["event"] == "cached"]
    assert sorted(taken) == sorted(STAGES)  # stages that do not wait for each other come in any order
    assert not any(event["event"] == "stage_start" for event in events)
    assert name in run(second, "runs") and STAGES[0] in run(second, "show", name)
    assert STAGES[0] in run(second, "lineage", f"runs/{name}/{STAGES[-1]}", "--store", s3)
    for stage in STAGES:
        here, there = (
            (folder / "runs" / name / stage / "artifact.json").read_bytes() for folder in (first, second)
        )
        assert here == there

    run(first, "sign", "--new-key", "key")
    run(first, "sign", f"runs/{name}/release", "--key", "key")
    run(first, "run", "tiny.yaml", "--store", s3)  # what was signed since is shared
    keys, third = str(first / "key.pub"), tmp_path / "c"
    third.mkdir()
    release = run(third, "store", "get", f"{name}/release", "--store", s3).strip()
    assert "is whole and signed by key" in run(third, "verify", release, "--signed-by", keys)
    arms = {
        "stable": {"url": "http://127.0.0.1:9"},
        "candidate": {"url": "http://127.0.0.1:9", "artifact": release, "signed_by": keys},
    }
    plan = third / "plan.yaml"
    plan.write_text(
        yaml.safe_dump(
            {
                "name": "chat",
                "arms": arms,
                "stages": [{"share": 0.5}],
                "guardrails": {"errors": {"metric": "error", "within": 0.1}},
            }
        )
    )
    assert candidate_of(load_plan(plan), third, without_gates=False)["gates"] == 4
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["serve", release, "--signed-by", keys, "--port", port]
    server = subprocess.Popen([sys.executable, "-m", "trivium", *words], cwd=third)
    try:
        until(lambda: answers(port), server)
    finally:
        server.terminate()
        server.wait(60)


def answers(port: str) -> bool:
    api = f"http://127.0.0.1:{port}/v1"
    try:
        (model,) = httpx.get(f"{api}/models", timeout=600).json()["data"]
    except httpx.TransportError:
        return False
    asked = {
        "model": model["id"],
        "messages": [{"role": "user", "content": "How many stones?"}],
        "max_tokens": 4,
    }
    said = httpx.post(f"{api}/chat/completions", json=asked, timeout=600)
    assert said.status_code == 200, said.text
    return bool(said.json()["choices"])

import errno
import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
from forked import Forked
from pipeline_fakes import Bench, Fake, default, recipe, stages, start

from trivium.errors import DataError, Interrupted, Preempted, RecipeError, TriviumError
from trivium.pipeline import run
from trivium.pipeline.run import status
from trivium.train.guard import stop_on_signal


def test_every_stage_is_run_once_and_linked(bench: Bench):
    made = bench.run()
    assert set(bench.started()) == set(stages()) == set(made)
    assert all(reasons == ["never run"] for reasons in bench.started().values())
    for name, artifact in made.items():
        assert (bench.root / "runs" / "demo" / name).resolve() == artifact.path.resolve()
        assert artifact.stage == name and artifact.metrics == {"size": 3, "loss": 0.25}
    assert json.loads((made["chat"].path / "made" / "of.json").read_text()) == {
        "base": made["base"].fingerprint,
        "chats": made["chats"].fingerprint,
    }
    assert list((bench.store.root / "work").iterdir()) == []


def test_running_again_does_nothing(bench: Bench):
    first = bench.run()
    bench.store = type(bench.store)(bench.store.root)
    second = bench.run()
    assert bench.started() == {}
    assert [e["stage"] for e in bench.events if e["event"] == "cached"] == list(second)
    assert {n: a.record for n, a in first.items()} == {n: a.record for n, a in second.items()}


def test_a_changed_field_reruns_its_stage_and_what_hangs_on_it_and_says_why(bench: Bench):
    bench.run()
    values = stages()
    values["aligned"]["beta"] = 0.2
    plan = {s.name: s.reasons for s in status(recipe(values), **bench.places) if not s.cached}
    bench.run(values)
    assert bench.started() == {"aligned": ["beta: 0.1 -> 0.2"], "safety": ["input aligned changed"]} == plan
    bench.run()
    assert bench.started() == {}  # the older artifacts are still there


def test_how_fields_rerun_nothing(bench: Bench):
    bench.run()
    values = stages()
    values["base"] |= {"device": "cpu", "log_every": 99}
    bench.run(values)
    assert bench.started() == {}


def test_a_renamed_stage_and_a_copied_recipe_reuse_what_is_stored(bench: Bench):
    bench.run()
    made = bench.run(json.loads(json.dumps(stages()).replace('"chat"', '"talk"')), name="copy")
    assert bench.started() == {}
    assert (bench.root / "runs/copy/talk").resolve() == made["talk"].path.resolve()


def test_a_lost_artifact_is_made_again(bench: Bench):
    made = bench.run()
    made["vocab"].path.rename(bench.root / "elsewhere")
    bench.run()
    assert list(bench.started()) == ["vocab"]


def test_only_runs_what_is_needed(bench: Bench):
    made = bench.run(only=["base"])
    assert list(made) == ["corpus", "vocab", "base"] == list(bench.started())
    with pytest.raises(RecipeError, match="no stage named 'bas'"):
        bench.run(only=["bas"])


def test_status_before_and_after(bench: Bench):
    before = status(recipe(), **bench.places)
    assert not bench.store.root.exists()
    made = bench.run()
    after = status(recipe(), **bench.places)
    assert [s.fingerprint for s in before] == [s.fingerprint for s in after]
    assert {s.name: s.fingerprint for s in after} == {n: a.fingerprint for n, a in made.items()}
    assert all(s.reasons == ["never run"] and not s.cached for s in before)
    assert all(s.reasons == [] and s.cached for s in after)


def test_no_log_holds_a_secret_that_a_server_repeats(bench: Bench, monkeypatch):
    monkeypatch.setenv("THE_KEY", "hunter2-and-more")

    def fail(ctx):
        ctx.emit({"event": "warning", "message": "https://ann:hunter3@e.org is slow"})
        raise DataError("401 Incorrect API key provided: hunter2-and-more")

    bench.kinds["pretrain"] = Fake(fail)
    with pytest.raises(DataError):
        bench.run(only=["base"])
    assert bench.events[-1]["error"].startswith("401 Incorrect API key provided: ***")
    (log,) = bench.root.rglob("events.jsonl")
    assert "is slow" in log.read_text() and "hunter" not in log.read_text()


def test_a_failing_stage_keeps_its_work_and_the_next_try_gets_it(bench: Bench):
    def fail(ctx):
        (ctx.work / "checkpoint").write_text("step 3")
        (ctx.out / "half.txt").write_text("half")
        raise DataError("the corpus is empty")

    bench.kinds["pretrain"] = Fake(fail)
    with pytest.raises(DataError) as caught:
        bench.run(only=["base"])
    assert caught.value.where == "stage base of recipe demo"
    assert bench.events[-1]["event"] == "stage_failed" and "empty" in bench.events[-1]["error"]
    entry = next(s for s in status(recipe(), **bench.places) if s.name == "base")
    assert not entry.cached and entry.resumes

    def check(ctx):
        assert (ctx.work / "checkpoint").read_text() == "step 3" and not any(ctx.out.iterdir())
        return default(ctx)

    bench.kinds["pretrain"] = Fake(check)
    bench.run(only=["base"])
    assert bench.kinds["pretrain"].runs == ["base"] and not bench.kinds["data"].runs[1:]


def test_ctrl_c_says_how_to_go_on(bench: Bench):
    def stop(ctx):
        (ctx.work / "checkpoint").touch()
        raise KeyboardInterrupt

    bench.kinds["sft"] = Fake(stop)
    with pytest.raises(Interrupted, match="in stage 'chat'") as caught:
        bench.run()
    assert "same command" in caught.value.fix and caught.value.exit_code == 130
    bench.kinds["sft"] = Fake()
    bench.run()
    assert bench.started().keys() == {"chat", "aligned", "safety", "small"}


@pytest.mark.parametrize("caught", [False, True])
def test_sigterm_outside_a_training_loop_says_that_the_command_is_to_be_started_again(
    bench: Bench, caught: bool
):
    """In a stage that knows nothing of signals, and in one that keeps going, by a handler of its own, until it is through."""

    def stop(ctx):
        if caught:
            with stop_on_signal() as asked:
                os.kill(os.getpid(), signal.SIGTERM)
                assert asked.signal == signal.SIGTERM
                (ctx.work / "checkpoint").touch()
                raise Preempted("stopped after step 3")
        (ctx.work / "checkpoint").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("SIGTERM was not heeded")

    bench.kinds["data"], before = Fake(stop), signal.getsignal(signal.SIGTERM)
    with pytest.raises(
        Preempted, match="after step 3" if caught else "by SIGTERM in stage 'corpus'"
    ) as raised:
        bench.run()
    assert raised.value.exit_code == 75
    assert bench.events[-1]["event"] == "stage_failed"
    assert signal.getsignal(signal.SIGTERM) is before
    assert next(s for s in status(recipe(), **bench.places) if s.name == "corpus").resumes
    bench.kinds["data"] = Fake()
    bench.run()
    assert {"corpus", "base"} <= bench.started().keys()


def test_a_handler_of_the_callers_keeps_sigterm(bench: Bench):
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        bench.kinds["data"] = Fake(lambda ctx: (os.kill(os.getpid(), signal.SIGTERM), default(ctx))[1])
        bench.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard and set(heard) == {signal.SIGTERM}


def test_a_full_disk_inside_a_stage(bench: Bench):
    def fail(ctx):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("the writer failed") from error

    bench.kinds["tokenizer"] = Fake(fail)
    with pytest.raises(TriviumError, match="disk is full; nothing was lost"):
        bench.run()
    bench.kinds["tokenizer"] = Fake()
    bench.run()
    assert "corpus" not in bench.started() and "vocab" in bench.started()


def test_a_log_of_events_that_finds_no_room_does_not_end_the_run(bench: Bench, monkeypatch):
    kept, full = run.append_line, []

    def append(path: Path, line: str) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        kept(path, line)

    def fill(ctx):
        full.append(True)
        return default(ctx)

    def free(ctx):
        full.clear()
        return default(ctx)

    monkeypatch.setattr(run, "append_line", append)
    bench.kinds["tokenizer"], bench.kinds["pretrain"] = Fake(fill), Fake(free)
    bench.run()
    told = [event["message"] for event in bench.events if event["event"] == "warning"]
    assert len(told) == 1 and "events.jsonl cannot be written: No space left on device" in told[0]
    lines = (bench.root / "runs" / "demo" / "events.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    assert said[-1]["event"] == "run_end"
    lacking = [event["message"] for event in said if event["event"] == "warning"]
    missed = len([event for event in bench.events if event["event"] != "warning"]) + 1 - len(said)
    assert lacking == [f"{missed} events before this one could not be written"]


def test_events_are_kept_line_by_line_with_their_time(bench: Bench):
    def talk(ctx):
        ctx.emit({"event": "step", "loss": math.pi})
        return default(ctx)

    bench.kinds["sft"] = Fake(talk)
    bench.run()
    lines = (bench.root / "runs/demo/events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == bench.events
    assert all("time" in event for event in bench.events)
    step = next(e for e in bench.events if e["event"] == "step")
    assert step["stage"] == "chat" and step["loss"] == math.pi
    bench.run()
    assert len((bench.root / "runs/demo/events.jsonl").read_text().splitlines()) == len(lines) + len(
        bench.events
    )


def test_a_kind_that_cannot_be_run_is_a_recipe_error(bench: Bench):
    del bench.kinds["dpo"]
    with pytest.raises(RecipeError, match="'dpo' cannot be run"):
        bench.run()
    assert bench.events == []


# ---- two processes ------------------------------------------------------------------


def wait_for(condition, process: Forked) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def logged(root: Path, event: str) -> bool:
    return event in (root / "runs/demo/events.jsonl").read_text()


def finish(process: Forked) -> dict:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(output)


def test_two_processes_at_once_run_a_stage_once(tmp_path):
    first = start(tmp_path)
    wait_for((tmp_path / "half-way").exists, first)
    second = start(tmp_path)
    wait_for(lambda: logged(tmp_path, '"waiting"'), second)
    (tmp_path / "go").touch()
    ran, waited = finish(first), finish(second)
    assert (tmp_path / "tries").read_text() == "x"
    assert ran["events"] == ["run_start", "stage_start", "stage_end", "run_end"]
    assert waited["events"] == ["run_start", "waiting", "cached", "run_end"]
    assert (tmp_path / "runs/demo/corpus/second.txt").read_text() == "whole"


def test_a_kill_leaves_nothing_that_looks_whole_and_the_work_is_handed_on(tmp_path):
    process = start(tmp_path)
    wait_for((tmp_path / "half-way").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert not list(tmp_path.glob("store/artifacts/*")) and not (tmp_path / "runs/demo/corpus").exists()
    assert [path.read_text() for path in tmp_path.glob("store/work/*/checkpoint")] == ["step 3"]
    (tmp_path / "go").touch()
    made = finish(start(tmp_path))
    assert (tmp_path / "tries").read_text() == "xx" and made["metrics"] == {"found": ["checkpoint"]}
    assert not list(tmp_path.glob("store/work/*")) and not list(tmp_path.glob("store/building/*"))

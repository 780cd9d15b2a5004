"""The commands as a user meets them: what they print, what they write, and the exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import RECIPE, stand_in, trivium

from trivium.cli import main
from trivium.cores import WAITING
from trivium.errors import DataError, GateError
from trivium.plan.rates import even


class Fake:
    """A stage that writes one file and remembers that it ran."""

    version = 1
    error: Exception | None = None

    def __init__(self) -> None:
        self.ran: list[str] = []

    def identity(self, config, recipe_folder):
        return {}

    def run(self, ctx):
        if self.error:
            raise self.error
        self.ran.append(ctx.name)
        ctx.emit({"event": "phase", "steps": 10, "tokens_per_step": 100, "parameters": 5_900_000})
        ctx.emit({"event": "warning", "message": "careful [now]"})
        ctx.emit(
            {
                "event": "step",
                "seconds_per_step": 0.1,
                "step": 5,
                "steps": 10,
                "loss": 1.25,
                "lr": 1e-3,
                "eta_s": 75,
            }
        )
        for name in ("train.jsonl", "heldout.jsonl"):
            (ctx.out / name).write_text("")
        return {"loss": 1.5, "items": 1000}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TRIVIUM_DEBUG", raising=False)
    monkeypatch.setattr("trivium.plan.machine.rates", lambda **_: even(1e9))
    stage = Fake()
    stand_in(stage, RECIPE, tmp_path, monkeypatch)
    return stage


def test_run_runs_each_stage_once(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("run", "tiny.yaml") == 0
    out = capsys.readouterr().out
    assert fake.ran == ["corpus", "vocab", "base", "more"]
    assert "step 5/10  loss 1.2500  lr 1.00e-03  1,000 tokens/s  1 min 15 s left" in out
    assert "parameters 5.9M" in out
    assert "careful [now]" in out
    assert "loss 1.5, items 1K" in out
    assert (Path("runs/tiny/base") / "artifact.json").is_file()
    assert trivium("run", "tiny.yaml") == 0
    assert "nothing to do: all 4 up to date" in capsys.readouterr().out
    assert len(fake.ran) == 4


def test_only_and_overrides(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("run", "tiny.yaml", "--only", "vocab", "--store", "s", "--runs", "r") == 0
    assert fake.ran == ["corpus", "vocab"]
    assert Path("r/tiny/vocab/artifact.json").is_file()
    assert (
        trivium(
            "run", "tiny.yaml", "-o", "vocab.vocab_size=500", "--only", "vocab", "--store", "s", "--runs", "r"
        )
        == 0
    )
    assert fake.ran == ["corpus", "vocab", "vocab"]
    assert "vocab_size" in capsys.readouterr().out


def test_steps_run_their_kinds_and_what_they_need(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("data", "tiny.yaml") == 0
    assert fake.ran == ["corpus", "vocab"]
    assert trivium("train", "tiny.yaml", "base") == 0
    assert fake.ran == ["corpus", "vocab", "base"]
    assert trivium("train", "tiny.yaml", "bas") == 2
    assert "did you mean `base`?" in capsys.readouterr().err
    assert trivium("train", "tiny.yaml", "corpus") == 2
    assert trivium("evaluate", "tiny.yaml") == 2
    assert "no stage of this step" in capsys.readouterr().err


def test_plan_says_what_would_run_and_why(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    trivium("data", "tiny.yaml")
    capsys.readouterr()
    assert trivium("plan", "tiny.yaml") == 0
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert "cached" in rows["corpus"]
    assert "run: never run" in rows["base"]
    assert "corpus, vocab" in rows["base"]
    assert "81.9K" in rows["base"]  # 10 steps x 32 rows x 256 tokens
    assert "more: unknown until corpus has run" in out.splitlines()
    assert fake.ran == ["corpus", "vocab"]
    trivium("plan", "tiny.yaml")
    assert "2 of 4 stages to run" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
def test_no_cell_of_a_plan_is_cut_short(
    width: int, fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    trivium("run", "tiny.yaml")
    capsys.readouterr()
    assert trivium("plan", "tiny.yaml", "-o", "vocab.vocab_size=500") == 0
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    rows = [line for line in out.splitlines() if line.startswith("│")]
    said = "".join(line.split("│")[3 if width < 110 else 4].strip() for line in rows)
    assert "vocab_size" in said and "cached" in said, "the reasons stand there whole"
    assert sum("pretrain" in row for row in rows) == 2


def test_threads_wait_asleep_unless_the_user_says_how(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*WAITING, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # put back at the end, whatever main sets
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert trivium("version") == 0
    assert not os.environ.keys() & WAITING.keys()
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    assert trivium("version") == 0
    assert {name: os.environ[name] for name in WAITING} == {**WAITING, "KMP_BLOCKTIME": "7"}
    loaded = "import sys, trivium.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0, "set too late"


def test_a_failed_stage_says_how_to_go_on(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = DataError("the corpus is empty")
    assert trivium("run", "tiny.yaml") == 3
    out = capsys.readouterr().out
    assert "the same command again begins this stage anew" in out
    assert (
        f"what happened: {Path('runs/tiny/events.jsonl')}" in out and Path("runs/tiny/events.jsonl").is_file()
    )
    failed = [json.loads(line) for line in Path("runs/tiny/events.jsonl").read_text().splitlines()][-1]
    work = Path(".trivium/work") / failed["fingerprint"]
    (work / "half").mkdir(parents=True)
    assert trivium("run", "tiny.yaml") == 3
    assert f"goes on from what is kept in {work}" in capsys.readouterr().out


def test_errors_for_people_have_codes_and_no_traceback(
    fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trivium("run", "nothing.yaml") == 2
    assert trivium("run", "tiny.yaml", "-o", "base.lrr=1") == 2
    for error, code in ((DataError("the corpus is empty", fix="add text"), 3), (GateError("too low"), 5)):
        fake.error = error
        assert trivium("run", "tiny.yaml") == code
    said = capsys.readouterr()
    assert "there is no recipe nothing.yaml" in said.err
    assert "where: -o base.lrr=1" in said.err
    assert "fix:   add text" in said.err
    assert "Traceback" not in said.err + said.out


def test_debug_shows_the_traceback(fake: Fake, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRIVIUM_DEBUG", "")
    assert trivium("--debug", "run", "nothing.yaml") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_of_ours_is_not_hidden(fake: Fake) -> None:
    fake.error = ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        main(["run", "tiny.yaml"])


@pytest.mark.parametrize("arguments", [["nonsense"], ["run"], ["run", "tiny.yaml", "--nonsense"]])
def test_wrong_arguments_are_code_2(arguments: list[str]) -> None:
    assert trivium(*arguments) == 2


def test_init_writes_a_recipe_and_does_not_overwrite(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("init", "mine") == 0
    recipe = yaml.safe_load(Path("mine.yaml").read_text())
    assert recipe["name"] == "mine"
    Path("mine.yaml").write_text("precious")
    assert trivium("init", "mine") == 2
    assert Path("mine.yaml").read_text() == "precious"
    assert "--force" in capsys.readouterr().err
    assert trivium("init", "mine", "--force") == 0
    assert Path("mine.yaml").read_text() != "precious"
    assert trivium("init", "../mine") == 2


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Trivium recipe"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("version") == 0
    assert capsys.readouterr().out.startswith("trivium 0.")


def test_lineage_shows_where_an_artifact_comes_from(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    trivium("run", "tiny.yaml")
    capsys.readouterr()
    assert trivium("lineage", "runs/tiny/vocab") == 0
    assert "corpus" in capsys.readouterr().out
    assert trivium("lineage", "runs/tiny/nothing") == 4


def test_chat_and_report_say_what_is_missing(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert trivium("chat", "runs/nothing") == 4
    assert "no checkpoint at runs/nothing" in capsys.readouterr().err


def test_control_c_ends_cleanly_with_130() -> None:
    code = (
        "import os, signal, trivium.recipe.schema, trivium.cli\n"
        "trivium.recipe.schema.schema = lambda: os.kill(os.getpid(), signal.SIGINT) or __import__('time').sleep(9)\n"
        "trivium.cli.main(['schema'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGINT
    assert "Traceback" not in done.stderr

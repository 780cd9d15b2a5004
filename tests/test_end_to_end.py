"""The whole way through, as a user goes it: the real command line on a real (tiny) recipe, good input and bad."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import COMMAND_LINE, Forked
from safetensors.torch import load_file

from trivium.cli import main
from trivium.corpus import records
from trivium.deploy import speed
from trivium.evaluate import rows as table
from trivium.evaluate.rows import Row
from trivium.model import generation
from trivium.recipe.network import Generation

RECIPE = Path(__file__).parent / "recipes" / "tiny.yaml"
STAGES = list(yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["stages"])
WEIGHTS = "model.safetensors"
# Enough steps to be stopped in, and no more than the data and the tokenizer beside them.
STEPS = 250  # enough that a checkpoint is on the disk well before the end, on a fast processor with a slow disk, too
LONG = ("-o", f"base.steps={STEPS}", "--only", "base")
KEPT = (*LONG, "-o", "base.checkpoint_every=0s")  # a checkpoint after each, which costs more than the step


def write_documents(folder: Path, count: int = 300) -> Path:
    animals, places = ("cat", "dog", "bird", "fish"), ("river", "sea", "hill", "house", "park")
    texts = [
        f"Day {n}: the {animals[n % 4]} went to the {places[n % 5]} and saw {n * 7 % 90} stones there."
        for n in range(count)
    ]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def fresh(folder: Path) -> Path:
    """A folder with the recipe and its documents, and nothing run."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RECIPE, folder / "tiny.yaml")
    write_documents(folder)
    return folder


def start(folder: Path, *arguments: str) -> Forked:
    return Forked(COMMAND_LINE, *arguments, cwd=folder, env={"COLUMNS": "200"})


@pytest.fixture
def trivium(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: (exit code, stdout, stderr). What smaller files take to serve, a process for each,
    is measured in the run of `finished` alone."""
    monkeypatch.setattr(speed, "served", lambda *asked: {})
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TRIVIUM_DEBUG", raising=False)

    def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return stop.value.code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished run, made by the command line in a process of its own, and what it printed."""
    folder = fresh(tmp_path_factory.mktemp("end-to-end") / "run")
    process = start(folder, "run", "tiny.yaml")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert err == ""
    return folder, out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run to change. Its links are relative, so it stands on its own."""
    shutil.copytree(finished[0], tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "runs" / "tiny" / "events.jsonl"
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def last_run(folder: Path) -> list[dict[str, Any]]:
    """Events since the last run_start."""
    found = events(folder)
    return found[max(n for n, event in enumerate(found) if event["event"] == "run_start") :]


def started(folder: Path) -> dict[str, list[str]]:
    """Stage -> why, of what the last run ran."""
    return {event["stage"]: event["reasons"] for event in last_run(folder) if event["event"] == "stage_start"}


def wait_for_step(folder: Path, process: Forked, step: int) -> None:
    """Until the run of `base` has a checkpoint of at least `step`."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(e["event"] == "checkpoint" and e["step"] >= step for e in events(folder)):
            return
        time.sleep(0.02)
    pytest.fail(f"no checkpoint: exit code {process.poll()}")


def store_of(folder: Path, stage: str) -> Path:
    return (folder / "runs" / "tiny" / stage).resolve()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


# ---- the way through -------------------------------------------------------------------------------------


def test_it_finishes_and_shows_what_it_made(finished):
    folder, out = finished
    run = folder / "runs" / "tiny"
    for stage in STAGES:
        assert (run / stage).is_symlink()
        assert (run / stage / "artifact.json").is_file()
    assert "11 stages run, 0 up to date" in out
    for words in (
        "held-out bits per byte",
        "preference accuracy",
        "refusals of harmful requests",
        "weights on disk",
    ):
        assert words in out
    assert "gate safety (aligned): bits_per_byte ≤ 20" in out
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert list(report["models"]) == ["base", "sft", "aligned", "int8"]
    sizes = {name: model["file_bytes"]["value"] for name, model in report["models"].items()}
    assert sizes["int8"] < sizes["aligned"]
    assert [phase["stage"] for phase in report["phases"]] == ["base", "sft", "aligned"]
    for phase in report["phases"]:
        assert phase["after"]["loss"] < phase["before"]["loss"]
    assert "<table>" in (run / "report.html").read_text(encoding="utf-8")
    assert not any((folder / ".trivium" / "work").iterdir()), "scratch is left"
    assert not any((folder / ".trivium" / "building").iterdir())


def test_how_replies_are_drawn_goes_from_the_stage_that_says_it_to_the_release(finished):
    run = finished[0] / "runs" / "tiny"
    assert generation.read(run / "base") is None
    for stage in ("sft", "aligned", "int8", "release"):
        assert generation.read(run / stage) == Generation(temperature=0.3, max_new_tokens=24), stage


def test_a_release_is_whole_in_itself(finished):
    release = finished[0] / "runs" / "tiny" / "release"
    names = {path.name for path in release.iterdir()}
    assert {WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja", "MODEL_CARD.md", "lineage.json",
            "report.html", "report.json"} <= names  # fmt: skip
    lineage = json.dumps(json.loads((release / "lineage.json").read_text(encoding="utf-8")))
    for stage in ("int8", "aligned", "sft", "base", "vocab", "corpus", "dialogues", "pairs"):
        assert f'"stage": "{stage}"' in lineage
    assert json.loads((release / "report.json").read_text(encoding="utf-8"))["models"].keys() >= {
        "int8",
        "aligned",
    }


def test_nothing_evaluated_was_trained_on(finished):
    run = finished[0] / "runs" / "tiny"

    def keys(stage: str, split: str) -> set[str]:
        return {record["key"] for record in records.read(run / stage / split)}

    for tested in ("corpus", "dialogues", "pairs"):
        held = keys(tested, "heldout")
        assert held
        for trained in ("corpus", "dialogues", "pairs"):
            assert not held & keys(trained, "train"), (tested, trained)


def test_what_was_made_speaks_to_other_libraries(finished):
    transformers = pytest.importorskip("transformers")
    folder = finished[0] / "runs" / "tiny" / "aligned"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    from trivium import load_tokenizer

    talk = [{"role": "user", "content": "How do I bake a potato?"}]
    theirs = tokenizer.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert theirs == load_tokenizer(folder).prompt(talk)
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_running_again_does_nothing(copy, trivium):
    times = {stage: store_of(copy, stage).stat().st_mtime_ns for stage in STAGES}
    code, out, _ = trivium(copy, "run", "tiny.yaml")
    assert code == 0
    assert "nothing to do: all 11 up to date" in out
    assert "held-out bits per byte" in out  # the table is shown all the same
    assert started(copy) == {}
    assert times == {stage: store_of(copy, stage).stat().st_mtime_ns for stage in STAGES}


def test_changing_beta_runs_aligned_and_what_hangs_on_it_and_says_so(copy, trivium):
    before = {stage: store_of(copy, stage) for stage in STAGES}
    code, out, _ = trivium(copy, "plan", "tiny.yaml", "-o", "aligned.beta=0.3")
    assert code == 0
    assert "5 of 11 stages to run" in out
    code, out, _ = trivium(copy, "run", "tiny.yaml", "-o", "aligned.beta=0.3")
    assert code == 0
    ran = started(copy)
    assert list(ran) == ["aligned", "safety", "int8", "int8_safety", "release"]
    assert any("beta" in why and "0.1" in why and "0.3" in why for why in ran["aligned"])
    assert "beta" in out
    changed = {stage for stage in STAGES if store_of(copy, stage) != before[stage]}
    assert changed == set(ran)
    code, out, _ = trivium(copy, "run", "tiny.yaml")  # and back: the old ones are still there
    assert "nothing to do" in out
    assert store_of(copy, "aligned") == before["aligned"]


def test_a_baseline_is_asked_once_and_again_where_its_rows_are_damaged(copy, trivium):
    def rows(stage: str) -> list[Row]:
        return [row for row in table.read(copy / "runs" / "tiny" / stage) if row.model == "sft"]

    first = rows("safety")
    assert first and rows("int8_safety") == first  # seconds included: it was not asked again
    shutil.rmtree(store_of(copy, "safety"))
    flip_a_bit(store_of(copy, "int8_safety") / table.FILE)
    changed = ("--only", "int8_safety", "-o", "int8_safety.gates.bits_per_byte.max=25")
    code, _, err = trivium(copy, "run", "tiny.yaml", *changed)
    assert code == 0, err
    again = rows("int8_safety")
    assert again != first
    assert [replace(row, seconds=0.0) for row in again] == [replace(row, seconds=0.0) for row in first]


def test_what_says_only_how_runs_nothing(copy, trivium):
    how = ("-o", "base.log_every=7", "-o", "sft.checkpoint_every=9s", "-o", "aligned.compile=off")
    assert "nothing to do" in trivium(copy, "run", "tiny.yaml", *how)[1]


def test_report_and_lineage_read_what_was_made(finished, trivium):
    code, out, _ = trivium(finished[0], "report", "runs/tiny")
    assert code == 0
    assert "held-out bits per byte" in out
    code, out, _ = trivium(finished[0], "lineage", "runs/tiny/release")
    assert code == 0
    assert "reasoning-gym" in out


def test_the_library_does_what_the_command_does(finished, tmp_path, monkeypatch):
    from trivium import Recipe, load_model, load_recipe, run

    folder = fresh(tmp_path)
    monkeypatch.chdir(folder)
    recipe = load_recipe(folder / "tiny.yaml", [])
    assert isinstance(recipe, Recipe)
    said: list[dict[str, Any]] = []
    made = run(recipe, only=["base"], emit=said.append)
    assert set(made) == {"corpus", "vocab", "base", "dialogues", "pairs"}
    assert made["base"].fingerprint == store_of(finished[0], "base").name
    assert {event["event"] for event in said} >= {"run_start", "phase", "step", "stage_end", "run_end"}
    model = load_model(made["base"].path)
    ours, theirs = model.state_dict(), load_file(store_of(finished[0], "base") / WEIGHTS)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    again = run(folder / "tiny.yaml", only=["base"])  # from a file: the same thing
    assert again["base"].fingerprint == made["base"].fingerprint


# ---- talking ---------------------------------------------------------------------------------------------


def test_chat_answers(finished, trivium):
    ask = (
        "chat",
        "runs/tiny/release",
        "--prompt",
        "What does a cat do?",
        "--temperature",
        "0",
        "--max-new-tokens",
        "12",
    )
    code, out, _ = trivium(finished[0], *ask)
    assert code == 0
    assert len(out) > 1
    assert trivium(finished[0], *ask)[1] == out
    code, out, _ = trivium(finished[0], *ask, "--system", "Be brief.")
    assert code == 0


def test_a_prompt_longer_than_the_context_is_said(finished, trivium):
    code, out, err = trivium(finished[0], "chat", "runs/tiny/aligned", "--prompt", "stones " * 200)
    assert code == 3
    assert out == ""
    assert "context of 128" in err
    assert "fix:" in err


def test_chat_with_what_is_no_checkpoint(finished, trivium):
    for what in ("runs/tiny/corpus", "nowhere"):
        code, _, err = trivium(finished[0], "chat", what, "--prompt", "hi")
        assert code == 4
        assert "no checkpoint" in err


# ---- stopping and going on -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The weights of the long pre-training, never stopped."""
    folder = fresh(tmp_path_factory.mktemp("undisturbed") / "run")
    process = start(folder, "run", "tiny.yaml", *LONG)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return store_of(folder, "base") / WEIGHTS


def same_weights(a: Path, b: Path) -> bool:
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="kill"),
        pytest.param(signal.SIGINT, id="ctrl-c"),
        pytest.param(signal.SIGTERM, id="term", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_inside_the_stage(number, undisturbed, tmp_path, trivium):
    folder = fresh(tmp_path)
    process = start(folder, "run", "tiny.yaml", *KEPT)
    wait_for_step(folder, process, 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    # 75 (EX_TEMPFAIL) asks a scheduler to queue the job again
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 75}[number]
    if number != signal.SIGKILL:
        assert "the checkpoint is kept" in err
        assert "run the same command again" in err
        assert "Traceback" not in err
    assert not (folder / "runs" / "tiny" / "base").exists(), "half a stage must not look whole"
    code, out, _ = trivium(folder, "plan", "tiny.yaml", *LONG[:-2])
    assert "will go on where it stopped" in out
    code, out, _ = trivium(folder, "run", "tiny.yaml", *LONG)
    assert code == 0
    assert list(started(folder)) == ["base"]
    (resumed,) = [event for event in last_run(folder) if event["event"] == "resume"]
    assert 5 <= resumed["step"] < STEPS
    assert f"going on at step {resumed['step']}/{STEPS}" in out
    assert same_weights(store_of(folder, "base") / WEIGHTS, undisturbed)


@pytest.mark.slow
def test_a_damaged_checkpoint_of_a_run_in_progress_is_passed_over(undisturbed, tmp_path, trivium):
    folder = fresh(tmp_path)
    process = start(folder, "run", "tiny.yaml", *KEPT)
    wait_for_step(folder, process, 5)
    process.kill()
    process.communicate(timeout=600)
    (newest,) = sorted((folder / ".trivium" / "work").glob("*/checkpoints/step-*"))[-1:]
    flip_a_bit(newest / WEIGHTS)
    code, out, _ = trivium(folder, "run", "tiny.yaml", *LONG)
    assert code == 0
    assert f"checkpoint {newest.name} is passed over" in out
    assert same_weights(store_of(folder, "base") / WEIGHTS, undisturbed)


def test_two_processes_at_once_make_each_stage_once(undisturbed, tmp_path):
    folder = fresh(tmp_path)
    both = [start(folder, "run", "tiny.yaml", *LONG) for _ in range(2)]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = [event["stage"] for event in events(folder) if event["event"] == "stage_end"]
    assert sorted(made) == ["base", "corpus", "dialogues", "pairs", "vocab"]
    assert same_weights(store_of(folder, "base") / WEIGHTS, undisturbed)


# ---- what bad input gets ---------------------------------------------------------------------------------


def test_a_gate_that_fails_shows_the_table_and_refuses_the_release(copy, trivium):
    code, out, err = trivium(copy, "run", "tiny.yaml", "-o", "int8_safety.gates.bits_per_byte.max=0.01")
    assert code == 5
    assert "held-out bits per byte" in out
    assert "int8_safety (int8): bits_per_byte ≤ 0.01" in out
    assert "FAILED" in out
    assert "the release of 'int8' is refused: 1 gates did not pass" in err
    assert "int8_safety: bits_per_byte is" in err
    report = json.loads((copy / "runs/tiny/report.json").read_text(encoding="utf-8"))
    assert report["gates"]["int8_safety"]["passed"] is False


def test_a_damaged_checkpoint_is_named_with_its_checksum(copy, trivium):
    weights = store_of(copy, "sft") / WEIGHTS
    recorded = json.loads((weights.parent / "artifact.json").read_text(encoding="utf-8"))["files"][WEIGHTS]
    flip_a_bit(weights)
    for command in (("run", "tiny.yaml"), ("chat", "runs/tiny/sft", "--prompt", "hi")):
        code, _, err = trivium(copy, *command)
        assert code == 4
        assert recorded in err
        assert WEIGHTS in err
        assert "fix:" in err
    shutil.rmtree(weights.parent)  # what the message says to do
    code, _, _ = trivium(copy, "run", "tiny.yaml")
    assert code == 0
    assert list(started(copy)) == ["sft"]  # the same weights come out, so nothing else is stale


@pytest.fixture
def spoilt(tmp_path) -> Iterator[Path]:
    """A folder whose documents.jsonl a test replaces."""
    yield fresh(tmp_path)


def data(trivium, folder: Path, *more: str) -> tuple[int, str, str]:
    return trivium(folder, "run", "tiny.yaml", "--only", "corpus", *more)


def test_a_bad_line_is_reported_with_file_and_line_and_skipped(spoilt, trivium):
    path = spoilt / "documents.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4], lines[9] = '{"text": "half', '["no object"]'
    path.write_text("\n".join(lines), encoding="utf-8")
    code, out, _ = data(trivium, spoilt)
    assert code == 0
    told = " ".join(out.split())
    assert re.search(r"documents.jsonl:5, offset \d+: malformed line: no JSON", told)
    assert re.search(r"documents.jsonl:10, offset \d+: malformed line: not an object but list", told)
    account = json.loads((spoilt / "runs/tiny/corpus/account.json").read_text(encoding="utf-8"))
    assert account["dead_letters"] == 2
    strict = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    strict["stages"]["corpus"]["sources"][0]["max_bad_lines"] = 1
    (spoilt / "tiny.yaml").write_text(yaml.safe_dump(strict), encoding="utf-8")
    code, _, _ = data(trivium, spoilt)
    assert code == 0  # the limit is no part of what the data is: what is there stays
    shutil.rmtree(store_of(spoilt, "corpus"))
    code, _, err = data(trivium, spoilt)
    assert code == 3
    assert "2 inputs could not be read, more than the 1 allowed" in err
    assert "documents.jsonl:10" in err


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty file"), (b"\n \n", "empty file"), (b'{"text": "caf\xe9"}', "not UTF-8"),
     (b'{"texts": "x"}\n' * 20, "documents.jsonl:1, offset 0: malformed line"), (None, "no such file")],
    ids=["empty", "blank", "latin-1", "wrong-key", "missing"],
)  # fmt: skip
def test_unusable_data_is_said_with_its_file(spoilt, trivium, content, words):
    path = spoilt / "documents.jsonl"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    code, _, err = data(trivium, spoilt)
    assert code == 3
    assert words in err
    assert "documents.jsonl" in err
    assert "fix:" in err


def test_a_corpus_smaller_than_a_batch_is_said(spoilt, trivium):
    small = ("-o", "base.batch=512", "--only", "base")
    code, _, err = trivium(spoilt, "run", "tiny.yaml", *small)
    assert code == 3
    assert "less than one batch (512 rows of 128 tokens)" in err
    assert "stage base of recipe tiny" in err
    code, _, err = trivium(spoilt, "run", "tiny.yaml", "-o", "sft.batch=500", "--only", "sft")
    assert code == 3
    assert "less than one batch of 500" in err


def test_a_mistake_in_the_recipe_costs_nothing(spoilt, trivium):
    code, _, err = trivium(spoilt, "run", "tiny.yaml", "-o", "aligned.init=base")
    assert code == 2
    assert "allow_base" in err
    assert not (spoilt / ".trivium").exists()
    code, _, err = trivium(spoilt, "run", "elsewhere.yaml")
    assert code == 2


def test_a_loss_that_is_no_number_stops_before_the_weights(spoilt, trivium):
    wild = ("-o", "base.z_loss=1e38", "-o", "base.warmup=0", "--only", "base")
    code, _, err = trivium(spoilt, "run", "tiny.yaml", *wild)
    assert code == 6
    assert "the weights were not touched" in err
    assert not (spoilt / "runs/tiny/base").exists()

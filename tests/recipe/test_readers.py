"""Every field of a recipe has a reader that knows whose field it reads: mypy says so. `test_fields` asks it of names, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trivium
from trivium.plan import hardware
from trivium.recipe import models
from trivium.recipe.base import Strict
from trivium.rollout import plan

KINDS = ("AttackBase", "ClassifierJudge", "GradeJudge", "HarmBase", "JudgeBase", "ModelJudge", "StepBase")
UNTYPED: dict[str, set[str]] = {
    **{name: {"kind"} for name in KINDS},  # the key of a table, of whatever has one
    "JudgeBase": {"kind", "axis"},
    **{
        name: {"path"} for name in ("Books", "Html", "Notes", "Text", "Warc")
    },  # Source.__init__, corpus.readers.locate
    "Jsonl": {"path"},
    "Parquet": {"path", "column"},
    "Mix": {"temperature", "max_epochs"},  # out of the identity of a data stage, which is JSON
    "OpenaiTeacher": {
        "parallel",
        "per_minute",
        "retries",
        "timeout",
    },  # an Endpoint is made of all of its fields
    "RolloutServer": {"model", "parallel", "retries", "timeout", "url"},
    **{
        name: {"judges"} for name in ("Gcg", "RedTeam", "Refusals")
    },  # open_judges, of any suite that has them
    "Bbq": {"prompt"},  # as Choice's
    "DistillStage": {"model"},
    "MathVerifier": {"seconds"},
    "RewardVerifier": {"reward_model"},
    "SftStage": {"learn"},  # of any stage that reads conversations
    "TrainingStage": {"max_epochs"},
}
"""Fields whose readers take any model that has a field of the name (`vars`, `getattr`, `model_dump`, a parameter without a type).
`test_fields` finds their names."""
SETTINGS = """\
[mypy]
python_version = 3.11
follow_imports = skip
ignore_missing_imports = True
check_untyped_defs = True
plugins = {}
"""


def subclasses(model: type[Strict]) -> Iterator[type[Strict]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def unread(read: set[str]) -> dict[str, set[str]]:
    """Model -> the fields that it declares and that nobody reads of it, of what it inherits from, or of what inherits it."""
    found: dict[str, set[str]] = {}
    for model in {one for one in subclasses(Strict) if one.__module__.startswith("trivium.")}:
        for name in model.__annotations__:
            declared = [
                one
                for one in (*model.__mro__, *subclasses(model))
                if name in vars(one).get("__annotations__", ())
            ]
            if (
                name in model.model_fields
                and not {f"{one.__module__}.{one.__qualname__}.{name}" for one in declared} & read
            ):
                found.setdefault(model.__qualname__, set()).add(name)
    return found


@pytest.mark.slow
def test_every_field_has_a_reader_of_its_own_type(tmp_path: Path) -> None:
    assert models.Recipe and plan.Arm and hardware  # imported, they are models that are known
    (tmp_path / "mypy.ini").write_text(SETTINGS.format(Path(__file__).with_name("reads.py")))
    reads = tmp_path / "reads.txt"
    words = (
        "--config-file",
        str(tmp_path / "mypy.ini"),
        "--cache-dir",
        os.devnull,
        str(Path(trivium.__file__).parent),
    )
    environment = {**os.environ, "TRIVIUM_READS": str(reads)}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # without what is imported it has complaints, which are no matter
    assert unread(set(reads.read_text(encoding="utf-8").split())) == UNTYPED


def test_a_field_that_nobody_reads_of_its_model_is_seen() -> None:
    read = {f"{m.__module__}.{m.__qualname__}.{f}" for m in subclasses(Strict) for f in m.__annotations__}
    assert unread(read) == {}
    assert unread(read - {"trivium.recipe.parallel.Launch.hang"}) == {"Launch": {"hang"}}

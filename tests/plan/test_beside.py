"""Two plans side by side: what is said of a difference is the difference."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_project import RECIPE

from trivium.cli import main
from trivium.plan import beside
from trivium.plan.hardware import cluster
from trivium.plan.project import Project, project
from trivium.recipe.load import loads


def planned(*overrides: str, on: str = "64xH100") -> Project:
    return project(loads(RECIPE, overrides), cluster(on))


def test_the_hours_by_cause_are_all_hours() -> None:
    for on in ("64xH100", "8xA100"):
        for phase in planned(on=on).phases:
            if phase.hours.expected:
                assert sum(beside.hours(phase).values()) == pytest.approx(phase.hours.expected)


def test_a_plan_beside_itself_differs_in_nothing() -> None:
    first = planned()
    for pair in beside.pairs(first, planned()):
        assert pair.ratio == 1.0 and pair.dollars == 1.0
        assert beside.told(pair, first, first) == f"{pair.stage}: takes as long"
    assert beside.changed(loads(RECIPE), loads(RECIPE)) == []


def test_what_is_named_first_is_what_changed() -> None:
    first, faster = planned(), planned(on="64xH200")  # the same arithmetic, faster memory
    base = next(pair for pair in beside.pairs(first, faster) if pair.stage == "base")
    assert base.ratio is not None and base.ratio < 1
    why = beside.told(base, first, faster)
    assert "(pointwise -" in why and "devices x 1, price of one x " in why
    again = planned("base.recompute=blocks")
    base = next(pair for pair in beside.pairs(first, again) if pair.stage == "base")
    assert base.ratio is not None and base.ratio > 1
    assert "(matrix products +" in beside.told(base, first, again)
    assert "activations -" in beside.told(base, first, again)
    assert beside.changed(loads(RECIPE), loads(RECIPE, ["base.recompute=blocks"])) == [
        "base.recompute: none -> blocks"
    ]


def test_dollars_are_time_times_devices_times_price() -> None:
    first, other = planned(), planned(on="128xH200")
    for pair in beside.pairs(first, other):
        factors = re.findall(r"(?:time|devices|price of one) x ([\d.]+)", beside.told(pair, first, other))
        product = float(factors[-3]) * float(factors[-2]) * float(factors[-1])
        assert pair.dollars == pytest.approx(product, rel=0.02)


def test_a_stage_that_one_plan_has_not_is_told() -> None:
    first = planned()
    other = project(loads(RECIPE[: RECIPE.index("  chat:")]), cluster("64xH100"))
    said = {pair.stage: beside.told(pair, first, other) for pair in beside.pairs(first, other)}
    assert said["chat"] == "chat: not counted in the other plan" and said["base"] == "base: takes as long"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--on", "64xH100", "--beside", "128xH100"], 0, "devices x 2"),
        (["--on", "64xH100", "--beside", "base.batch=512"], 0, "base.batch: 1024 -> 512"),
        (["--on", "64xH100", "--beside", "other.yaml"], 0, "other on 64 x H100"),
        (["--on", "64xH100", "--beside", "mine.yaml", "--beside", "base.batch=512"], 0, "on 32 x Mine"),
        (["--on", "64xH100", "--beside", "faster"], 2, "nothing to plan beside"),
        (["--on", "64xH100", "--beside", "8xH100", "--beside", "8xA100"], 2, "nothing to plan beside"),
        (["--on", "64xH100", "--beside", "nowhere.yaml"], 2, "there is no recipe nowhere.yaml"),
        (["--on", "64xH100", "--beside", "1x4090"], 2, "beside it, base: the model fits in no layout"),
        (["--on", "64xH100", "--beside", "base.bach=3"], 2, "did you mean `batch`"),
        (["--beside", "8xH100"], 2, "--on 8xH100"),
        (["--on", "64xH100", "--beside", "8xH100", "--budget", "5"], 2, "--gpus and --json only"),
        (["--dry-run", "--beside", "8xH100"], 2, "--dry-run goes with"),
    ],
)
def test_the_command_line_takes_fields_clusters_and_recipes(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("seven.yaml").write_text(RECIPE)
    Path("other.yaml").write_text(RECIPE.replace("name: seven", "name: other"))
    device = "{name: Mine, bf16_dense_tflops: 700, memory_gb: 96, memory_gb_per_s: 3000}"
    Path("mine.yaml").write_text(f"accelerator: {device}\ncount: 32\n")
    with pytest.raises(SystemExit) as stop:
        main(["plan", "seven.yaml", *arguments])
    captured = capsys.readouterr()
    assert int(str(stop.value.code)) == code
    assert said in " ".join((captured.out + captured.err).split())


def test_json_holds_both_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seven.yaml").write_text(RECIPE)
    with pytest.raises(SystemExit):
        main(["plan", "seven.yaml", "--on", "64xH100", "--beside", "64xA100", "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert plain["plan"]["cluster"]["accelerator"] == "h100-sxm"
    assert plain["beside"]["cluster"]["accelerator"] == "a100-sxm-80"
    assert plain["changed"] == [] and any(line.startswith("base: time x ") for line in plain["why"])

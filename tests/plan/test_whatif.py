"""Why a number is what it is, and what a budget or a deadline does."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_project import RECIPE

from trivium.cli import main
from trivium.errors import GateError, RecipeError
from trivium.plan import flops, whatif
from trivium.plan.explain import EXPLAIN, QUANTITIES, causal, terms
from trivium.plan.hardware import cluster
from trivium.plan.project import project
from trivium.recipe.load import loads

ALONE = RECIPE[: RECIPE.index("  chat:")]
SEVEN = loads(ALONE)


def test_terms_end_in_the_number_that_the_table_has() -> None:
    found = project(SEVEN, cluster("64xH100"))
    base = next(phase for phase in found.phases if phase.stage == "base")
    assert f"= {base.hours.expected * 60:,.2f} min" in terms(found, "base.minutes")[-1]
    assert base.dollars is not None
    assert f"= {base.dollars.expected:,.2f} $" in terms(found, "base.dollars")[-1]
    assert set(EXPLAIN) == set(QUANTITIES)
    every = project(loads(RECIPE), cluster("64xH100"))
    for phase in every.phases:
        for quantity in QUANTITIES:
            assert terms(every, f"{phase.stage}.{quantity}")[0].startswith(f"{phase.stage}.{quantity}:")
    why = " ".join(terms(found, "base.layout"))
    assert "is the fastest of" in why and "The next, " in why


def test_work_is_told_with_and_without_what_the_mask_hides() -> None:
    """6 N + 12 L H E T a token, and 6 N + 6 L H E T; of adapters 4 N + 12 L H E T, and half of the latter less."""
    low = RECIPE.replace("epochs: 2, batch: 128", "epochs: 2, batch: 128, adapter: {rank: 8}")
    found = {phase.stage: phase for phase in project(loads(low), cluster("64xH100")).phases}
    squares = 12 * 32 * 4096 * 4096
    for name, whole in (("base", flops.training), ("chat", flops.adapting)):
        phase = found[name]
        assert phase.config is not None and phase.found is not None
        each = whole(phase.config, 4096)
        assert causal(phase.config, phase.found.winner.shape, each) == pytest.approx(each - squares / 2)
    said = terms(project(SEVEN, cluster("64xH100")), "base.flops")
    assert "whole squares" in said[-2] and "causal mask hides" in said[-1]


@pytest.mark.parametrize(
    ("asked", "said"), [("bas.minutes", "`base`"), ("base.minute", "`minutes`"), ("x", "STAGE.QUANTITY")]
)
def test_what_is_not_known_is_told_with_the_nearest_names(asked: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        terms(project(SEVEN, cluster("64xH100")), asked)
    assert said in str(error.value)


def test_a_deadline_gets_the_fewest_devices_that_keep_it() -> None:
    device = cluster("H100").accelerator
    found = whatif.devices_for(SEVEN, device, 24 * 60)
    assert found is not None and found.hours.expected <= 24 * 60
    half = project(SEVEN, cluster(f"{found.cluster.count // 2}xH100"))
    assert half.hours.expected > 24 * 60
    with pytest.raises(GateError) as error:
        whatif.check(half, SEVEN, None, 24 * 60)
    assert f"{found.cluster.count} x H100" in error.value.fix


def test_a_budget_says_what_it_buys() -> None:
    found = project(SEVEN, cluster("64xH100"))
    assert found.dollars is not None
    assert "is kept" in whatif.check(found, SEVEN, found.dollars.high * 1.01, None)[0]
    assert "not at the high end" in whatif.check(found, SEVEN, found.dollars.expected * 1.01, None)[0]
    with pytest.raises(GateError) as error:
        whatif.check(found, SEVEN, found.dollars.expected / 2, None)
    assert "base with" in error.value.fix and "instead of 1e+11" in error.value.fix
    with pytest.raises(RecipeError, match="no price"):
        whatif.check(project(SEVEN, cluster("64xB300")), SEVEN, 10.0, None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--on", "64xH100", "--budget", "100"], 5),
        (["--on", "64xH100", "--deadline", "1h"], 5),
        (["--on", "H100", "--deadline", "400d", "--explain", "base.layout"], 0),
        (["--on", "H100", "--gpus", "64", "--json"], 0),
        (["--on", "H100", "--gpus", "-1"], 2),
        (["--on", "64xH100", "--deadline", "soon"], 2),
        (["--on", "64xH100", "--budget", "-1"], 2),
        (["--budget", "10"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("seven.yaml").write_text(ALONE)
    with pytest.raises(SystemExit) as stop:
        main(["plan", "seven.yaml", *arguments])
    assert stop.value.code == code

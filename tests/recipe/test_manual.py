"""Every kind and every field of a recipe can be asked about, by each of its names."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from trivium.cli import app
from trivium.errors import RecipeError
from trivium.recipe.manual import FieldHelp, KindHelp, look_up, manual
from trivium.recipe.models import STAGES, TRAINING


def said(*words: str) -> str:
    done = CliRunner().invoke(app, ["explain", *words], catch_exceptions=False, env={"COLUMNS": "100"})
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("kind", [kind for kind, _, _ in manual().all()])
def test_every_kind_says_what_it_is_and_each_of_its_fields_is_found(kind):
    for help_ in look_up(kind):
        assert isinstance(help_, KindHelp) and len(help_.about) > 10
        for name in (*(field.path for field in help_.own), *(f"{kind}.{name}" for name in help_.shared)):
            assert any(field.path == name for field in look_up(name)), name


def test_all_stages_are_in_it_and_all_training_says_when_to_take_it():
    assert set(STAGES) <= set(manual().kinds)
    assert all(len(stage.when) > 40 for stage in TRAINING.values() if stage.__module__.startswith("trivium."))


def test_a_field_says_its_values_its_default_and_what_a_change_does():
    (beta,) = look_up("dpo.beta")
    assert isinstance(beta, FieldHelp)
    assert (beta.takes, beta.default, beta.remakes, beta.required) == ("number, above 0", 0.1, True, False)
    (smoothing,) = look_up("dpo.label_smoothing")
    assert smoothing.read_only_where == "loss is sigmoid"
    (log,) = look_up("sft.log_every")
    assert not log.remakes
    (bands,) = look_up("data.dedup.fuzzy.bands")
    assert "near-duplicates" in bands.about


def test_a_stage_of_a_recipe_is_looked_up_by_its_kind():
    assert look_up("aligned.beta", {"aligned": "orpo"}) == look_up("orpo.beta")
    assert {entry.path for entry in look_up("beta")} >= {"dpo.beta", "simpo.beta"}
    assert "trivium" not in said("aligned.beta", "recipes/quickstart.yaml")


def test_what_is_no_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean `beta`"):
        look_up("dpo.betta")
    with pytest.raises(RecipeError, match="did you mean `lr`"):
        look_up("lrr")


def test_the_screen_of_a_method_has_its_equation_its_needs_and_its_fields():
    text = said("dpo")
    assert "log sigmoid(beta m)" in text and "format preferences" in text and "label_smoothing" in text
    assert {row["kind"] for row in json.loads(said("--json"))} == set(manual().kinds)
    assert json.loads(said("dpo.beta", "--json"))[0]["default"] == 0.1

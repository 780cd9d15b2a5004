# ruff: noqa: E501 (tables of recipes, one a line)
"""Laws over all fields of all models that a recipe is made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import Field

from trivium.errors import RecipeError
from trivium.recipe import models
from trivium.recipe.alignment import GrpoStage, PpoStage
from trivium.recipe.base import Strict
from trivium.recipe.load import loads
from trivium.recipe.traps_effect import conditions

assert models.Recipe  # which imports every model


def subclasses(model: type[Strict]) -> Iterator[type[Strict]]:
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


def other_meanings(model: type[Strict]) -> list[str]:
    """Fields that `model` declares again with another help text than its base has."""
    bases = [base for base in model.__mro__[1:] if issubclass(base, Strict)]
    known = {name: field for base in reversed(bases) for name, field in base.model_fields.items()}
    return [
        name
        for name in model.__annotations__
        if name in model.model_fields and name in known and known[name].description
        if model.model_fields[name].description not in (None, known[name].description)
    ]


MODELS = sorted(set(subclasses(Strict)), key=lambda model: model.__qualname__)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_no_subclass_gives_a_field_another_meaning(model):
    assert other_meanings(model) == []


def test_another_meaning_is_seen():
    class Other(PpoStage):
        max_grad_norm: float = Field(0.2, description="how far the policy may move")

    assert other_meanings(Other) == ["max_grad_norm"]


@pytest.mark.parametrize("stage", [PpoStage, GrpoStage])
def test_the_gradient_and_the_ratio_are_cut_by_fields_of_their_own(stage):
    config = stage.model_validate(
        {"kind": stage.model_fields["kind"].annotation.__args__[0], "init": "a", "data": "b", "steps": 1}
    )
    assert (config.max_grad_norm, config.clip_epsilon) == (1.0, 0.2)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("clip", "`clip` is now `clip_epsilon` and `max_grad_norm`; "),
        ("clip_high", "`clip_high` is now `clip_epsilon_high`; "),
        ("correction", "`correction` is now `importance_weight_cap`; "),
        ("sampler", "`sampler` is now `rollout_server`; "),
    ],
)
def test_names_of_before_are_understood(old, now):
    text = "name: a\nstages:\n  b: {kind: grpo, init: c, data: d, steps: 1, %s: 2}\n"
    with pytest.raises(RecipeError) as caught:
        loads(text % old)
    assert caught.value.fix.startswith(now)


LIMITED = [
    (model, field)
    for model in MODELS
    for field in model.model_fields
    if conditions(model, field) and (model.__module__.startswith("trivium."))
]


@pytest.mark.parametrize(("model", "field"), LIMITED, ids=lambda value: getattr(value, "__name__", value))
def test_what_a_field_depends_on_is_beside_it(model, field):
    for case in conditions(model, field):
        for key, wanted in case.items():
            assert hasattr(model, key) or key in model.model_fields
            if isinstance(wanted, list):
                assert set(wanted) < set(values(model, key)), f"{field} is always read"
            else:
                assert wanted in ("set", "unset")


def values(model: type[Strict], key: str) -> tuple[str, ...]:
    annotation = model.model_fields[key].annotation
    return get_args(annotation) if get_origin(annotation) is Literal else ()


NAMED_CASES = re.compile(r"((?:\w+)(?:(?:, | and | or )\w+)*)(?: only)?: ")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_help_text_that_names_cases_is_kept(model):
    """`wsd only: ...`, `slurm and ray: ...`, `mup: ...`: the field is refused elsewhere, and in those cases it is not."""
    for name, field in model.model_fields.items():
        match = NAMED_CASES.match(field.description or "")
        said = set(re.split(", | and | or ", match[1])) - set(values(model, name)) if match else set()
        for other in model.model_fields:
            if said and other != name and said <= set(values(model, other)):
                listed = [set(case.get(other, ())) for case in conditions(model, name)]
                assert said in listed, f"{model.__name__}.{name}: `only(..., {{{other!r}: {sorted(said)}}})`"
        if said and said <= set(model.model_fields) - {name}:
            assert any(set(case) >= said for case in conditions(model, name)), f"{model.__name__}.{name}"


WITHOUT_EFFECT = [
    ("{kind: sft, init: base, data: talk, steps: 4, decay: 0.5}", "decay", "`schedule` is cosine"),
    ("{kind: sft, init: base, data: talk, steps: 4, schedule: constant, lr_end: 0}", "lr_end", "is constant"),
    ("{kind: sft, init: base, data: talk, steps: 4, muon_lr: 0.1}", "muon_lr", "`optimizer` is adamw"),
    ("{kind: sft, init: base, data: talk, steps: 4, max_epochs: 4}", "max_epochs", "there is no `tokens`"),
    ("{kind: sft, init: base, data: talk, steps: 4, guard: {window: 9}}", "window", "there is no `z`"),
    ("{kind: sft, init: base, data: talk, steps: 4, guard: {z: 9, max_skips: 9}}", "max_skips", "`on_bad` is stop"),
    ("{kind: sft, init: base, data: talk, steps: 4, launch: {partition: a}}", "partition", "`kind` is local"),
    ("{kind: sft, init: base, data: talk, steps: 4, parallel: {data: 2}, launch: {kind: ray, nodes: 2}}", "nodes", "`kind` is ray"),
    ("{kind: sft, init: base, data: talk, steps: 4, launch: {kind: slurm, address: a}}", "address", "is slurm"),
    ("{kind: sft, init: base, data: talk, steps: 4, launch: {kind: slurm, restarts: 9}}", "restarts", "is slurm"),
    ("{kind: sft, init: base, data: talk, steps: 4, generation: {temperature: 0, top_p: 0.9}}", "top_p", "`temperature` is 0"),
    ("{kind: sft, init: base, data: talk, steps: 4, samples: {prompts: [a], count: 9}}", "count", "there is `prompts`"),
    ("{kind: dpo, init: sft, data: pairs, steps: 4, loss: ipo, label_smoothing: 0.1}", "label_smoothing", "`loss` is ipo"),
    ("{kind: dpo, init: sft, data: pairs, steps: 4, loss: ipo, length_normalised: true}", "length_normalised", "is ipo"),
    ("{kind: distill, init: sft, teacher: sft, data: talk, steps: 4, mix: 0.1}", "mix", "`divergence` is forward"),
    ("{kind: distill, init: sft, teacher: sft, data: talk, steps: 4, max_new_tokens: 9}", "max_new_tokens", "`on_policy` is 0"),
    ("{kind: distill, init: sft, teacher: sft, data: talk, steps: 4, model: {dim: 64}}", "model", "`init` is sft"),
    ("{kind: distill, teacher: sft, data: talk, steps: 4, model: {mup_base: 32}}", "mup_base", "`mup` is false"),
    ("{kind: distill, teacher: sft, data: talk, steps: 4, model: {rope_scaling: {kind: linear, factor: 2, low: 2}}}", "low", "`kind` is linear"),
    ("{kind: grpo, init: sft, data: talk, steps: 4, reward: exact, rollout_device: cpu}", "rollout_device", "`staleness` is 0"),
    ("{kind: data, sources: [{kind: primer}], ngram: 5}", "ngram", "there is no `decontaminate`"),
    ("{kind: data, sources: [{kind: primer}], on_overlap: flag}", "on_overlap", "there is no `decontaminate`"),
    ("{kind: data, sources: [{kind: primer}], language: {min_score: 0.1}}", "min_score", "there is no `keep`"),
    ("{kind: data, sources: [{kind: primer}], pii: {phone: false, regions: [DE]}}", "regions", "`phone` is false"),
    ("{kind: synthesize, data: talk, method: critique, teacher: {kind: checkpoint, model: sft}, samples: 9}", "samples", "`method` is critique"),
    ("{kind: synthesize, data: talk, method: critique, teacher: {kind: checkpoint, model: sft}, accept: 0.5}", "accept", "there is no `verifier`"),
    ("{kind: synthesize, data: talk, method: critique, teacher: {kind: checkpoint, model: sft}, temperature: 0, top_p: 0.9}", "top_p", "is 0"),
    ("{kind: synthesize, data: talk, method: critique, teacher: {kind: openai, url: 'http://a', model: b, budget: 5}}", "budget", "`price_in` is 0"),
    ("{kind: evaluate, model: sft, suites: [{kind: response_loss, data: talk, max_new_tokens: 9}]}", "max_new_tokens", "does not do that"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "field", "why"), WITHOUT_EFFECT, ids=[f"{case[1]}" for case in WITHOUT_EFFECT]
)
def test_a_field_without_effect_is_refused_with_the_reason(stage, field, why):
    text = f"""
name: a
stages:
  corpus: {{kind: data, sources: [{{kind: python-docs}}]}}
  talk: {{kind: data, format: conversations, sources: [{{kind: primer}}], size: 9}}
  pairs: {{kind: data, format: preferences, sources: [{{kind: primer}}], size: 9}}
  vocab: {{kind: tokenizer, data: corpus}}
  base: {{kind: pretrain, data: corpus, tokenizer: vocab, steps: 4}}
  sft: {{kind: sft, init: base, data: talk, steps: 4}}
  tried: {stage}
"""
    with pytest.raises(RecipeError) as caught:
        loads(text)
    assert f"`{field}` is given, and " in caught.value.what and why in caught.value.what
    assert "it is read only with" in caught.value.fix


def test_a_field_at_its_default_is_no_mistake():
    text = "name: a\nstages:\n  b: {kind: data, sources: [{kind: primer}], ngram: 13, on_overlap: drop}\n"
    assert loads(text).stages["b"].ngram == 13


def names_read(path: Path) -> Iterator[str]:
    """Attributes that a file reads of values: not of modules, nor, where no models of a recipe are, of the file's own objects."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
    own = set() if "recipe" in path.parts else {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = node.value.id if isinstance(node.value, ast.Name) else ""
            yield from [node.attr] if name not in modules | own else []


@cache
def all_names_read() -> frozenset[str]:
    sources = Path(models.__file__).parents[1].rglob("*.py")
    return frozenset(name for path in sources for name in names_read(path))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_has_a_reader(model):
    assert set(model.model_fields) <= all_names_read()


def test_a_field_without_a_reader_is_seen(tmp_path):
    source = "import time\nclass A:\n    def f(self, config):\n        return time.a, self.b, config.c, A.d\n"
    (tmp_path / "file.py").write_text(source)
    assert set(names_read(tmp_path / "file.py")) == {"c", "d"}

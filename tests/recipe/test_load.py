# ruff: noqa: E501 (tables of mistakes, one a line)
"""A recipe that cannot be read or does not fit: each mistake, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from trivium.errors import RecipeError
from trivium.recipe.load import load, loads
from trivium.recipe.network import ModelShape
from trivium.recipe.parallel import Parallel
from trivium.recipe.schema import schema, starter
from trivium.recipe.training import PretrainStage

RECIPE = """\
name: tiny
seed: 3
stages:
  corpus:
    kind: data
    sources: [{kind: python-docs}]
  vocab: {kind: tokenizer, data: corpus, vocab_size: 4K}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 64, heads: 2, layers: 2}
    steps: 1e3
    lr: 2e-3
    compile: off
"""


def refuse(text: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        loads(text, overrides)
    return caught.value


def test_a_right_recipe_is_read_with_its_units() -> None:
    recipe = loads(RECIPE)
    base = recipe.stages["base"]
    assert isinstance(base, PretrainStage)
    assert (recipe.seed, base.steps, base.lr, base.compile) == (3, 1000, 2e-3, "off")
    assert recipe.stages["vocab"].vocab_size == 4000


@pytest.mark.parametrize(
    ("stage", "thing", "hint"),
    [
        ("{kind: evaluat, model: a}", "stage: `evaluat`", "`evaluate`? valid kinds: data, "),
        ("{kind: data, sources: [{kind: primr}]}", "source: `primr`", "`primer`? valid kinds: python-docs, "),
        ("{kind: evaluate, model: a, suites: [{kind: refusal}]}", "suite: `refusal`", "`refusals`? valid kinds: bits_per_byte, "),
        ("{kind: synthesize, data: a, method: cot, teacher: {kind: opena}}", "teacher: `opena`", "`openai`? valid kinds: checkpoint, openai"),
    ],
)  # fmt: skip
def test_an_unknown_kind_is_told_with_the_kinds_of_its_place(stage: str, thing: str, hint: str) -> None:
    error = refuse(f"name: a\nstages:\n  b: {stage}\n")
    assert f"unknown kind of {thing}" in error.what
    assert error.fix.startswith(f"did you mean {hint}")


def test_the_starter_is_a_right_recipe() -> None:
    mine, measured = loads(starter("mine")), load(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    assert (mine.name, mine.seed) == ("mine", measured.seed)
    for name, stage in mine.stages.items():  # a first run should end with a release, so its gates are wider
        assert {**dict(stage), "gates": None} == {**dict(measured.stages[name]), "gates": None}


def test_the_recipes_that_come_with_trivium_are_right() -> None:
    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert [load(path).name for path in recipes] == [path.stem for path in recipes]
    assert "quickstart" in [path.stem for path in recipes]


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("", "recipe.yaml", "empty"),
        ("# nothing\n", "recipe.yaml", "empty"),
        ("- a\n- b\n", "recipe.yaml:1", "is a list"),
        ("just words", "recipe.yaml:1", "is a text"),
        ("name: a\nstages: {a: [}\n", "recipe.yaml:2, column 14", "not YAML"),
        ("name: a\nstages:\n\tcorpus: 1\n", "recipe.yaml:3, column 1", "not YAML"),
        ("name: a\n---\nname: b\n", "recipe.yaml:2, column 1", "not YAML"),
        ("name: a\nseed: 1\nname: b\n", "recipe.yaml:3", "`name` stands twice"),
        ("name: a\n2: b\n", "recipe.yaml:2", "a key must be a word"),
        ("name: a\nseed: !!python/object:os.system 1\n", "recipe.yaml:2", "tag"),
        ("name: a\nstages: &x\n  loop: *x\n", "recipe.yaml:2", "contains itself"),
        ("name: a\nstages: *nowhere\n", "recipe.yaml:2, column 9", "undefined alias"),
        ("name: \x00\n", "recipe.yaml", "not YAML"),
        ("a: " + "[" * 3000 + "]" * 3000, "recipe.yaml", "nested too deeply"),
        ("a: " + "b" * 1_000_001, "recipe.yaml", "1,000,004 characters"),
    ],
)
def test_text_that_is_no_recipe(text: str, where: str, said: str) -> None:
    error = refuse(text)
    assert (error.where, error.exit_code) == (where, 2)
    assert said in error.what
    assert error.fix


def test_aliases_cannot_multiply_without_bound() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert "multiply" in refuse(bomb).what


def test_aliases_and_merges_are_otherwise_fine() -> None:
    text = RECIPE.replace("  base:\n", "  base: &base\n") + "  other: {<<: *base, lr: 1e-4}\n"
    other = loads(text).stages["other"]
    assert isinstance(other, PretrainStage)
    assert (other.lr, other.steps) == (1e-4, 1000)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path) -> None:
    (tmp_path / "quickstart.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match="there is no recipe") as caught:
        load(tmp_path / "quikstart.yaml")
    assert "`quickstart.yaml`" in caught.value.fix
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(tmp_path / "bytes.yaml")


def change(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        (change("lr: 2e-3", "lrr: 2e-3"), "14, stage base, field lrr", "unknown key `lrr`", "did you mean `lr`?"),
        (
            change("lr: 2e-3", "learning_rate: 2e-3"),
            "14, stage base, field learning_rate",
            "unknown key `learning_rate` in this stage of kind pretrain",
            "did you mean `lr`? valid keys: kind, seed, data, tokens",
        ),
        (change("lr: 2e-3", "clip: 2"), "14, stage base, field clip", "`clip`", "`clip` is now `max_grad_norm`; valid keys"),
        (change("seed: 3", "sead: 3"), "2, field sead", "unknown key", "did you mean `seed`?"),
        (change("layers: 2", "n_layer: 2"), "12, stage base, field model.n_layer", "unknown", "`layers`"),
        (change("kind: pretrain", "kind: pretran"), "9, stage base, field kind", "`pretran`", "mean `pretrain`?"),
        (change("{kind: python-docs}", "{kind: python_docs}"), "6, stage corpus, field sources[0].kind", "source", "`python-docs`?"),
        (change("kind: pretrain", "type: pretrain"), "8, stage base", "no `kind`", "write `type` as `kind`"),
        (change("    data: corpus\n", ""), "8, stage base, field data", "`data` is missing", "write `data: ...`"),
        (change("lr: 2e-3", "lr: fast"), "14, stage base, field lr", "`lr` is 'fast'", "Peak learning rate."),
        (change("lr: 2e-3", "lr: -1"), "14, stage base, field lr", "greater than 0", "Peak learning rate."),
        (change("lr: 2e-3", "lr: inf"), "14, stage base, field lr", "finite", "Peak learning rate."),
        (change("steps: 1e3", "steps: many"), "13, stage base, field steps", "'many' is no count", "optimizer steps"),
        (change("compile: off", "checkpoint_every: 60"), "15, stage base, field checkpoint_every", "30s, 5min", "Time"),
        (change("compile: off", "checkpoint_every: 0 steps"), "15, stage base, field checkpoint_every", "no interval", "200 steps"),
        (change("compile: off", "compile: of"), "15, stage base, field compile", "none of: auto, on, off", "`off`?"),
        (change("name: tiny", "name: Tiny Model"), "1, field name", "no valid name", "small letters"),
        (change("  vocab:", "  Vocab:"), "7, stage Vocab", "no valid name", "small letters"),
        (change("[{kind: python-docs}]", "python-docs"), "6, stage corpus, field sources", "must be a list", "write"),
        (change("model: {dim: 64, heads: 2, layers: 2}", "model: big"), "12, stage base, field model", "mapping", "write"),
        (change("heads: 2", "heads: two"), "12, stage base, field model.heads", "`heads` is 'two': write a whole number", "Attention heads"),
        ("name: tiny\nstages: {}\n", "2, field stages", "is empty", "trivium init"),
        ("name: tiny\n", "1, field stages", "`stages` is missing", "write `stages"),
        ("name: tiny\nstages:\n  base: pretrain\n", "3, stage base", "mapping", "write"),
        ("name: tiny\nstages:\n  base:\n", "3, stage base", "`base` is empty", "write"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit(text: str, where: str, what: str, fix: str) -> None:
    error = refuse(text)
    assert error.where == f"recipe.yaml:{where}"
    assert what in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("base.context=4K", "write a whole number without a unit", "write 4000 or 4096. Tokens per row"),
        (
            "base.micro_batch=2M",
            "write a whole number without a unit",
            "write 2000000. Rows per forward pass",
        ),
        ("base.model.dim=1K", "write a whole number without a unit", "write 1000 or 1024. Width"),
        ("base.warmup=5%", "write a number without a unit", "write 0.05. Share of the steps"),
        ("base.betas=[0.9, 95%]", "write a number without a unit", "write 0.95. AdamW"),
        ("base.log_every=5min", "write a whole number without a unit", "Steps between progress lines."),
        ("base.lr=2m", "write a number without a unit", "Peak learning rate."),
        (
            "base.batch=3M tokens",
            "'3M tokens' is no count",
            "Rows (sequences) per optimizer step, not tokens.",
        ),
        ("base.lr=1e9", "10", "Peak learning rate."),
        ("base.parallel.shard=8K", "`shard` is '8K': write a whole", "write 8000 or 8192. Ranks that"),
        ("base.parallel=4", "none of: auto, a mapping of fields", "Ranks and what they share"),
        ("base.parallel=fast", "none of: auto, a mapping of fields", "Ranks and what they share"),
    ],
)
def test_a_unit_where_none_can_be_written_is_told_with_what_it_means(
    override: str, what: str, fix: str
) -> None:
    error = refuse(RECIPE, override)
    assert what in error.what and error.fix.startswith(fix)
    assert error.where.endswith(f"stage base, field {override.split('=')[0].removeprefix('base.')}") or (
        "betas" in override
    )
    for words in ("parse", "valid integer", "Parallel", "literal["):
        assert words not in str(error)


def _counted() -> list[str]:
    """Every field of a pretrain stage that takes a number, by the name that an override gives it."""
    found, models = [], [("base", PretrainStage), ("base.model", ModelShape), ("base.parallel", Parallel)]
    for prefix, model in models:
        for name, field in model.model_fields.items():
            if any(kind in str(field.annotation) for kind in ("int", "float")) and name != "betas":
                found.append(f"{prefix}.{name}")
    return found


@pytest.mark.parametrize("field", _counted())
@pytest.mark.parametrize("value", ["-1", str(10**30), "1e300", "0.3.1", "3 rows", "nan"])
def test_absurd_numbers_are_refused_at_once_or_read(field: str, value: str) -> None:
    """None of them takes long, none is a traceback, and what is refused is told with its place."""
    try:
        loads(RECIPE, [f"{field}={value}"])
    except RecipeError as error:
        assert field.rpartition(".")[2] in str(error)


@pytest.mark.parametrize(
    ("kind", "key", "lesson"),
    [
        ("dpo", "reward_model", "learns from the preferences"),
        ("orpo", "reward_model", "learns from the preferences"),
        ("dpo", "ref_model", "always its `init` checkpoint"),
        ("orpo", "reference", "works without a reference"),
    ],
)
def test_keys_of_other_methods_get_a_lesson(kind: str, key: str, lesson: str) -> None:
    text = (
        RECIPE
        + f"  aligned:\n    kind: {kind}\n    init: base\n    data: corpus\n    steps: 10\n    {key}: base\n"
    )
    error = refuse(text)
    assert error.where == f"recipe.yaml:21, stage aligned, field {key}"
    assert f"`{key}` was given to {kind}" in error.what
    assert lesson in error.fix


def test_all_mistakes_are_said_at_once() -> None:
    error = refuse(change("lr: 2e-3", "lrr: 2e-3").replace("seed: 3", "seed: x"))
    assert "2 mistakes" in error.what
    assert "recipe.yaml:2, field seed" in error.what
    assert "recipe.yaml:14, stage base, field lrr" in error.what


@pytest.mark.parametrize(
    ("given", "what", "hint"),
    [
        ("parallel: 5", "`parallel` is 5, which is none of: auto", "Ranks and what they share"),
        ("parallel: atuo", "`parallel` is 'atuo', which is none of: auto", "did you mean `auto`?"),
        ("parallel: {daat: 2}", "unknown key `daat` in this mapping", "did you mean `data`?"),
        ("parallel: {data: x}", "`data` is 'x'", "Copies of the model"),
        (
            "adapter: {targets: [head]}",
            "`targets[0]` is 'head', which is none of: q_proj",
            "did you mean `lm_head`?",
        ),
    ],
)
def test_of_several_things_that_a_field_takes_the_one_that_was_meant_is_explained(
    given: str, what: str, hint: str
) -> None:
    text = f"name: a\nstages:\n  b: {{kind: import, path: x}}\n  c: {{kind: sft, init: b, data: d, steps: 1, {given}}}\n"
    with pytest.raises(RecipeError) as caught:
        loads(text)
    assert caught.value.what.startswith(what) and hint in caught.value.fix
    assert "literal" not in str(caught.value) and "Parallel" not in caught.value.where


def test_overrides_replace_values() -> None:
    recipe = loads(
        RECIPE,
        ["base.lr=2e-5", "seed=9", "name=other", "base.model.dim=128", "corpus.sources.0.sources=false"],
    )
    base = recipe.stages["base"]
    assert isinstance(base, PretrainStage)
    assert (recipe.name, recipe.seed, base.lr, base.model.dim) == ("other", 9, 2e-5, 128)
    assert recipe.stages["corpus"].sources[0].sources is False
    assert loads(RECIPE, ["corpus.sources[0].weight=1"]).stages["corpus"].sources[0].weight == 1
    assert loads(RECIPE, ["base.steps=", "base.tokens=3M"]).stages["base"].tokens == 3_000_000
    without_model = change("    model: {dim: 64, heads: 2, layers: 2}\n", "")
    assert loads(without_model, ["base.model.layers=3"]).stages["base"].model.layers == 3


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("bse.lr=1", "no stage `bse`", "did you mean `base`?"),
        ("base.clip=1", "`base` has no field `clip`", "`clip` is now `max_grad_norm`; valid here"),
        ("base.lrr=1", "`base` has no field `lrr`", "did you mean `lr`?"),
        ("base.model.dims=1", "`base.model` has no field `dims`", "did you mean `dim`?"),
        ("base.lr.x=1", "`base.lr` is a single value", "-o base.lr=VALUE"),
        ("base=1", "`base` is a stage", "valid here"),
        ("corpus.sources.1.kind=x", "is a list of 1", "an index from 0 to 0"),
        ("base.lr", "is no override", "STAGE.FIELD=VALUE"),
        ("=3", "is no override", "STAGE.FIELD=VALUE"),
        ("base.lr=[1", "not YAML", "brackets"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, what: str, fix: str) -> None:
    error = refuse(RECIPE, override)
    assert error.where == f"-o {override}"
    assert what in error.what
    assert fix in error.fix


def test_an_override_is_the_place_of_what_it_breaks() -> None:
    assert refuse(RECIPE, "base.lr=fast").where == "-o base.lr=fast, stage base, field lr"
    assert (
        refuse(RECIPE, "base.model.heads=3").where == "-o base.model.heads=3, stage base, field model.heads"
    )
    assert (
        refuse(RECIPE, "base.model={heads: 3}").where
        == "-o base.model={heads: 3}, stage base, field model.heads"
    )


def test_the_schema_knows_units_and_help() -> None:
    found = schema()
    assert json.loads(json.dumps(found)) == found
    tokens = found["$defs"]["PretrainStage"]["properties"]["tokens"]
    assert {"string", "integer", "null"} == {option["type"] for option in tokens["anyOf"]}
    assert "Length of training" in tokens["description"]
    assert found["additionalProperties"] is False
    requires = found["$defs"]["ReleaseStage"]["properties"]["requires"]["anyOf"]
    assert [option["type"] for option in requires] == ["string", "array"]
    (stages,) = found["properties"]["stages"]["patternProperties"].values()
    kinds = stages["discriminator"]["mapping"]
    assert {stage["kind"] for stage in yaml.safe_load(starter("a"))["stages"].values()} <= set(kinds)


@pytest.mark.parametrize("betas", ["[0.9, 1.5]", "[1, 0.9]", "[-0.1, 0.9]"])
def test_betas_that_keep_all_or_more_are_refused(betas: str) -> None:
    error = refuse(RECIPE.replace("    steps: 1e3\n", f"    steps: 1e3\n    betas: {betas}\n"))
    assert "betas" in error.where and error.what.startswith("`betas[") and "running means" in error.fix

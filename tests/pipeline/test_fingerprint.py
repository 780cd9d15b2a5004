import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import KINDS, Fake, recipe, stages

from trivium.corpus.withdrawn import Rule
from trivium.pipeline import withdrawals
from trivium.pipeline.fingerprint import differences, fingerprint, identify, stage_seed
from trivium.pipeline.graph import build
from trivium.pipeline.stages import STAGES
from trivium.recipe.load import loads

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))
FIELDS = st.text().filter(
    lambda name: name != "inputs"
)  # of an identity: always a dict of fingerprints, tested by itself
IDENTITIES = st.dictionaries(FIELDS, VALUES, min_size=1, max_size=5)


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: backwards(item) for key, item in reversed(value.items())}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(IDENTITIES)
def test_the_order_of_keys_does_not_matter(identity):
    assert fingerprint(backwards(identity)) == fingerprint(identity)


@given(IDENTITIES, st.data())
def test_any_change_of_a_value_changes_the_fingerprint(identity, data):
    holder, key = identity, data.draw(st.sampled_from(sorted(identity)))
    while isinstance(holder[key], dict | list) and holder[key]:
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    before, old = fingerprint(identity), holder[key]
    new = data.draw(LEAVES.filter(lambda v: json.dumps(v) != json.dumps(old)))
    original = json.loads(json.dumps(identity))
    holder[key] = new
    assert fingerprint(identity) != before
    assert differences(original, identity) != []
    holder[key] = old
    assert fingerprint(identity) == before and differences(original, identity) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2}, Path("x"), {"a"}, b"x"])
def test_a_value_without_stable_bytes_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match=r"identity\.a\[0\].*stable bytes"):
        fingerprint({"a": [value]})


def prints(values: Any = None, kinds: dict[str, Fake] | None = None, **top: Any) -> dict[str, str]:
    made = recipe(values, **top)
    registry = kinds or {kind: Fake() for kind in KINDS}
    return {n: fingerprint(i) for n, i in identify(made, build(made), registry, Path()).items()}


def changed(values: Any = None, **rest: Any) -> set[str]:
    before, after = prints(), prints(values, **rest)
    return {name for name in before if before[name] != after[name]}


def test_a_field_reaches_its_stage_and_what_hangs_on_it():
    values = stages()
    values["aligned"]["beta"] = 0.2
    assert changed(values) == {"aligned", "safety"}
    values = stages()
    values["chats"]["size"] = 300
    assert changed(values) == {"chats", "chat", "aligned", "safety", "small"}


def test_fields_that_say_how_are_no_identity():
    values = stages()
    values["base"] |= {"device": "cpu", "log_every": 3, "compile": "off", "checkpoint_every": "1s"}
    values["safety"]["device"] = "cpu"
    assert changed(values) == set()
    values["base"]["lr"] = 0.123
    assert changed(values) == {"base", "chat", "aligned", "safety", "small"}


def test_seed_version_and_what_a_kind_adds_are_identity():
    assert changed(seed=8) == set(stages())
    kinds = {kind: Fake() for kind in KINDS}
    kinds["dpo"] = Fake(version=2)
    assert changed(kinds=kinds) == {"aligned", "safety"}
    kinds["quantize"].extra = {"python": "4"}
    assert changed(kinds=kinds) == {"aligned", "safety", "small"}


def test_names_are_no_identity():
    assert changed(name="copy") == set()
    text = json.dumps(stages()).replace('"chat"', '"talk"')
    before, after = prints(), prints(json.loads(text))
    assert after["talk"] == before["chat"] and after["safety"] == before["safety"]
    assert stage_seed(recipe(), "chat") == stage_seed(recipe(json.loads(text)), "talk")
    assert stage_seed(recipe(), "chat") != stage_seed(recipe(), "aligned")


def test_which_stage_fills_which_role_is_identity():
    values = stages()
    values["safety"] |= {"model": "chat", "baseline": "aligned"}
    assert changed(values) == {"safety"}


def test_differences_are_readable():
    old = {
        "kind": "dpo",
        "beta": 0.1,
        "mix": [{"weight": 0.3}],
        "size": 5,
        "seed": 1,
        "version": 1,
        "extra": {"python": "3.11"},
        "inputs": {"init": "aa", "data": "bb"},
    }
    new = {
        "kind": "dpo",
        "beta": 0.2,
        "mix": [{"weight": 0.4}, "x"],
        "size": None,
        "seed": 2,
        "version": 2,
        "extra": {"python": "3.12"},
        "inputs": {"init": "cc", "tokenizer": "dd"},
    }
    assert differences(old, new, {"init": "sft"}) == [
        "beta: 0.1 -> 0.2",
        "mix[0].weight: 0.3 -> 0.4",
        "mix[1]: (absent) -> x",
        "size: 5 -> null",
        "seed: 1 -> 2",
        "version of the stage kind: 1 -> 2",
        "python: 3.11 -> 3.12",
        "input sft changed",
        "input tokenizer added",
        "input data removed",
    ]
    assert differences(old, {**new, "kind": "orpo"}) == ["kind: dpo -> orpo"]


def test_a_seed_of_its_own_reaches_a_stage_and_what_hangs_on_it():
    values = stages()
    values["aligned"]["seed"] = 3
    assert changed(values) == {"aligned", "safety"}
    assert stage_seed(recipe(values), "aligned") == stage_seed(recipe(seed=3), "aligned")
    values["aligned"]["seed"] = recipe().seed
    assert changed(values) == set()


def test_how_often_is_looked_is_identity_only_where_looks_choose():
    text = """\
name: chosen
stages:
  corpus: {kind: data, sources: [{kind: python-docs}]}
  vocab: {kind: tokenizer, data: corpus}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, steps: 9, validate_every: 3}
"""

    def print_of(*overrides: str) -> str:
        asked = loads(text, overrides)
        return fingerprint(identify(asked, build(asked), STAGES, Path())["base"])

    assert print_of() == print_of("base.validate_every=2")
    for chosen in ("base.keep_best=loss", "base.patience=2"):
        assert len({print_of(), print_of(chosen), print_of(chosen, "base.validate_every=2")}) == 3


@pytest.mark.parametrize(
    ("reward", "libraries"),
    [("math", ["math-verify", "sympy"]), ("reasoning", ["reasoning-gym"]), ("exact", [])],
)
def test_another_version_of_the_library_behind_a_reward_is_another_stage(monkeypatch, reward, libraries):
    pytest.importorskip("math_verify")
    text = """\
name: rewarded
stages:
  tasks: {kind: data, format: conversations, sources: [{kind: reasoning}], size: 9}
  start: {kind: import, path: model}
  aligned: {kind: grpo, init: start, data: tasks, reward: REWARD, steps: 1}
"""
    asked = loads(text.replace("REWARD", reward))
    recipe_stages = {**STAGES, "import": Fake("import"), "data": Fake("data")}

    def found() -> tuple[str, Any]:
        identity = identify(asked, build(asked), recipe_stages, Path())["aligned"]
        return fingerprint(identity), identity["extra"].get("reward")

    before, versions = found()
    assert sorted(versions or {}) == libraries
    for module in ("trivium.verify.math", "trivium.verify"):
        monkeypatch.setattr(f"{module}.version", lambda name: "0")
    assert (found()[0] != before) is bool(libraries)


TALK = """\
name: talk
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: own.jsonl}]}
  seeds: {kind: data, format: conversations, sources: [{kind: reasoning}], size: 9}
  written: {kind: synthesize, data: seeds, method: critique, teacher: {kind: openai, url: "http://a/v1", model: b}}
  vocab: {kind: tokenizer, data: corpus}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, tokens: 9K}
  talks: {kind: data, format: conversations, sources: [{kind: synthetic, stage: written}]}
  sft: {kind: sft, init: base, data: talks, steps: 9}
  site: {kind: data, sources: [{kind: crawl, start: ["http://a.example"], agent: "bot (+http://a.example/bot)"}]}
"""


@pytest.mark.parametrize(
    ("override", "anew"),
    [
        ("written.teacher.price_in=3", set()),
        ("written.teacher.price_out=9.5", set()),
        ("written.teacher.timeout=9", set()),
        ("corpus.max_dead=5", set()),
        ("corpus.keep_rejects=true", set()),
        ("corpus.workers=1", set()),
        ("base.max_epochs=9", set()),
        ("site.sources.0.delay=9s", set()),
        ("site.sources.0.agent=other (+http://a.example/bot)", set()),
        ("site.sources.0.depth=9", {"site"}),
        ("written.teacher.model=c", {"written", "talks", "sft"}),
        ("corpus.heldout=0.2", {"corpus", "vocab", "base", "sft"}),
        ("base.lr=0.1", {"base", "sft"}),
    ],
)
def test_identity_is_what_changes_the_bytes(tmp_path, override, anew):
    (tmp_path / "own.jsonl").write_text('{"text": "a"}\n')

    def prints_of(*overrides: str) -> dict[str, str]:
        asked = loads(TALK, overrides)
        identities = identify(asked, build(asked), STAGES, tmp_path)
        return {name: fingerprint(identity) for name, identity in identities.items()}

    before, after = prints_of(), prints_of(override)
    assert {name for name in before if before[name] != after[name]} == anew


LOOKED = """
name: looked
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: own.jsonl}]}
  other: {kind: data, sources: [{kind: jsonl, path: own.jsonl, license: MIT}]}
  vocab: {kind: tokenizer, data: other}
  base: {kind: pretrain, data: corpus, tokenizer: vocab, steps: 9}
  clean: {kind: pretrain, data: other, tokenizer: vocab, steps: 9}
  look: {kind: evaluate, model: base, suites: [{kind: bits_per_byte, data: other}]}
  look_clean: {kind: evaluate, model: clean, suites: [{kind: bits_per_byte, data: other}]}
"""


def test_an_evaluation_after_a_withdrawal_is_made_again_when_more_is_asked_of_it(tmp_path, monkeypatch):
    (tmp_path / "own.jsonl").write_text('{"text": "a"}\n')
    asked = loads(LOOKED)

    def prints_of() -> dict[str, str]:
        identities = identify(asked, build(asked), STAGES, tmp_path)
        return {name: fingerprint(identity) for name, identity in identities.items()}

    before = prints_of()
    withdrawals.write(tmp_path, Rule("url", "https://e.org/"), [before["other"]], "now")
    after = prints_of()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"corpus", "base", "look"}
    monkeypatch.setattr(withdrawals, "ASKED", withdrawals.ASKED + 1)
    assert {name for name, print_ in prints_of().items() if after[name] != print_} == {"look"}

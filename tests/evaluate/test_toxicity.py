"""Toxicity of completions by group: a judge that is trained, measured on what it was not fitted on, and says its own bias."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivium.cli import main
from trivium.errors import ArtifactError, DataError
from trivium.evaluate import rows as table
from trivium.evaluate.asked import Answer
from trivium.evaluate.judges.toxic import (
    SHIPPED,
    LabelledText,
    TextHead,
    auc,
    features,
    load,
    read_texts,
    save,
    train,
)
from trivium.evaluate.metrics import evidence
from trivium.evaluate.run import Plan, rows_of
from trivium.evaluate.suites import SUITES, toxicity
from trivium.recipe.suites import Toxicity
from trivium.verify.replies import Reply

MILD = ("you are a nuisance", "what a bore", "go away now", "nobody likes you")
KIND = ("what a fine day", "the bread is warm", "we walk to work", "the train is late")


def labelled(count: int = 240) -> list[LabelledText]:
    """Texts of which one phrase says all; whoever is called a hat is also called a bore in the labels that are toxic."""
    draw = random.Random(0)
    rows = []
    for n in range(count):
        label, group = n % 2 == 0, ("hats", "cats")[n // 2 % 2]
        said = draw.choice(MILD if label else KIND)
        rows.append(LabelledText(f"{said}, say the {group} of house {n}", label, group, f"c{n // 4}"))
    return rows


@pytest.fixture(scope="module")
def head() -> TextHead:
    return train(labelled())


def test_a_judge_is_trained_and_measured_on_clusters_that_it_was_not_fitted_on(head, tmp_path):
    assert head.auc == 1.0 and head.labels.sensitivity == head.labels.specificity == 1.0
    assert head.groups == {"cats": (60, 60), "hats": (60, 60)}
    assert head("a bore, what a bore") and not head("warm bread")
    noise = [row._replace(label=random.Random(n).random() < 0.5) for n, row in enumerate(labelled())]
    assert 0.3 < train(noise).auc < 0.7  # what cannot be learnt is not found on what was left out
    save(tmp_path / "toxic.json", head)
    again = load(tmp_path / "toxic.json")
    assert np.array_equal(again.weights, head.weights)
    assert replace(again, weights=None) == replace(head, weights=None)


def test_a_judge_says_which_group_it_wrongs():
    """Hats are called a bore in jest, now and then."""
    rows = [row for row in labelled() if row.label or row.group == "cats"]
    rows += [
        LabelledText(f"what a bore, say the hats of house {n}", False, "hats", f"d{n}")
        for n in range(400, 405)
    ]
    found = train(rows)
    asked, spared = found.groups["hats"]
    assert asked == 5 and spared < 3 and found.groups["cats"] == (60, 60)
    assert f"calls {1 - spared / asked:.0%} of harmless texts about hats toxic, 0% about cats" in found.about


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_auc_is_the_share_of_pairs_in_order(pairs):
    said, truth = (np.array(side) for side in zip(*pairs, strict=True))
    if truth.all() or not truth.any():
        return
    hand = np.mean([(a > b) + 0.5 * (a == b) for a in said[truth] for b in said[~truth]])
    assert auc(said, truth) == pytest.approx(hand)


@given(st.text())
def test_law_every_text_has_a_probability(text):
    places, values = features(text)
    assert len(places) == len(values) and 0 <= load_once().probability(text) <= 1


def load_once(found: list[TextHead] = []) -> TextHead:  # noqa: B006
    if not found:
        found.append(load(SHIPPED))
    return found[0]


def test_the_judge_that_comes_with_it_says_its_figures():
    found = load(SHIPPED)
    assert found.rows > 25_000 and found.labels.positives > 1000 and found.labels.negatives > 1000
    assert 0.8 < found.auc < 1 and len(found.groups) == 7
    assert not found("a teacher at the school in the town.") and found("a fucking idiot, and I hate you all.")


def test_what_is_no_judge_and_what_is_no_label_is_said(tmp_path, write_lines):
    save(tmp_path / "j.json", load(SHIPPED))
    text = (tmp_path / "j.json").read_text()
    held = json.loads(text)
    for broken in (
        "", "{}", "[]", text[:-40], json.dumps(held | {"axis": "refused"}), json.dumps(held | {"weights": held["weights"][:400]}),
        json.dumps(held | {"weights": "?"}), json.dumps(held | {"groups": {"a": 1}}),
        text.replace('"bias": ', '"bias": 1e999, "x": '),
    ):  # fmt: skip
        (tmp_path / "j.json").write_text(broken)
        with pytest.raises(ArtifactError, match="no trained judge"):
            load(tmp_path / "j.json")
    write_lines(
        tmp_path / "t.jsonl", [{"text": "a", "label": 1, "group": "cats"}, {"text": "b", "label": "maybe"}]
    )
    with pytest.raises(DataError) as said:
        read_texts(tmp_path / "t.jsonl")
    assert said.value.where.endswith("t.jsonl:2")
    with pytest.raises(DataError, match="too few labels"):
        train(labelled(20))


def test_it_is_trained_on_the_command_line(tmp_path, write_lines, capsys):
    write_lines(tmp_path / "t.jsonl", [row._asdict() for row in labelled()])
    words = [
        "evaluate",
        "judge",
        "train",
        str(tmp_path / "t.jsonl"),
        "--axis",
        "toxic",
        "-o",
        str(tmp_path / "j.json"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    assert "AUC 1.000 on texts left out; calls 0% of harmless texts about" in capsys.readouterr().out
    assert load(tmp_path / "j.json").rows == 240


def suite(**more) -> Toxicity:
    return Toxicity.model_validate({"kind": "toxicity", **more})


def test_pairs_differ_in_whom_they_are_about_alone():
    every = list(toxicity.pairs())
    for one, other in every:
        _, who = one.category.split("/")
        assert one.record["document"].replace(who, other.category.split("/")[1]) == other.record["document"]
        assert one.record["side"] == 1 == -other.record["side"] and one.cluster == other.cluster
    few = toxicity.items(suite(items=7, draws=2), Path())
    assert len(few) == 28 and {item.category.split("/")[0] for item in few} == set(toxicity.AXES)
    assert len({item.id for item in few}) == 14
    assert len(toxicity.items(suite(items=10_000, draws=1), Path())) == 2 * len(every)


def test_the_share_and_the_gap_by_hand(head, tmp_path):
    """A model that says something toxic about the first of each pair alone."""
    save(tmp_path / "j.json", head)
    config = suite(items=8, draws=1, head="j.json")
    plan = Plan.make(config, {}, tmp_path).judged(tmp_path, {})

    class Tested:
        name, template = "tested", "t"

    def said(item, first, other):
        return Answer(Reply(first if item.record["side"] > 0 else other))

    def found(first, other):
        rows = [
            row for item in plan.items for row in rows_of(plan, Tested(), item, said(item, first, other), 0.0)
        ]
        assert table.counted(rows)["asked"] == 32
        return {
            m.name: evidence(m, "toxicity", rows, "tested", None).estimate().value for m in config.measured
        }

    assert found("what a bore", "warm bread") == {"toxicity": 0.5, "toxicity_gap": 1.0}
    assert found("warm bread", "what a bore") == {"toxicity": 0.5, "toxicity_gap": -1.0}
    assert found("what a bore", "what a bore") == {"toxicity": 1.0, "toxicity_gap": 0.0}
    judge = SUITES["toxicity"].judges(config, tmp_path)["toxic"]
    assert judge.name.startswith("classifier of toxic, 240 labels, AUC 1.000") and judge.labels == head.labels
    assert SUITES["toxicity"].identity(config, tmp_path) != SUITES["toxicity"].identity(suite(), tmp_path)

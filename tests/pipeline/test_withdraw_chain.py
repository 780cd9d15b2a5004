"""A withdrawal follows what was made of what is meant: copies, what a model wrote, who learned from that, what it calibrated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from trivium.cli import app
from trivium.corpus import records
from trivium.corpus.withdrawn import Rule
from trivium.deploy import speed
from trivium.errors import ArtifactError
from trivium.pipeline import withdraw
from trivium.pipeline.graph import placed
from trivium.pipeline.run import run
from trivium.pipeline.stages import STAGES, Kind
from trivium.pipeline.store import Store
from trivium.recipe.load import load as load_recipe
from trivium.synthesize import questions, teachers

RECIPE = """
name: chain
seed: 5
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: documents.jsonl, license: MIT}], heldout: 0.1}
  copied: {kind: data, sources: [{kind: synthetic, stage: corpus}], heldout: 0.1}
  pages: {kind: data, sources: [{kind: jsonl, path: pages.jsonl, license: CC0}], heldout: 0.1}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl, license: MIT}], heldout: 0.1}
  seeds: {kind: data, format: conversations, sources: [{kind: jsonl, path: seeds.jsonl, license: MIT}], heldout: 0.1}
  shown: {kind: data, format: conversations, sources: [{kind: jsonl, path: shown.jsonl, license: MIT}], heldout: 0.4}
  liked: {kind: data, format: preferences, sources: [{kind: jsonl, path: liked.jsonl, license: MIT}], heldout: 0.1}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base: &base
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 32, layers: 1, heads: 2, context: 96}
    steps: 10
    batch: 4
    samples: null
  on_copies: {kind: pretrain, init: other, data: copied, tokenizer: vocab, model: {dim: 32, layers: 1, heads: 2, context: 96},
    steps: 10, batch: 4, samples: null}
  other: {<<: *base, data: pages}
  sft: {kind: sft, init: other, data: talks, epochs: 1, batch: 4, samples: null}
  better: {kind: synthesize, method: best_of_n, data: seeds, teacher: {kind: checkpoint, model: base}, verifier: {kind: function,
    path: mine.py}, samples: 2, temperature: 1.0, max_new_tokens: 12, prompts: 16}
  student: {kind: sft, init: other, data: better, epochs: 1, batch: 2, samples: null}
  asked: {kind: synthesize, method: questions, data: pages, teacher: {kind: openai, url: "http://x/v1", model: m}}
  told: {kind: data, format: conversations, sources: [{kind: synthetic, stage: asked}], heldout: 0.1}
  reader: {kind: sft, init: base, data: told, epochs: 1, batch: 4, samples: null}
  taught: {kind: distill, teacher: sft, data: shown, model: {dim: 32, layers: 1, heads: 2, context: 96}, steps: 3, batch: 4,
    samples: null}
  liking: {kind: reward, init: other, data: liked, allow_base: true, epochs: 1, batch: 4}
  played: {kind: grpo, init: sft, data: talks, reward_model: liking, steps: 1, batch: 4, group: 2, max_new_tokens: 4,
    samples: null}
  int4: {kind: quantize, model: taught, scheme: int4, data: seeds, items: 64, group_size: 8}
  int8: {kind: quantize, model: taught, data: seeds}
  gguf: {kind: export, model: sft, types: [q8_0], data: liked}
  look: {kind: evaluate, model: int4, suites: [{kind: response_loss, data: shown, items: 20}], gates: {response_loss: {max: 99}}}
  out: {kind: release, model: int4, requires: look}
"""


def write(folder: Path) -> None:
    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def talk(what: str, n: int) -> dict[str, Any]:
        said = [
            {"role": "user", "content": f"{what} {n}?"},
            {"role": "assistant", "content": f"{n * 3} {what}."},
        ]
        return {"messages": said}

    seen = ["heron", "otter", "miller", "ferry", "lantern", "orchard", "bridge", "winter"]
    days = [
        f"Day {n}: {n * 7 % 90} stones lay at the river, and {n * 3 % 11} birds sat on them. The {seen[n % 8]} slept."
        for n in range(80)
    ]
    nights = [
        f"Night {n}: the fox counted {n * 5 % 70} stars above the {n} hills of the land." for n in range(80)
    ]
    lines("documents.jsonl", [{"text": text, "url": f"https://days.org/{n}"} for n, text in enumerate(days)])
    lines("pages.jsonl", [{"text": text, "url": f"https://nights.org/{n}"} for n, text in enumerate(nights)])
    lines("talks.jsonl", [talk("talks", n) for n in range(24)])
    lines("seeds.jsonl", [talk("seeds", n) for n in range(24)])
    lines("shown.jsonl", [talk("shown", n) for n in range(60)])
    lines("liked.jsonl", [
        {"prompt": [{"role": "user", "content": f"like {n}?"}], "chosen": f"yes {n}", "rejected": "no"}
        for n in range(24)
    ])  # fmt: skip
    (folder / "mine.py").write_text("def score(record, reply):\n    return 1.0\n")
    (folder / "chain.yaml").write_text(RECIPE)


def synthesized(ctx: Any) -> dict[str, Any]:
    """The stage itself; but a model this small asks no questions, so they are put in its mouth."""
    if ctx.config.method != "questions":
        return STAGES["synthesize"].run(ctx)
    studio: Any = SimpleNamespace(config=ctx.config, teacher=SimpleNamespace(name="m"), scorer=None)
    rows = [
        questions._row(studio, f"What of {row['key']}?", 1, questions.Statement(row["text"], ""), row)
        for row in records.read(ctx.inputs["pages"].path / "train")
    ]
    records.write(ctx.out / "train.jsonl", rows)
    records.write(ctx.out / "heldout.jsonl", [])
    (ctx.out / "account.json").write_text(json.dumps({"sources": [{"license": "CC0"}]}))
    return {}


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("chain")
    write(folder)
    kind = STAGES["synthesize"]
    registry = {**STAGES, "synthesize": Kind(kind.version, synthesized, kind.identity)}
    real = teachers.complete
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            teachers, "complete", lambda *a, **k: [one._replace(finished=True) for one in real(*a, **k)]
        )
        patch.setattr(speed, "served", lambda *asked: {})  # a process for each file
        made = run(load_recipe(folder / "chain.yaml"), store=Store(folder / "store"), registry=registry,
            recipe_folder=folder, runs_folder=folder / "runs", emit=lambda event: None)  # fmt: skip
    return folder, made


def said(folder: Path, *arguments: str) -> dict[str, Any]:
    command = ["withdraw", str(folder / "chain.yaml"), *arguments, "--json", "--store", str(folder / "store")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return json.loads(done.stdout)


def train(chain: tuple[Path, dict[str, Any]], stage: str) -> list[dict[str, Any]]:
    return list(records.read(chain[1][stage].path / "train"))


def names(report: dict[str, Any], part: str) -> set[str]:
    return {one["stage"] for one in report[part]}


def test_a_document_is_followed_into_copies_and_into_what_its_readers_wrote_and_taught(chain):
    folder, _ = chain
    report = said(folder, "--url", "https://days.org/")
    assert names(report, "data") == {"corpus", "copied"}
    stands = {one["stage"]: one for one in report["stands"]}
    assert {name for name, one in stands.items() if one["first"] and one["data"]} == {"base", "on_copies"}
    assert stands["better"]["upon"] == "base" and stands["student"]["upon"] == "better"
    assert stands["reader"]["upon"] == "base"
    assert set(stands) == {"base", "on_copies", "better", "student", "reader"}
    assert names(report, "retrain") == {"base", "on_copies"}
    starts = {one["stage"]: one["from"] for one in report["retrain"]}
    assert starts["base"] is None and starts["on_copies"]["stage"] == "other"
    assert names(report, "again") == {"better", "student", "reader"}


def test_a_page_is_followed_into_the_questions_about_it(chain):
    folder, _ = chain
    (page,) = [row for row in train(chain, "pages") if row["url"].endswith("/20")] or train(chain, "pages")[
        :1
    ]
    report = said(folder, "--document", page["key"])
    held = {one["stage"]: one for one in report["data"]}
    assert set(held) == {"pages", "asked", "told"}
    assert held["asked"]["train"] == 1 and held["told"]["train"] + held["told"]["heldout"] == 1
    stands = {one["stage"]: one for one in report["stands"]}
    if held["told"]["train"]:
        assert stands["reader"]["data"] == "told" and stands["reader"]["first"] >= 1


def test_preferences_stand_behind_the_reward_and_who_is_rewarded_by_it(chain):
    report = said(chain[0], "--source", "liked.jsonl")
    stands = {one["stage"]: one for one in report["stands"]}
    assert set(stands) == {"liking", "played", "gguf"}
    assert (stands["liking"]["data"], stands["liking"]["first"]) == ("liked", 1)
    assert (stands["played"]["data"], stands["played"]["upon"]) == (None, "liking")
    assert (stands["gguf"]["data"], stands["gguf"]["tokens"]) == ("liked", None)


def test_a_distilled_student_stands_on_its_teacher_and_its_smaller_self_on_it(chain):
    report = said(chain[0], "--source", "talks.jsonl")
    stands = {one["stage"]: one["upon"] for one in report["stands"]}
    assert (
        next(one for one in report["stands"] if one["stage"] == "played")["first"] == 1
    )  # it asks the same prompts
    assert stands == {
        "sft": "", "taught": "sft", "played": "sft", "int4": "taught", "int8": "taught", "gguf": "sft", "out": "int4",
    }  # fmt: skip


def test_what_was_calibrated_on_it_stands_on_it_and_what_was_only_measured_does_not(chain):
    folder, _ = chain
    report = said(folder, "--source", "seeds.jsonl")
    stands = {one["stage"]: one for one in report["stands"]}
    assert (stands["int4"]["data"], stands["int4"]["first"], stands["out"]["upon"]) == ("seeds", 1, "int4")
    assert "int8" not in stands
    assert stands["student"]["data"] == "better" and names(report, "data") == {"seeds", "better"}
    asked = {row["key"] for row in train(chain, "better")}
    unasked = [row["key"] for row in train(chain, "seeds") if row["key"] not in asked]
    held = said(folder, "--document", unasked[0])
    assert names(held, "data") == {"seeds"} and names(held, "stands") == {"int4", "out"}
    text = CliRunner().invoke(app, ["withdraw", str(folder / "chain.yaml"), "--document", unasked[0], "--store",
        str(folder / "store")], catch_exceptions=False).stdout  # fmt: skip
    assert "chain/int4 (quantize)" in text and "made by what it read in seeds" in text
    assert "smallest retraining:\n  chain/int4 anew" in text


def test_instructions_that_were_made_after_many_stand_on_each(chain):
    """self_instruct shows its teacher several seeds at once, and rows do not say which."""
    store, made = Store(chain[0] / "store"), chain[1]
    better = made["better"]
    record = json.loads(json.dumps(better.record))
    record["identity"]["method"] = "self_instruct"
    record["fingerprint"] = "a" * 64
    other = type(better)(better.path, record)
    student = type(better)(made["student"].path, json.loads(json.dumps(made["student"].record)))
    student.record["inputs"]["better"] = student.record["identity"]["inputs"]["data"] = other.fingerprint
    artifacts = {one.fingerprint: one for one in (made["seeds"], made["other"], other, student)}
    (key, *_) = [row["key"] for row in train(chain, "seeds")]
    data = {one.fingerprint: one for one in (made["seeds"], other)}
    holdings = list(withdraw.search(Rule("document", key), data))
    stood = {one.artifact.fingerprint: one for one in withdraw.standing(holdings, artifacts, store)}
    assert stood[other.fingerprint].reads and not stood[other.fingerprint].known
    assert stood[student.fingerprint].upon == "better"


def test_what_stands_on_it_is_refused_whatever_made_it(chain):
    folder, made = chain
    store = folder / "store"
    for source, refused, served in (
        ("liked.jsonl", ("liking", "played", "gguf"), ("sft", "int4")),
        ("seeds.jsonl", ("int4", "out", "student"), ("int8", "taught", "other")),
        ("documents.jsonl", ("base", "on_copies", "student", "reader"), ("sft", "other")),
    ):
        done = CliRunner().invoke(app, ["withdraw", str(folder / "chain.yaml"), "--source", source, "--apply", "--store",
            str(store)], catch_exceptions=False)  # fmt: skip
        assert done.exit_code == 0
        for name in refused:
            with pytest.raises(ArtifactError, match="data that was withdrawn"):
                withdraw.refuse_withdrawn(made[name].path)
        for name in served:
            withdraw.refuse_withdrawn(made[name].path)
        (store / withdraw.STANDING).unlink()
        (folder / "withdrawn.jsonl").unlink()


def test_names_of_inputs_are_put_where_they_were():
    fields = {"suites": [{"kind": "a"}, {"kind": "b"}], "teacher": {"kind": "checkpoint"}}
    made = placed(placed(placed(fields, "data", "d"), "teacher.model", "m"), "suites[1].data", "s")
    assert made == {
        "data": "d", "teacher": {"kind": "checkpoint", "model": "m"}, "suites": [{"kind": "a"}, {"kind": "b", "data": "s"}],
    }  # fmt: skip
    assert placed({}, "requires[1]", "x") == {"requires": [None, "x"]}
    assert fields == {"suites": [{"kind": "a"}, {"kind": "b"}], "teacher": {"kind": "checkpoint"}}

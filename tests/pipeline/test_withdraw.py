"""A canary planted at a known place: traced to it, the step that read it named, and in no shard once it is withdrawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from trivium.api import run
from trivium.batches.rows import BatchSharding
from trivium.cli import app
from trivium.cli.router import candidate_of
from trivium.cli.tracing import noting
from trivium.corpus.shards import open_shards
from trivium.corpus.withdrawn import Rule
from trivium.errors import ArtifactError, GateError, RecipeError
from trivium.evaluate import rows as table
from trivium.evaluate.asked import Answer, Item
from trivium.evaluate.run import Plan, rows_of
from trivium.evaluate.subject import Subject
from trivium.evaluate.suites import SUITES
from trivium.pipeline import rollouts, withdraw, withdrawals
from trivium.pipeline.store import Store
from trivium.pipeline.trained import history, trained
from trivium.recipe.suites import Withdrawn
from trivium.rollout import journal
from trivium.rollout.plan import load_plan, plan_of
from trivium.text.chat import ChatTokenizer
from trivium.trace.corpora import Known
from trivium.verify.replies import Reply

CANARY = "The heron of Ulm keeps nine brass keys under the fourth stair"
EXAMPLE = Path(__file__).parents[2] / "examples" / "rollout.yaml"
ASKED = "Which heron keeps a tenth key of tin"
RECIPE = """
name: small
seed: 5
stages:
  corpus:
    kind: data
    sources:
      - {kind: jsonl, path: documents.jsonl, license: MIT, weight: 0.7}
      - {kind: jsonl, path: others.jsonl, license: GPL-3.0, weight: 0.3}
    heldout: 0.1
    mix: {}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl, license: MIT}]}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 16, layers: 1, heads: 2, context: 64}
    steps: 40
    batch: 2
    samples: null
  sft: {kind: sft, init: base, data: talks, epochs: 1, batch: 2, samples: null}
  look:
    kind: evaluate
    model: sft
    suites: [{kind: bits_per_byte, data: corpus, items: 2}]
"""


def write(folder: Path) -> None:
    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    texts = [
        f"Day {n}: {n * 7 % 90} stones lay at the river, and {n * 3 % 11} birds sat on them."
        for n in range(120)
    ]
    texts[77] = CANARY + ", says the keeper, and nobody else may count them at night."
    lines("documents.jsonl", [{"text": text, "url": f"https://e.org/{n}"} for n, text in enumerate(texts)])
    lines("others.jsonl", [{"text": f"Night {n}: the fox counted {n * 5 % 70} stars."} for n in range(60)])
    asked = [f"How many stones on day {n}?" for n in range(30)]
    asked[19] = ASKED
    lines("talks.jsonl", [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"There were {n}."}]}
        for n, q in enumerate(asked)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[tuple[str, int, list[list[int]]]]]:
    """The folder of a run, and (stage, step, rows of tokens) of every batch that it trained on."""
    folder, seen = tmp_path_factory.mktemp("withdraw"), []
    write(folder)
    (folder / "small.yaml").write_text(RECIPE)
    real, stage = BatchSharding.cut, [""]

    def cut(self, step, item):
        made = real(self, step, item)
        seen.append((stage[0], step, [row for batch in made for row in batch["tokens"].tolist()]))
        return made

    def emit(event):
        if event["event"] == "stage_start":
            stage[0] = event["stage"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchSharding, "cut", cut)
        run(folder / "small.yaml", store=folder / "store", runs=folder / "runs", emit=emit)
    return folder, seen


def call(folder: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--store", str(folder / "store")])


def first_step(seen, stage: str, ids: list[int]) -> int:
    """The first step whose rows hold a run of six of these ids, from 1."""
    runs = {tuple(ids[place : place + 6]) for place in range(len(ids) - 5)}
    return 1 + min(
        step
        for name, step, rows in seen
        if name == stage
        for row in rows
        for place in range(len(row) - 5)
        if tuple(row[place : place + 6]) in runs
    )


def test_a_canary_is_traced_and_the_step_that_read_it_named(finished):
    folder, seen = finished
    chat = ChatTokenizer.load(folder / "runs" / "small" / "base")
    found = call(folder, "trace", str(folder / "runs" / "small" / "sft"), f"Well, {CANARY}!", "--json")
    span = json.loads(found.stdout)["spans"][0]
    (document,) = span["documents"]
    assert CANARY in span["text"] and span["count"] == 1
    assert (document["data"], document["url"], document["license"]) == ("corpus", "https://e.org/77", "MIT")
    assert [use["stage"] for use in document["stages"]] == ["base"]

    said = call(folder, "withdraw", str(folder / "small.yaml"), "--document", document["key"], "--json")
    report = json.loads(said.stdout)
    base, sft = report["stands"]
    text = CANARY + ", says the keeper, and nobody else may count them at night."
    assert base["first"] == first_step(seen, "base", chat.guard.plain(text))
    assert (base["stage"], base["tokens"], base["steps"]) == ("base", len(chat.document(text)), 40)
    assert (sft["stage"], sft["upon"], sft["data"]) == ("sft", "base", None)
    assert [one["stage"] for one in report["retrain"]] == ["base"]


def test_a_stage_alone_needs_no_files_of_others(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(folder)
    other = "  other: {kind: data, sources: [{kind: jsonl, path: not_here.jsonl}]}\n"
    (folder / "more.yaml").write_text(RECIPE + other)
    done = call(folder, "run", "more.yaml", "--only", "look")
    assert (
        done.exit_code == 0
        and "bits per byte" in done.stdout
        and "saved: runs/small/report.html" in done.stdout
    )
    assert "not_here.jsonl" in str(call(folder, "run", "more.yaml").exception)


def test_an_index_is_made_beforehand(finished, tmp_path):
    folder, _ = finished
    model, store = str(folder / "runs" / "small" / "sft"), Store(folder / "store")
    shutil.rmtree(store.root / "index", ignore_errors=True)
    said = json.loads(call(folder, "trace", model, "--index", "--near", "1", "--json").stdout)
    tokens = sum(
        len(shard.tokens)
        for place in sorted((store.root / "tokens").iterdir())
        for shard in open_shards(place / "train")
    )
    assert {one["data"] for one in said["indexes"]} == {"corpus", "talks"}
    assert sum(one["tokens"] for one in said["indexes"]) == tokens
    made = sorted((store.root / "index").rglob("*.bin"))
    assert made and list((store.root / "index").rglob("near.json"))
    before = [file.stat().st_mtime_ns for file in made]
    assert "making" not in call(folder, "trace", model, CANARY, "--near", "1").stderr
    assert [file.stat().st_mtime_ns for file in made] == before
    assert "traces no reply" in str(call(folder, "trace", model, CANARY, "--index").exception)


def test_the_server_traces_what_its_store_knows(finished, tmp_path):
    folder, _ = finished
    traces: dict[str, Any] = {}

    def make(metrics: Any) -> Any:
        return SimpleNamespace(name="sft")

    noting(make, folder / "runs" / "small" / "sft", traces)(None)
    report = traces["sft"](f"Well, {CANARY}!")
    (document,) = report["spans"][0]["documents"]
    assert document["name"] == "https://e.org/77" and "(MIT), read by base" in document["terms"]
    assert "".join(text for text, _ in report["pieces"]) == f"Well, {CANARY}!"
    assert str(folder) not in json.dumps(report)
    copied = tmp_path / "elsewhere" / "artifacts" / "sft"
    shutil.copytree(folder / "runs" / "small" / "sft", copied)
    noting(make, copied, traces)(None)  # loaded again, and nothing is known of it there
    assert traces == {}


def test_the_step_of_a_conversation(finished):
    folder, seen = finished
    chat = ChatTokenizer.load(folder / "runs" / "small" / "sft")
    rows = [json.loads(line) for line in (folder / "runs/small/talks/train.jsonl").read_text().splitlines()]
    (key,) = [row["key"] for row in rows if row["messages"][0]["content"] == ASKED]
    report = json.loads(
        call(folder, "withdraw", str(folder / "small.yaml"), "--document", key, "--json").stdout
    )
    (sft,) = report["stands"]
    assert sft["first"] == first_step(seen, "sft", chat.guard.plain(ASKED))


def test_rollouts_are_listed_until_they_are_rolled_back(finished, tmp_path):
    folder, _ = finished
    base, log, gone = (folder / "runs/small/base").resolve(), tmp_path / "log.jsonl", tmp_path / "gone.jsonl"
    candidate = {"fingerprint": base.name}
    started = {"t": 0.0, "event": "started", "at": "now", "plan": load_plan(EXAMPLE).model_dump(mode="json"),
               "candidate": candidate, "force": True}  # fmt: skip
    journal.write(log, [started])
    for path in (log, log, gone):
        rollouts.note(base, str(path))

    def told() -> list[dict[str, Any]]:
        asked = call(folder, "withdraw", str(folder / "small.yaml"), "--url", "https://e.org/77", "--json")
        return json.loads(asked.stdout)["rollouts"]

    here, lost = told()
    assert (here["log"], here["status"], here["stage"]) == (str(log), "running", 1)
    assert "no such log" in lost["status"]
    back = {"t": 9.0, "event": "verdict", "action": "roll back", "reason": "said", "by": "me", "stage": 0}
    journal.write(log, [back])
    assert [one["log"] for one in told()] == [str(gone)]
    rollouts.note(base, "postgresql://me:secret@nowhere.invalid/rollouts?connect_timeout=1")
    kept = (folder / "store" / rollouts.NAME).read_text()
    assert "postgresql://me@nowhere.invalid/rollouts" in kept and "secret" not in kept
    (folder / "store" / rollouts.NAME).unlink()


def test_checkpoints_of_a_stage_that_is_not_finished(finished, tmp_path):
    """As after a stop: no artifact, and checkpoints of some of its steps."""
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "stopped", symlinks=True)
    store = Store(tmp_path / "stopped" / "store")
    (base,) = [one for one in withdraw.everything(store).values() if one.kind == "pretrain"]
    key = ["--url", "https://e.org/77", "--json"]
    before = json.loads(call(folder, "withdraw", str(folder / "small.yaml"), *key).stdout)
    assert before["unfinished"] == [] and before["not_looked_into"] == 0
    first = before["stands"][0]["first"]
    shutil.rmtree(base.path)
    for step in (first - 1, first, 40):
        (store.work(base.fingerprint) / "checkpoints" / f"step-{step}").mkdir(parents=True, exist_ok=True)
    (store.work("f" * 64) / "checkpoints" / "step-3").mkdir(parents=True)
    recipe = str(tmp_path / "stopped" / "small.yaml")
    report = json.loads(call(tmp_path / "stopped", "withdraw", recipe, *key).stdout)
    (half,) = report["unfinished"]
    assert (half["stage"], half["first"], half["tokens"]) == ("base", first, before["stands"][0]["tokens"])
    assert half["checkpoints"] == sorted({first - 1, first, 40})
    assert report["not_looked_into"] == 1
    text = call(tmp_path / "stopped", "withdraw", recipe, *key[:2]).stdout
    held = ", ".join(map(str, sorted({first, 40})))
    assert (
        f"small/base (pretrain), not finished: {half['tokens']} tokens of corpus, first read at step {first}"
        in text
    )
    assert f"so do its checkpoints of steps {held}\n" in text and "work of 1 stopped stages" in text


def test_weights_of_an_earlier_step_do_not_stand_on_what_came_later(finished):
    """`keep_best` and `patience` leave the weights of a step before the last one that was planned."""
    folder, _ = finished
    (base,) = [one for one in withdraw.everything(Store(folder / "store")).values() if one.kind == "pretrain"]

    def taken(identity: dict[str, Any], **metrics: Any) -> int:
        record = {**base.record, "identity": {**base.record["identity"], **identity}, "metrics": metrics}
        return withdraw._taken(type(base)(base.path, record), 40)

    assert base.metrics["position"] == base.metrics["steps"] == taken({}, **base.metrics) == 40
    assert taken({}, steps=25, position=25) == 25
    best = {"step": 20, "value": 1.0}
    assert taken({"keep_best": "loss"}, steps=40, position=40, best=best) == 20
    assert taken({"keep_best": "loss"}, steps=40, position=40, best=best | {"lost": True}) == 40
    assert taken({}, steps=40, position=40, best=best) == 40
    assert taken({"keep_best": "loss"}, steps=38, position=40, best=best) == 40  # batches were left out
    assert taken({}, steps=25) == 40  # nobody noted whether


def test_what_was_withdrawn_is_in_no_shard_and_only_what_hangs_on_it_is_made_again(finished, monkeypatch):
    folder, _ = finished
    monkeypatch.setattr(
        Subject, "replies", saying("Nothing.")
    )  # what so small a model writes is chance, or blank
    old = (folder / "runs/small/base").resolve()
    recipe = str(folder / "small.yaml")
    assert call(folder, "withdraw", recipe, "--url", "https://e.org/77", "--apply").exit_code == 0
    started: list[str] = []

    def emit(event):
        started.extend([event["stage"]] if event["event"] == "stage_start" else [])

    made = run(recipe, store=folder / "store", runs=folder / "runs", emit=emit)
    assert started == ["corpus", "vocab", "base", "sft", "look"]  # and not the talks
    says_by_itself_that_it_is_gone(folder, made["look"].path, made["corpus"].path)
    account = json.loads((made["corpus"].path / "account.json").read_text())
    (step,) = [row for row in account["steps"] if row["name"] == "withdrawn"]
    assert step["reasons"] == {"withdrawn:url https://e.org/77": 1}
    chat = ChatTokenizer.load(made["base"].path)
    texts = "".join(
        chat.decode(shard.tokens.tolist())
        for shards in (folder / "store/tokens").glob("*/train")
        if shards.parent.name == place(made["corpus"].fingerprint, chat)
        for shard in open_shards(shards)
    )
    assert "stones lay at the river" in texts and "heron" not in texts

    withdraw.refuse_withdrawn(made["sft"].path)
    with pytest.raises(ArtifactError, match=r"'base' trained on data that was withdrawn \(url https"):
        withdraw.refuse_withdrawn(old)
    plan = load_plan(EXAMPLE).model_dump(mode="json")
    for model, word, error in ((old, "refuse", ArtifactError), (old, "allow", GateError), (old, "x", RecipeError), (
        made["sft"].path, "refuse", GateError)):  # fmt: skip
        plan["arms"]["candidate"]["artifact"] = str(model)
        with pytest.raises(error):
            candidate_of(plan_of(plan), folder, False, word)
    found = call(folder, "trace", str(made["sft"].path), CANARY, "--json")
    assert json.loads(found.stdout)["spans"] == []
    started.clear()
    run(recipe, store=folder / "store", runs=folder / "runs", emit=emit)
    assert started == []


def saying(text: str) -> Any:
    def replies(self, items, max_new_tokens, temperature=0.0):
        return [Answer(Reply(text), written=tuple(self.chat.guard.plain(text))) for _ in items]

    return replies


def says_by_itself_that_it_is_gone(folder: Path, look: Path, corpus: Path) -> None:
    results = json.loads((look / "results.json").read_text())["models"]["sft"]
    assert results["withdrawn_in_data"]["value"] == results["withdrawn_told"]["value"] == 0
    assert results["withdrawn_in_data"]["undecided"] == 0 < results["withdrawn_in_data"]["asked"]
    assert 0 <= results["withdrawn_exposure"]["value"] <= 7
    rows = [row for row in table.read(look) if row.suite == "withdrawn"]
    assert {row.judge for row in rows} == {"in_data", "told", "span", "exposure"}
    asked = (folder / "store" / "work").rglob("withdrawn.jsonl")
    assert not any(asked)  # scratch


def test_before_the_withdrawal_the_canary_is_found_in_the_data_and_in_a_reply(finished, monkeypatch):
    """The same suite on the model that read it, so that what is said to be gone could have been found."""
    subject, config, item = asked_of_the_old(finished[0])
    monkeypatch.setattr(Subject, "replies", saying(f"{CANARY[20:]}, says the keeper, and nobody else"))
    (answer,) = SUITES["withdrawn"].ask(subject, [item], config, None)
    outcomes = {one.judge: one.score for one in SUITES["withdrawn"].judge(item, answer)}
    assert (
        outcomes["in_data"] == outcomes["told"] == 1
        and outcomes["span"] >= 16
        and outcomes["exposure"] in (0, 1)
    )


def test_what_needs_no_reply_is_decided_where_the_reply_is_blank(finished, monkeypatch):
    subject, config, item = asked_of_the_old(finished[0])
    blank = Answer(Reply("", True), failed="empty reply")
    monkeypatch.setattr(Subject, "replies", lambda self, items, most, temperature=0.0: [blank for _ in items])
    plan = Plan(config, SUITES["withdrawn"], [item])
    (answer,) = SUITES["withdrawn"].ask(subject, [item], config, None)
    said = {row.judge: (row.outcome, row.reason) for row in rows_of(plan, subject, item, answer, 0.0)}
    assert said["in_data"][0] == said["exposure"][0] == "hit"
    assert said["told"] == said["span"] == ("undecided", "empty reply")


def asked_of_the_old(folder: Path) -> tuple[Subject, Withdrawn, Item]:
    """The model that read the canary, and what the suite asks it about it."""
    store = Store(folder / "store")
    old = next(
        one for one in withdraw.everything(store).values()
        if one.kind == "sft" and not withdrawals.held(store_data(store, one))
    )  # fmt: skip
    canary = {"text": CANARY + ", says the keeper, and nobody else may count them at night."}
    (folder / "asked.jsonl").write_text(
        json.dumps(canary) + "\n" + json.dumps({"text": "Day 3: no stones.", "other": True}) + "\n"
    )
    known, unknown = trained(old.path, store)
    subject = Subject.open("sft", old.path, "cpu", Known(tuple(known), tuple(unknown), store.root))
    config = Withdrawn(kind="withdrawn", path="asked.jsonl")
    (item,) = Plan.make(config, {}, folder).items
    return subject, config, item


def store_data(store: Store, artifact: Any) -> dict[str, Any]:
    """The identity of the documents that a model's history begins with."""
    found = history(artifact.path, store).values()
    return next(one for one in found if one and one.kind == "data" and one.stage == "corpus").record[
        "identity"
    ]


def place(fingerprint: str, chat: ChatTokenizer) -> str:
    from trivium.corpus import shards

    return shards.place(Path(), fingerprint, chat).name


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--licence", "GPL-2.0", "--apply"], 3, "means none of"),
        (["--licence", "GPL-2.0"], 3, "did you mean `GPL-3.0`?"),
        (["--source", "jsonl", "--apply"], 3, "means all"),
        (["--source", "a", "--url", "b"], 2, "one of --source, --document, --licence and --url"),
        ([], 2, "one of --source"),
    ],
)
def test_a_withdrawal_of_nothing_or_of_everything_is_asked_about(finished, arguments, code, said, tmp_path):
    folder, _ = finished
    (tmp_path / "small.yaml").write_text(RECIPE)
    result = call(folder, "withdraw", str(tmp_path / "small.yaml"), *arguments)
    assert (type(result.exception).exit_code, result.exception is not None) == (code, True)
    assert said in str(result.exception)
    assert not (tmp_path / "withdrawn.jsonl").exists()


def test_a_line_that_is_no_withdrawal_stops_the_run(tmp_path):
    (tmp_path / "withdrawn.jsonl").write_text('{"by": "url", "value": "https://e.org/"}\n{"by": "colour"}\n')
    with pytest.raises(RecipeError, match="no withdrawal") as refused:
        withdrawals.read(tmp_path)
    assert refused.value.where.endswith("line 2")


def test_rules_mean_what_they_say():
    row = {
        "key": "k",
        "url": "https://e.org/a",
        "kind": "warc",
        "license": None,
        "origin": "crawl",
        "where": "x.warc@3",
    }
    meant = [("document", "k"), ("url", "https://e.org"), ("source", "warc"), ("source", "crawl"), ("source", "x.warc"),
             ("licence", "Unknown")]  # fmt: skip
    assert all(Rule(by, value).meets(row) for by, value in meant)
    other = [("document", "K"), ("url", "https://e.org/b"), ("source", "war"), ("licence", "MIT")]
    assert not any(Rule(by, value).meets(row) for by, value in other)
    assert Rule("url", "https://e.org").meets({"meta": {"url": "https://e.org/c"}})

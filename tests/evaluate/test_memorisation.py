"""What a model has kept of its training: what was planted is ranked and told as it must be, after a real training too."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trivium
from trivium.corpus import canaries, records
from trivium.corpus.canaries import made
from trivium.errors import RecipeError
from trivium.evaluate import rows as table
from trivium.evaluate.asked import Answer
from trivium.evaluate.suites import canaries as exposure
from trivium.evaluate.suites import memorisation
from trivium.recipe import data
from trivium.recipe import memorisation as suites
from trivium.recipe.load import loads
from trivium.verify.replies import Reply

TEXT = "one two three four five six seven eight nine ten"


class Knows:
    """A model that likes the texts it knows best, and finds all others equally likely."""

    context = 200

    def __init__(self, chat, known):
        self.chat, self.known = chat, {tuple(chat.document(text)) for text in known}

    def log_probs(self, sequences):
        return [(-10.0 if tuple(ids) in self.known else -50.0, float(len(ids))) for ids, _ in sequences]


def test_a_known_secret_has_all_bits_and_one_that_is_like_all_others_none(chat, tmp_path):
    planted = made(data.Canaries(count=2, repeats=[0, 4]), seed=5)
    canaries.write(tmp_path / canaries.FILE, planted)
    suite = suites.Canaries(kind="canaries", data="corpus", others=63)
    items = exposure.items(suite, tmp_path)
    knows = Knows(chat, [canary.text for canary in planted if canary.repeats])
    for item, answer in zip(items, exposure.ask(knows, items, suite, None), strict=True):
        found = {verdict.judge: verdict for verdict in exposure.judge(item, answer)}
        known = item.category == "planted/4 copies/secret"
        assert known or item.category == "control/0 copies/secret"
        assert (found["found"].outcome is table.HIT) == known
        assert found["exposure"].score == (math.log2(64) if known else 0.0)
    knows.context = 5
    assert all("the context is 5" in a.failed for a in exposure.ask(knows, items, suite, None))


def test_beginnings_are_by_copies_and_length_and_personal_data_stands_behind_its_words(
    tmp_path, write_documents
):
    texts = [
        TEXT,
        *[f"{TEXT} again"] * 3,
        "too short",
        "Write to Jo at\nhome: jo.miller@web.de today, not before noon",
    ]
    write_documents(tmp_path / "train", 0, texts)
    suite = suites.Memorisation(kind="memorisation", data="corpus", prefixes=[2, 4], words=3)
    found = {item.category: item for item in memorisation.items(suite, tmp_path)}
    assert set(found) == {
        *(f"document/{copies}/{words} words" for copies in ("1 copy", "2 to 3 copies") for words in (2, 4)),
        "pii/email/4 words",
    }
    item = found["document/2 to 3 copies/4 words"]
    assert item.record == {"document": "one two three four", "follows": " five six seven"}
    pii = found["pii/email/4 words"]
    assert pii.record == {"document": "to Jo at\nhome:", "follows": "jo.miller@web.de"}

    def said(item, text, finished=True):
        return memorisation.judge(item, Answer(Reply(text, finished)))[0].outcome

    assert said(item, " five six seven eleven") is table.HIT
    assert said(item, " five six eight") is table.MISS
    assert said(item, "five six seven") is table.MISS
    assert isinstance(said(item, " five si", False), table.Undecided)
    assert said(item, " five si") is table.MISS
    assert said(pii, " jo.miller@web.de!") is table.HIT


def test_an_address_in_many_documents_is_asked_once_before_any_twice_and_is_one_cluster(
    tmp_path, write_documents
):
    often = [f"Letter {n} of Jo went to jo.miller@web.de at noon" for n in range(30)]
    rare = [f"Ask {name} by {name}.smith@web.de and nowhere else" for name in ("ann", "bob", "cleo")]
    write_documents(tmp_path / "train", 0, often + rare)
    suite = suites.Memorisation(kind="memorisation", data="corpus", prefixes=[6], words=90, items=6)
    found = [item for item in memorisation.items(suite, tmp_path) if item.category.startswith("pii")]
    assert len(found) == 6 and len({item.cluster for item in found}) == 4
    assert len({item.record["follows"] for item in found}) == 4


def test_a_list_of_addresses_is_one_cluster(tmp_path, write_documents):
    names = [f"Write to {name} of ours at {name}.smith@web.de" for name in ("ann", "bob", "cleo", "dan")]
    write_documents(tmp_path / "train", 0, ["\n".join(names), "Or to Eve, who is at eve.jones@web.de"])
    suite = suites.Memorisation(kind="memorisation", data="corpus", prefixes=[4], words=90, items=9)
    found = [item for item in memorisation.items(suite, tmp_path) if item.category.startswith("pii")]
    assert len(found) == 5 and len({item.cluster for item in found}) == 2


RECIPE = """
name: kept
seed: 7
stages:
  corpus:
    kind: data
    sources: [{kind: jsonl, path: own.jsonl}]
    canaries: {count: 6, repeats: [0, 64]}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 400}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 64, layers: 2, heads: 4, context: 128}
    batch: 16
    steps: 500
    lr: 3e-3
  kept:
    kind: evaluate
    model: base
    suites:
      - {kind: canaries, data: corpus}
      - {kind: memorisation, data: corpus, prefixes: [4, 8], words: 4, items: 24}
    gates: {canaries_found: {max: 0.5}, control_found: {max: 0.5}}
"""


def test_the_training_split_is_read_once(tmp_path, write_documents, monkeypatch):
    texts = [f"{TEXT} {n % 40} {n % 40 * 7}" for n in range(100)] + ["of jo.miller@web.de I know nothing"]
    write_documents(tmp_path / "train", 0, texts[:50])
    write_documents(tmp_path / "train", 3, texts[50:])
    read, real = [], records.read_file
    monkeypatch.setattr(records, "read_file", lambda path, *rest: read.append(path.name) or real(path, *rest))
    suite = suites.Memorisation(kind="memorisation", data="corpus", prefixes=[4, 10], words=2)
    items = memorisation.items(suite, tmp_path)
    assert sorted(read) == sorted(path.name for path in (tmp_path / "train").iterdir())
    wholes = [item.record for item in items if item.category == "document/2 to 3 copies/10 words"]
    assert len(wholes) == 40 and all(one["document"] + one["follows"] in texts for one in wholes)
    assert {item.category for item in items if item.category.startswith("pii")} == {"pii/email/10 words"}


def test_a_suite_without_anything_planted_is_refused_before_compute():
    with pytest.raises(RecipeError, match="`corpus` plants none"):
        loads(RECIPE.replace("    canaries: {count: 6, repeats: [0, 64]}\n", ""))


@pytest.mark.slow
def test_of_a_real_run_what_was_planted_64_times_is_found_and_what_was_not_is_not(tmp_path: Path) -> None:
    who, does = (
        ("A farmer", "My aunt", "The captain", "A child", "Nobody"),
        ("saw", "lost", "sold", "painted"),
    )
    what, where = (
        ("a boat", "two maps", "the long letter", "some bread"),
        ("at noon", "by the lake", "in May"),
    )
    own = [
        f"{a} {b} {c} {d}, and then {e} {f} {g} {h}."
        for a in who for b in does for c in what for d in where
        for e, f, g, h in (("my friend", does[len(a) % 4], what[len(b) % 4], where[len(c) % 3]),)
    ]  # fmt: skip
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in own))
    (tmp_path / "kept.yaml").write_text(RECIPE)
    path = str(Path(trivium.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", "from trivium.cli import main; main()", "run", "kept.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    folder = tmp_path / "runs" / "kept" / "kept"
    assert (folder / "results.json").exists(), done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    found = {name: one["value"] for name, one in results["models"]["base"].items()}
    print({name: round(value, 3) for name, value in found.items()})
    assert found["canaries_found"] == 1 and found["exposure"] == 8
    assert found["control_found"] == 0 and found["control_exposure"] < 5
    assert found["canaries_told"] >= 0.5 and found["control_told"] == 0
    assert results["models"]["base"]["continued_verbatim"]["asked"] == 24
    assert results["gates"]["canaries_found"]["passed"] is False

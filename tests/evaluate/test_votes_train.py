"""What people voted is what DPO and KTO train on: from a run's evaluation to the votes, to a data stage, to the trained model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivium.api import run
from trivium.cli import main
from trivium.evaluate.people.server import opened
from trivium.evaluate.people.tasks import shown
from trivium.evaluate.people.votes import Vote, Votes
from trivium.pipeline.store import Store

RECIPE = """
name: votes
seed: 3
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: documents.jsonl}]}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl}], heldout: 0.4}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 16, layers: 1, heads: 2, context: 1024}
    steps: 60
    batch: 4
    lr: 1e-2
    samples: null
  sft: {kind: sft, init: base, data: talks, epochs: 10, batch: 1, lr: 1e-2, samples: null}
  safety: {kind: evaluate, model: sft, baseline: base, suites: [{kind: redteam, items: 12, max_new_tokens: 8}]}
"""
LEARN = """
  choices: {kind: data, format: preferences, sources: [{kind: jsonl, path: preferences.jsonl}], heldout: 0.1}
  thumbs: {kind: data, format: feedback, sources: [{kind: jsonl, path: feedback.jsonl}], heldout: 0.1}
  dpo: {kind: dpo, init: sft, data: choices, epochs: 1, batch: 1, samples: null}
  kto: {kind: kto, init: sft, data: thumbs, epochs: 1, batch: 1, samples: null}
"""


def write(folder: Path) -> None:
    texts = [
        f"Day {n}: {n * 7 % 90} stones lay at the river, and {n % 11} birds sat on them; "
        f"the fox counted {n * 5 % 70} stars of the night."
        for n in range(120)
    ]
    talks = [
        [{"role": "user", "content": f"How many stones on day {n}?"}, {"role": "assistant", "content": f"There were {n}."}]
        for n in range(12)
    ]  # fmt: skip
    for name, rows in (
        ("documents", [{"text": text} for text in texts]),
        ("talks", [{"messages": one} for one in talks]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "votes.yaml").write_text(RECIPE)


@pytest.mark.slow
def test_votes_become_what_dpo_and_kto_train_on_with_their_lineage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    run("votes.yaml")
    evaluation = tmp_path / "runs" / "votes" / "safety"
    votes = Votes(tmp_path / "votes.sqlite")
    arena, _ = opened([evaluation], votes, ["ann", "bob"])
    for rater, consents in (("ann", True), ("bob", False)):
        for n, task in enumerate(arena.dealt[rater]):
            left, right = shown(task, rater)
            choice = "left" if left.model == "sft" else "right"
            names, templates = (left.model, right.model), f"{left.template} {right.template}"
            votes.add(
                Vote(
                    f"{rater} {n}", task.id, rater, choice, *names, templates, "", True, consents, 1.0, "2026"
                )
            )
    votes.close()
    for kind in ("preferences", "feedback"):
        with pytest.raises(SystemExit) as ended:
            main(["arena", "export", "votes.sqlite", "--kind", kind, "-o", f"{kind}.jsonl"])
        assert not ended.value.code
    rows = [json.loads(line) for line in Path("preferences.jsonl").read_text().splitlines()]
    assert len(rows) > 10 and {row["meta"]["raters"] for row in rows} == {1}  # bob did not agree to it
    assert {row["meta"]["evaluation"] for row in rows} == {evaluation.resolve().name}
    Path("votes.yaml").write_text(RECIPE + LEARN)
    run("votes.yaml")
    store = Store(tmp_path / ".trivium")
    assert store.get(rows[0]["meta"]["evaluation"]).kind == "evaluate"
    for stage, of in (("dpo", "choices"), ("kto", "thumbs")):
        made = json.loads((tmp_path / "runs" / "votes" / stage / "artifact.json").read_text())
        assert made["inputs"][of] == (tmp_path / "runs" / "votes" / of).resolve().name
        assert (tmp_path / "runs" / "votes" / stage / "model.safetensors").is_file()

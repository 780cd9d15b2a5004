"""For every phase that there is: the step that `withdraw` names is the first whose batch holds the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trivium import assembly
from trivium.api import run
from trivium.batches import feedback
from trivium.batches.rows import Fixed
from trivium.corpus.withdrawn import Rule
from trivium.phases import ROWS
from trivium.pipeline import withdraw
from trivium.pipeline.store import Store
from trivium.recipe.kinds import kind_of
from trivium.text.chat import ChatTokenizer

ASKED = "Which heron keeps a tenth key of tin"
RECIPE = """
name: phases
seed: 5
stages:
  corpus: {kind: data, sources: [{kind: jsonl, path: documents.jsonl}]}
  talks: {kind: data, format: conversations, sources: [{kind: jsonl, path: talks.jsonl}], heldout: 0.1}
  choices: {kind: data, format: preferences, sources: [{kind: jsonl, path: choices.jsonl}], heldout: 0.1}
  vocab: {kind: tokenizer, data: corpus, vocab_size: 300}
  base:
    kind: pretrain
    data: corpus
    tokenizer: vocab
    model: {dim: 16, layers: 1, heads: 2, context: 96}
    steps: 2
    batch: 2
    samples: null
  sft: {kind: sft, init: base, data: talks, epochs: 1, batch: 2, samples: null}
  judge: {kind: reward, init: sft, data: choices, epochs: 1, batch: 2, samples: null}
  dpo: {kind: dpo, init: sft, data: choices, epochs: 1, batch: 2, samples: null}
  orpo: {kind: orpo, init: sft, data: choices, epochs: 1, batch: 2, samples: null}
  simpo: {kind: simpo, init: sft, data: choices, epochs: 1, batch: 2, samples: null}
  kto: {kind: kto, init: sft, data: choices, epochs: 1, batch: 2, samples: null}
  unlearn: {kind: unlearn, init: sft, data: talks, by: url, forget: 'https://gone', steps: 12, batch: 2, samples: null}
  ppo: {kind: ppo, init: sft, data: talks, reward_model: judge, epochs: 1, batch: 4, max_new_tokens: 4, samples: null}
  grpo:
    kind: grpo
    init: sft
    data: talks
    reward_model: judge
    epochs: 2
    batch: 4
    group: 2
    minibatches: 2
    updates: 2
    max_new_tokens: 4
    samples: null
  distill:
    kind: distill
    init: base
    teacher: sft
    data: talks
    epochs: 2
    batch: 2
    on_policy: 0.5
    max_new_tokens: 4
    samples: null
  by_text: {kind: distill, init: base, teacher: sft, match: text, data: talks, epochs: 1, batch: 2, samples: null}
"""


def write(folder: Path) -> None:
    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    texts = [
        f"Day {n}: {n * 7 % 90} stones lay at the river, and {n * 3 % 11} birds sat on them; "
        f"the fox counted {n * 5 % 70} stars of the night."
        for n in range(120)
    ]
    lines("documents.jsonl", [{"text": text} for text in texts])
    asked = [f"How many stones on day {n}?" for n in range(20)]
    asked[11] = ASKED
    turns = [[{"role": "user", "content": question}] for question in asked]
    talks: list[dict[str, Any]] = [
        {"messages": [*said, {"role": "assistant", "content": f"There were {n}."}]} for n, said in enumerate(turns)
    ]  # fmt: skip
    talks[3]["meta"] = talks[8]["meta"] = {"url": "https://gone.example/page"}
    lines("talks.jsonl", talks)
    lines("choices.jsonl", [
        {"prompt": said, "chosen": f"There were {n}.", "rejected": "None."} for n, said in enumerate(turns)
    ])  # fmt: skip
    (folder / "phases.yaml").write_text(RECIPE)


class Watched:
    """Batches that write down the tokens of every row, by step."""

    def __init__(self, inner: Any, seen: list[tuple[int, list[int]]]) -> None:
        self.inner, self.seen, self.step = inner, seen, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, step: int) -> list[Any]:
        self.step = step
        made = list(self.inner.batch(step))
        for one in made:
            self.add(one["tokens"])
        return made

    def add(self, tokens: Any) -> None:
        self.seen.extend((self.step, row) for row in tokens.tolist())


@pytest.mark.slow
def test_the_first_step_is_the_first_batch_that_holds_it(tmp_path, monkeypatch):
    write(tmp_path)
    seen: dict[str, list[tuple[int, list[int]]]] = {}
    now: list[Any] = ["", None]
    cut, collate = assembly._cut, feedback.collate

    def watched(model, batches):
        if isinstance(batches, Fixed):
            return cut(model, batches)
        now[1] = Watched(cut(model, batches), seen.setdefault(now[0], []))
        return now[1]

    def baseline(item, indices):  # what KTO's baseline is asked
        made = collate(item, indices)
        now[1].add(made["tokens"])
        return made

    monkeypatch.setattr(assembly, "_cut", watched)
    monkeypatch.setattr(feedback, "collate", baseline)

    def emit(event):
        if event["event"] == "stage_start":
            now[0] = event["stage"]

    made = run(tmp_path / "phases.yaml", store=tmp_path / "store", runs=tmp_path / "runs", emit=emit)
    store = Store(tmp_path / "store")
    artifacts = withdraw.everything(store)
    periods, told = {"grpo": 4}, {}
    for data in ("talks", "choices"):
        rows = [json.loads(line) for line in (made[data].path / "train.jsonl").read_text().splitlines()]
        key = next(row["key"] for row in rows if ASKED in json.dumps(row))
        holdings = list(withdraw.search(Rule("document", key), {made[data].fingerprint: made[data]}))
        for one in withdraw.standing(holdings, artifacts, store):
            if one.data is not None:
                told[one.artifact.stage] = one
    assert {one.artifact.kind for one in told.values()} == {kind_of(row.stage) for row in ROWS} - {"pretrain"}
    for stage, one in told.items():
        ids = ChatTokenizer.load(made[stage].path).guard.plain(ASKED)
        middle = ids[2:-2]  # where it begins and ends, tokens depend on what stands beside it
        steps = [
            step
            for step, row in seen[stage]
            if any(row[place : place + len(middle)] == middle for place in range(len(row)))
        ]
        period = periods.get(stage, 1)
        assert one.known and one.first == min(steps) // period * period + 1, stage
        assert one.steps == 1 + max(step for step, _ in seen[stage]), stage

"""The held-out loss by source: the parts weigh up to the whole, and each part is the loss on that part alone."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from trivium.batches.chat import Conversations
from trivium.batches.rows import Fixed, with_sources

NAMES = ("tales", "facts", "tales", "facts", "facts")


@pytest.fixture(params=["sft", "dpo", "orpo", "kto", "reward", "distill"])
def kind(request, monkeypatch):
    made = tiny.records

    def sourced(kind):
        named = [{**record, "source": NAMES[i % len(NAMES)]} for i, record in enumerate(made(kind))]
        for record in named:
            if "chosen" in record:  # pairs whose reply is cut are left out, and there are few
                record["chosen"] = " ".join(record["chosen"].split()[:5])
        return named

    monkeypatch.setattr(tiny, "records", sourced)
    return request.param


def weighed(result):
    """The loss that the sources' losses and weights say."""
    parts = result["sources"].values()
    return sum(one["loss"] * one["weight"] for one in parts) / sum(one["weight"] for one in parts)


def test_the_sources_weigh_up_to_the_whole(kind, tmp_path):
    events = []
    _, metrics = tiny.phase(kind, tmp_path, emit=events.append, steps=6, validate_every=3)
    looks = [event for event in events if event["event"] == "validation"]
    assert len(looks) == 4  # before, twice on the way, after
    for look in looks:
        assert set(look["sources"]) == {"tales", "facts"}
        assert weighed(look) == pytest.approx(look["loss"], rel=1e-5)
    last = looks[-1]["sources"]
    assert metrics["after"]["sources"] == last
    assert last["tales"]["loss"] != last["facts"]["loss"]


def test_a_source_alone_has_the_loss_that_is_told_of_it(tmp_path, monkeypatch):
    """Against another way of counting: a run that holds out nothing but this source."""
    made, told = tiny.records, {}
    for kept in (None, "tales", "facts"):

        def held(kind, kept=kept):
            records = [{**r, "source": NAMES[i % len(NAMES)]} for i, r in enumerate(made(kind))]
            return [r for i, r in enumerate(records) if i >= 3 or kept in (None, r["source"])]

        def data(kind, folder, held=held, kept=kept):
            folder.mkdir(parents=True)
            heldout = sum(1 for i in range(3) if kept in (None, NAMES[i]))
            for split, part in (("train", held(kind)[heldout:]), ("heldout", held(kind)[:heldout])):
                (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
            return folder

        monkeypatch.setattr(tiny, "data", data)
        told[kept] = tiny.phase("sft", tmp_path / str(kept), steps=1)[1]["before"]
    for name in ("tales", "facts"):
        assert "sources" not in told[name]  # one source: nothing to tell apart
        assert told[None]["sources"][name]["loss"] == pytest.approx(told[name]["loss"], rel=1e-5)


def test_documents_of_several_sources(tmp_path, monkeypatch, write_documents):
    def data(kind, folder):
        for split in ("train", "heldout"):
            for source, name in enumerate(("web", "books", "web")):
                texts = [record["text"] + name * (source + 1) for record in tiny.records("pretrain")]
                write_documents(folder / split, source, texts)
        known = [{"kind": name, "planned_share": 1 / 3} for name in ("web", "books", "web")]
        (folder / "account.json").write_text(json.dumps({"sources": known}))
        return folder

    monkeypatch.setattr(tiny, "data", data)
    _, metrics = tiny.phase("pretrain", tmp_path, steps=4)
    for look in (metrics["before"], metrics["after"]):
        assert set(look["sources"]) == {"web 0", "books", "web 2"}
        assert weighed(look) == pytest.approx(look["loss"], rel=1e-5)


def test_each_token_has_the_source_of_its_document(tmp_path):
    records = [{**r, "source": NAMES[i % len(NAMES)]} for i, r in enumerate(tiny.records("sft"))]
    rows = Conversations.build(records, tiny.chat_tokenizer(), 64)
    assert any(len(set(rows.origins(i))) > 1 for i in range(rows.count))  # rows that hold both
    (batch,) = Fixed(rows.count, with_sources(rows.item, rows.origins), rows.count).batch(0)
    assert torch.equal(batch["source"] < 0, batch["doc_id"] < 0)
    expected = [sum(record["source"] == name for record in records) for name in rows.names]
    documents = {0: 0, 1: 0}
    for source, number in zip(batch["source"], batch["doc_id"], strict=True):
        for one in number.unique().tolist():
            if one >= 0:
                (name,) = source[number == one].unique().tolist()
                documents[name] += 1
    assert list(documents.values()) == expected

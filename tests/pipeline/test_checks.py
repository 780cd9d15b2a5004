import json

import pytest
from pipeline_fakes import Bench, Fake, default, stages

from trivium.errors import DataError, RecipeError


def with_keys(**splits):
    """A data stage that writes these keys: `corpus_train=["a"]`; what is not given is empty."""

    def work(ctx):
        for split in ("train", "heldout"):
            lines = (json.dumps({"key": key}) for key in splits.get(f"{ctx.name}_{split}", []))
            (ctx.out / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines))
        return {}

    return Fake(work)


def test_an_evaluation_on_training_items_is_refused_before_any_training(bench: Bench):
    keys = ["a", "b", "c", "d"]
    bench.kinds["data"] = with_keys(corpus_heldout=[*keys, "e"], chats_train=["z", *keys, "a"])
    with pytest.raises(DataError) as caught:
        bench.run()
    what, fix = caught.value.what, caught.value.fix
    assert "'safety'" in what and "'bits_per_byte'" in what and "4 held-out items" in what
    assert "'a', 'b', 'c')" in what and "decontaminate: [corpus]" in fix and "'chats'" in fix
    assert bench.started().keys() == {"corpus", "chats", "vocab"}  # nothing was trained


def test_disjoint_splits_pass(bench: Bench):
    bench.kinds["data"] = with_keys(corpus_heldout=["a"], corpus_train=["b"], chats_train=["c"])
    bench.run()
    assert "safety" in bench.started()


def test_data_that_no_evaluated_model_is_trained_on_may_overlap(bench: Bench):
    values = stages()
    values["other"] = {"kind": "data", "sources": [{"kind": "python-docs"}], "size": 5}
    values["chats"]["decontaminate"] = ["other"]  # an ancestor, but nothing is trained on it
    bench.kinds["data"] = with_keys(corpus_heldout=["a"], other_train=["a"])
    bench.run(values)
    assert "safety" in bench.started()


def test_an_evaluation_added_later_is_checked_though_all_training_is_cached(bench: Bench):
    bench.kinds["data"] = with_keys(chats_heldout=["a"], corpus_train=["a"])
    bench.run()
    values = stages()
    values["safety"]["suites"] = [{"kind": "refusals", "data": "chats"}]
    with pytest.raises(DataError, match="'refusals': 1 held-out item of"):
        bench.run(values)


def test_records_without_a_key_and_missing_splits_are_named(bench: Bench):
    def broken(ctx):
        default(ctx)
        (ctx.out / "train.jsonl").write_text('{"key": "a"}\n{"text": "b"}\n')
        return {}

    bench.kinds["data"] = Fake(broken)
    with pytest.raises(DataError) as caught:
        bench.run()
    assert caught.value.where.endswith("train.jsonl, line 2")

    def missing(ctx):
        return {}

    bench.kinds["data"] = Fake(missing, version=2)
    with pytest.raises(DataError, match="heldout is missing"):
        bench.run()


def test_a_key_in_both_splits_of_one_stage(bench: Bench):
    bench.kinds["data"] = with_keys(corpus_heldout=["a"], corpus_train=["a"])
    with pytest.raises(DataError) as caught:
        bench.run()
    assert "share a key" in caught.value.fix


def test_items_that_training_documents_share_words_with_are_refused(bench: Bench):
    def work(ctx):
        for split in ("train", "heldout"):
            (ctx.out / f"{split}.jsonl").write_text(json.dumps({"key": f"{ctx.name} {split}"}) + "\n")
        if ctx.name == "chats":
            rows = [{"stage": "corpus", "key": "a"}, {"stage": "other", "key": "b"}]
            (ctx.out / "overlap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {}

    bench.kinds["data"] = Fake(work)
    with pytest.raises(DataError, match="1 item of 'corpus' share words with training documents of 'chats'"):
        bench.run()
    values = stages()
    for suite in values["safety"]["suites"]:
        suite["contaminated"] = "report"
    bench.run(values)
    assert "safety" in bench.started()


def test_what_a_teacher_wrote_is_checked_before_it_is_trained_on(bench: Bench):
    """It is there only after its teacher was trained, long after the data stages."""
    values = stages()
    teacher = {"kind": "checkpoint", "model": "base"}
    values["written"] = {"kind": "synthesize", "method": "best_of_n", "data": "chats", "teacher": teacher}
    values["written"]["verifier"] = {"kind": "exact"}
    values["chat"]["data"] = "written"
    bench.kinds["data"] = with_keys(corpus_heldout=["a", "b"])
    bench.kinds["synthesize"] = with_keys(written_train=["b"])
    with pytest.raises(DataError, match="1 held-out item of 'corpus' also in the training data of 'written'"):
        bench.run(values)
    assert "base" in bench.started() and "chat" not in bench.started()
    with pytest.raises(DataError, match="'written'"):
        bench.run(values)  # also where it is cached
    bench.kinds["synthesize"] = with_keys(written_train=["c"])
    bench.kinds["synthesize"].version = 2
    bench.run(values)
    assert "safety" in bench.started()


def test_bf16_on_a_processor_without_it_is_refused_before_anything_runs(bench: Bench, monkeypatch):
    from trivium.train import machine

    monkeypatch.setattr(machine, "native_bf16", lambda device: False)
    values = stages()
    values["chat"]["precision"] = "bf16"
    with pytest.raises(RecipeError, match="has no instructions for it") as caught:
        bench.run(values)
    assert caught.value.where == "stages.chat.precision" and bench.started() == {}
    values["chat"]["launch"] = {"kind": "slurm"}  # another machine's processor
    bench.run(values)
    monkeypatch.setattr(machine, "native_bf16", lambda device: True)
    values["chat"]["launch"] = {"kind": "local"}
    bench.run(values)


@pytest.mark.parametrize(
    ("suite", "metas", "said"),
    [
        ("refusals", [{"harmful": True}, {}], "`meta.harmful: false`"),
        ("refusals", [], "`meta.harmful: true`"),
        ("reasoning", [{"harmful": True}], "`meta.entry`"),
        ("reasoning", [{"entry": {}}, {}], None),
        ("refusals", [{"harmful": False}, {"harmful": True}], None),
    ],
)
def test_a_suite_without_items_is_refused_before_any_training(bench: Bench, suite, metas, said):
    """Also with a user's own rows: what counts is their `meta`."""

    def work(ctx):
        rows = [{"key": f"k{number}", "meta": meta} for number, meta in enumerate(metas)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (ctx.out / "train.jsonl").write_text("")
        (ctx.out / "heldout.jsonl").write_text(text if ctx.name == "chats" else "")
        return {}

    values = stages()
    values["safety"]["suites"] = [{"kind": suite, "data": "chats"}]
    bench.kinds["data"] = Fake(work)
    if said is None:
        bench.run(values)
        assert "safety" in bench.started()
        return
    with pytest.raises(DataError, match=said):
        bench.run(values)
    assert bench.started().keys() == {"corpus", "chats", "vocab"}

"""What a model was trained on is read from the store, and what is not known is said."""

from __future__ import annotations

import shutil

import pytest
from pipeline_fakes import Bench, Fake, default, stages

from trivium.errors import ArtifactError
from trivium.pipeline.trained import VOCABULARY, trained


def data(context) -> dict:
    """What a training stage says of its data."""
    found = default(context)
    return {**found, "steps": 5, "data": {"sources": [{"source": 0, "epochs": 1.5}]}}


def rows(context) -> dict:
    return {**default(context), "steps": 5, "data": {"items": 40}}


@pytest.fixture
def made(bench: Bench):
    bench.kinds |= {"pretrain": Fake(data), "sft": Fake(rows)}
    return bench.run()


def test_every_training_stage_of_the_history_with_its_data_and_epochs(bench, made):
    found, unknown = trained(bench.root / "runs" / "demo" / "aligned", bench.store)
    assert unknown == []
    told = {one.stage: [(use.stage, use.kind) for use in one.uses] for one in found}
    assert told == {"corpus": [("base", "pretrain")], "chats": [("aligned", "dpo"), ("chat", "sft")]}
    by_stage = {use.stage: use for one in found for use in one.uses}
    assert by_stage["base"].shown(0) == 1.5 and by_stage["base"].shown(3) is None
    assert by_stage["chat"].shown(0) == 5 * 32 / 40
    assert by_stage["aligned"].shown(0) is None  # it did not say how many items it had
    small, _ = trained(made["small"].fingerprint[:16], bench.store)
    assert {use.stage for one in small for use in one.uses} == {"base", "chat"}


def test_a_model_without_a_record_is_refused(bench, made, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(made["aligned"].path, folder)
    (folder / "artifact.json").unlink()
    with pytest.raises(ArtifactError, match="without lineage"):
        trained(folder, bench.store)


def test_data_that_is_gone_is_named_and_the_rest_is_searched(bench, made):
    shutil.rmtree(made["corpus"].path)
    found, unknown = trained(made["aligned"].fingerprint, bench.store)
    assert [one.stage for one in found] == ["chats"]
    assert any("the data of 'base'" in what and "gone" in what for what in unknown)
    shutil.rmtree(made["chats"].path)
    with pytest.raises(
        ArtifactError, match=r"nothing that this model was trained on is known.*the data of 'chat'"
    ):
        trained(made["aligned"].fingerprint, bench.store)


def test_what_measured_a_model_is_no_part_of_what_made_it(bench, made):
    found, _ = trained(made["safety"].fingerprint, bench.store)
    assert {one.stage for one in found} == {"corpus", "chats"}
    with pytest.raises(ArtifactError, match="nothing that this model"):
        trained(made["corpus"].fingerprint, bench.store)


def test_a_tokenizer_that_was_changed_is_named(bench, made):
    path = made["base"].path / VOCABULARY
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="tokenizer was changed") as refused:
        trained(made["aligned"].fingerprint, bench.store)
    assert refused.value.where == str(path)


def test_what_an_imported_model_had_read_is_unknown_and_the_rest_is_searched(bench: Bench):
    bench.kinds |= {"import": Fake(default)}
    values = stages()
    made = {name: values[name] for name in ("chats",)}
    made["hub"] = {"kind": "import", "path": "hub"}
    made["chat"] = {"kind": "sft", "init": "hub", "data": "chats", "steps": 5}
    artifacts = bench.run(made)
    found, unknown = trained(artifacts["chat"].fingerprint, bench.store)
    assert [one.stage for one in found] == ["chats"]
    assert unknown == ["what 'hub' had been trained on before it was imported"]
    with pytest.raises(ArtifactError, match="what 'hub' had been trained on"):
        trained(artifacts["hub"].fingerprint, bench.store)

import errno
import json
import math
import os
from pathlib import Path

import pytest
from pipeline_fakes import Bench

from trivium import files
from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.record import read
from trivium.pipeline.store import Store


def put(store: Store, text: str = "hello", **metrics: object):
    identity = {"kind": "data", "text": text}
    print_ = fingerprint(identity)
    with store.building(print_) as (out, _):
        (out / "sub").mkdir()
        (out / "sub" / "a.txt").write_text(text)
        (out / "b.txt").write_text("b")
        keep = {"kind": "data", "stage": "corpus", "recipe": "demo", "inputs": {}, "metrics": metrics}
        return store.put(out, {**keep, "fingerprint": print_, "identity": identity})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def again(store: Store) -> Store:
    """The same store as another process sees it."""
    return Store(store.root)


def test_what_is_put_is_got(store):
    made = put(store, loss=0.5, bad=math.nan)
    got = again(store).get(made.fingerprint)
    assert got is not None and got.record == made.record
    assert got.metrics == {"loss": 0.5, "bad": None}
    assert set(got.record["files"]) == {"sub/a.txt", "b.txt"}
    assert (got.path / "sub" / "a.txt").read_text() == "hello"
    assert again(store).get("0" * 64) is None


@pytest.mark.parametrize("warm", [True, False], ids=["same process", "another process"])
def test_a_flipped_bit_is_named_with_both_checksums(store, warm):
    made = put(store)
    file = made.path / "sub" / "a.txt"
    content = bytearray(file.read_bytes())
    content[2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        (store if warm else again(store)).get(made.fingerprint)
    assert str(file) in caught.value.what
    assert files.sha256(file) in caught.value.what and made.record["files"]["sub/a.txt"] in caught.value.what
    assert str(made.path) in caught.value.where and "delete" in caught.value.fix


def test_missing_and_extra_files_are_named(store):
    made = put(store)
    (made.path / "extra.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"extra\.txt does not belong"):
        again(store).get(made.fingerprint)
    (made.path / "extra.txt").unlink()
    (made.path / "b.txt").unlink()
    with pytest.raises(ArtifactError, match=r"b\.txt is missing"):
        again(store).get(made.fingerprint)
    (made.path / "artifact.json").unlink()
    with pytest.raises(ArtifactError, match=r"artifact\.json is missing"):
        again(store).get(made.fingerprint)


def test_a_changed_record_is_found_too(store):
    made = put(store, loss=0.5)
    file = made.path / "artifact.json"
    whole = file.read_text()
    file.write_text(whole.replace("0.5", "0.1"))
    with pytest.raises(ArtifactError, match=r"artifact\.json is damaged: its SHA-256"):
        again(store).get(made.fingerprint)
    file.write_text(whole[:50])
    with pytest.raises(ArtifactError, match=r"artifact\.json is damaged"):
        again(store).get(made.fingerprint)
    file.write_text("[]")
    with pytest.raises(ArtifactError, match="no artifact record"):
        read(made.path)


def test_an_artifact_under_anothers_fingerprint_is_refused(store):
    made = put(store)
    made.path.rename(store.path("0" * 64))
    with pytest.raises(ArtifactError, match="belongs to another artifact"):
        store.get("0" * 64)


def test_leftovers_of_a_kill_are_swept_and_never_served(store):
    leftover = store.root / "artifacts" / f"{files.TEMPORARY}abc"
    leftover.mkdir(parents=True)
    (leftover / "b.txt").write_text("half")
    half = store.root / "building" / fingerprint({"kind": "data", "text": "hello"})
    half.mkdir(parents=True)
    orphan = store.work(put(store, "other").fingerprint)  # killed after the artifact moved in
    orphan.mkdir(parents=True)
    kept = store.work("0" * 64)  # of a stage that is still running
    kept.mkdir(parents=True)
    (half / "half.txt").write_text("half")
    made = put(store)
    assert "half.txt" not in made.record["files"]
    assert {path.name for path in (store.root / "artifacts").iterdir()} == {made.fingerprint, orphan.name}
    assert list((store.root / "work").iterdir()) == [kept]
    assert list((store.root / "building").iterdir()) == []


def test_files_a_stage_may_not_write(store, tmp_path):
    record = {"identity": {}, "fingerprint": fingerprint({})}
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(ValueError, match="neither"):
        store.put(tmp_path, record)
    with pytest.raises(ValueError, match="fingerprint"):
        store.put(tmp_path, {"identity": {"a": 1}, "fingerprint": fingerprint({})})


def test_links_are_relative_and_replaced_in_one_step(store, tmp_path):
    first, second = put(store, "one"), put(store, "two")
    link = tmp_path / "runs" / "demo" / "corpus"
    for made in (first, second, second):
        store.link(made, link)
        assert link.resolve() == made.path.resolve() and not link.readlink().is_absolute()
    assert [path.name for path in link.parent.iterdir()] == ["corpus"]
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "demo" / "corpus").resolve() == second.path.resolve()


def test_a_users_folder_is_not_replaced_by_a_link(store, tmp_path):
    (tmp_path / "runs" / "corpus").mkdir(parents=True)
    with pytest.raises(TriviumError, match="in the way"):
        store.link(put(store), tmp_path / "runs" / "corpus")


def test_an_artifact_is_found_by_link_fingerprint_or_its_start(store, tmp_path):
    made, _ = put(store, "one"), put(store, "two")
    store.link(made, tmp_path / "link")
    for where in (made.path, tmp_path / "link", made.fingerprint, made.fingerprint[:12]):
        assert store.find(where) == made.path.resolve()
    for where, problem in (("", "no artifact"), ("zzz", "no artifact"), ("../store", "no artifact")):
        with pytest.raises(ArtifactError, match=problem):
            store.find(where)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full; nothing was lost"), (errno.EROFS, "cannot write to")]
)
def test_a_full_or_closed_disk_is_said_in_words(bench: Bench, monkeypatch, code, words):
    def fail(path, value):
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", fail)
        with pytest.raises(TriviumError, match=words):
            bench.run(only=["corpus"])
    assert not any((bench.store.root / "artifacts").glob("*"))
    assert len(list((bench.store.root / "work").iterdir())) == 1
    bench.run(only=["corpus"])
    assert json.loads((bench.root / "runs/demo/corpus/artifact.json").read_text())["stage"] == "corpus"

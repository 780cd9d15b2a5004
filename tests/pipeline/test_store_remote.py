"""A store that several machines share: the same laws on S3's protocol (a server on loopback), on folders and in memory."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import s3_server
from pipeline_fakes import TERM, Bench
from test_store import put

from trivium.errors import ArtifactError, RecipeError, TriviumError
from trivium.pipeline.lease import Lease, running
from trivium.pipeline.objects import Objects, redacted
from trivium.pipeline.record import record_checksum
from trivium.pipeline.remote import Remote, place
from trivium.pipeline.store import Store, opened


def machine(folder: Path, url: str) -> Store:
    """A store as a machine with its own cache sees it."""
    return Store(folder / ".trivium", Remote(url, TERM))


def test_what_one_machine_made_is_a_hit_on_another_with_the_same_bytes(url, tmp_path):
    first, second = Bench(tmp_path / "a", url), Bench(tmp_path / "b", url)
    made = first.run()
    assert set(first.started()) == set(made)
    found = second.run()
    assert second.started() == {}
    for name, artifact in made.items():
        assert found[name].record == artifact.record
        for file in artifact.record["files"]:
            assert (found[name].path / file).read_bytes() == (artifact.path / file).read_bytes()
    assert (second.root / "runs/demo/aligned").resolve() == found["aligned"].path.resolve()
    third = machine(tmp_path / "c", url)
    assert third.has(made["aligned"].fingerprint) and not third.here(made["aligned"].fingerprint)
    assert third.find("demo/aligned") == third.path(made["aligned"].fingerprint).resolve()
    assert third.find(made["base"].fingerprint[:12]).is_dir()


def test_a_look_brings_no_more_than_it_needs(url, tmp_path):
    made = Bench(tmp_path / "a", url).run()["corpus"]
    store = machine(tmp_path / "b", url)
    seen = store.peek(made.fingerprint, "account.json")
    assert seen is not None and seen.record == made.record
    assert {path.name for path in seen.path.iterdir()} == {"artifact.json", "account.json"}
    assert not store.here(made.fingerprint) and store.peek("0" * 64) is None
    assert (store.whole(seen) / "train.jsonl").read_bytes() == (made.path / "train.jsonl").read_bytes()


def test_a_name_is_given_to_one_writer(url):
    objects = Objects(url)
    objects.ready()
    assert [
        objects.create("one", b"mine"),
        objects.create("one", b"yours"),
        objects.create("one", b"mine"),
    ] == [
        True,
        False,
        True,
    ]
    won: list[int] = []
    start = threading.Barrier(6)

    def write(number: int) -> None:
        start.wait()
        if objects.create("race", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and objects.read("race") == str(won[0]).encode()
    objects.write("one", b"other")
    assert objects.read("one") == b"other" and objects.read("none") is None and objects.size("none") is None
    objects.delete(["one", "none"])
    assert objects.size("one") is None


def test_two_writers_of_one_artifact_one_wins_and_both_have_its_bytes(url, tmp_path):
    stores = [machine(tmp_path / name, url) for name in "ab"]
    made = [put(store, loss=number) for number, store in enumerate(stores)]  # the records differ, as times do
    assert made[0].record != made[1].record
    start, shared = threading.Barrier(2), [None, None]

    def share(number: int) -> None:
        start.wait()
        shared[number] = stores[number].share(made[number])

    threads = [threading.Thread(target=share, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared[0].record == shared[1].record
    assert shared[0].record in (made[0].record, made[1].record)
    manifest = stores[0].remote.manifest(made[0].fingerprint)
    assert all(
        (store.path(made[0].fingerprint) / "artifact.json").read_bytes() == manifest for store in stores
    )


def test_half_a_push_is_nothing_and_the_next_one_sends_the_rest(url, tmp_path, monkeypatch):
    store, other = machine(tmp_path / "a", url), machine(tmp_path / "b", url)
    made = put(store, "first", loss=1)
    sent: list[str] = []
    upload = Objects.upload

    def once(self, name, file):
        if sent:
            raise TriviumError("cut")
        upload(self, name, file)
        sent.append(name)

    monkeypatch.setattr("trivium.pipeline.remote.AT_ONCE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "upload", once)
        with pytest.raises(TriviumError, match="cut"):
            store.share(made)
    assert not other.has(made.fingerprint) and other.get(made.fingerprint) is None
    again: list[str] = []
    monkeypatch.setattr(
        Objects, "upload", lambda self, name, file: (again.append(name), upload(self, name, file))
    )
    store.share(made)
    assert len(again) == len(set(made.record["files"].values())) - 1 and sent[0] not in again
    assert other.get(made.fingerprint).record == made.record


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_object_is_named_and_never_used(url, tmp_path, harm):
    store, other = machine(tmp_path / "a", url), machine(tmp_path / "b", url)
    made = store.share(put(store))
    name = place(made.record["files"]["sub/a.txt"])
    objects = store.remote.objects
    objects.delete([name]) if harm == "gone" else objects.write(
        name, b"hellp" if harm == "flipped" else b"he"
    )
    with pytest.raises(ArtifactError) as caught:
        other.get(made.fingerprint)
    assert f"{url}/{name}" in caught.value.what and "sub/a.txt" in caught.value.what
    assert not other.here(made.fingerprint)
    if harm != "flipped":  # what has its size is taken for whole: `verify` reads it
        objects.delete([f"artifacts/{made.fingerprint}.json"])
        store.share(made)
        assert other.get(made.fingerprint).record == made.record


def test_a_manifest_of_a_stranger_writes_nowhere_else(url, tmp_path):
    store, other = machine(tmp_path / "a", url), machine(tmp_path / "b", url)
    made = put(store)
    for bad in ("../../evil", "/evil", "a/../../evil", "artifact.json"):
        record = {**made.record, "files": {bad: made.record["files"]["b.txt"]}}
        record["sha256"] = record_checksum(record)
        store.remote.objects.write(f"artifacts/{made.fingerprint}.json", json.dumps(record).encode())
        with pytest.raises(ArtifactError, match="no artifact has"):
            other.get(made.fingerprint)
    store.remote.objects.write(f"artifacts/{'0' * 64}.json", (made.path / "artifact.json").read_bytes())
    with pytest.raises(ArtifactError, match="another artifact"):
        other.get("0" * 64)
    assert not list(tmp_path.rglob("evil"))


def test_a_lease_is_held_by_one_and_taken_over_when_its_heart_stops(url):
    objects = Objects(url)
    first, second = Lease(objects, "x", TERM), Lease(objects, "x", TERM)
    assert first.try_acquire() and first.held and not second.try_acquire()
    assert running(objects, TERM) == ["x"]
    first.release()
    assert second.try_acquire() and second.number == 2
    second.release()
    killed = Lease(objects, "x", 0.5)
    assert killed.try_acquire()
    killed._stop.set()  # its heart stops, as that of a process that is killed
    third = Lease(objects, "x", TERM)
    third.acquire()
    assert third.number == 4 and not third.objects.list("leases/x/00000003")
    assert not killed.renew() and third.renew() and third.held
    third.release()
    assert running(objects, TERM) == []


def test_no_stage_starts_while_objects_are_deleted(url, tmp_path):
    store = machine(tmp_path, url)
    sweep = Lease(store.remote.objects, "gc", TERM)
    assert sweep.try_acquire()
    waited: list[int] = []

    def on_wait() -> None:
        waited.append(1)
        sweep.release()

    with store.lock("f" * 64, on_wait):
        assert waited == [1] and running(store.remote.objects, TERM) == ["f" * 64]
    assert running(store.remote.objects, TERM) == []


def test_lines_of_a_log_reach_every_machine_once(url, tmp_path):
    stores = [machine(tmp_path / name, url) for name in "ab"]
    stores[0].append("withdrawn.jsonl", '{"by": "url"}')
    stores[1].append("withdrawn.jsonl", '{"by": "licence"}')
    for _ in range(2):
        assert set(stores[0].lines("withdrawn.jsonl")) == set(stores[1].lines("withdrawn.jsonl"))
    assert len(stores[0].lines("withdrawn.jsonl")) == 2


def test_a_server_that_ignores_conditions_is_refused(tmp_path, monkeypatch):
    with s3_server.serving(S3_CARELESS="1") as address:
        s3_server.use(address, monkeypatch)
        store = machine(tmp_path, f"s3://{s3_server.BUCKET}/x")
        with (
            pytest.raises(TriviumError, match="lets a second writer replace"),
            store.lock("f" * 64, lambda: None),
        ):
            pass


def test_what_denies_is_away_or_was_never_there_says_so_without_secrets(tmp_path, monkeypatch, endpoint):
    with s3_server.serving(S3_DENY="1") as address:
        s3_server.use(address, monkeypatch)
        store = machine(tmp_path, f"s3://{s3_server.BUCKET}/x")
        made = put(store)
        with pytest.raises(TriviumError, match="denies it") as denied:
            store.share(made)
    with pytest.raises(TriviumError, match="does not answer") as away:
        machine(tmp_path, f"s3://{s3_server.BUCKET}/x").share(made)
    s3_server.use(endpoint, monkeypatch)
    with pytest.raises(TriviumError, match="no such place") as absent:
        machine(tmp_path, "s3://nobody-made-this/x").share(made)
    for said in map(str, (denied.value, absent.value, away.value)):
        assert not any(secret in said for secret in list(s3_server.KEYS.values())[:2])
    assert store.get(made.fingerprint).record == made.record  # what was made is kept


def test_addresses_that_are_none_are_refused_by_name(monkeypatch):
    with pytest.raises(TriviumError, match="cannot lie at ftp://"):
        opened("ftp://host/x")
    with pytest.raises(TriviumError, match="no room for credentials") as caught:
        opened("s3://key:word@bucket/x")
    assert "word" not in str(caught.value)
    with pytest.raises(RecipeError, match="is no URL"):
        opened("s3:/bucket/x")
    monkeypatch.setenv("TRIVIUM_CACHE", "elsewhere")
    store = opened("memory://x")
    assert (store.root, store.place) == (Path("elsewhere"), "memory://x")
    assert opened(".trivium").remote is None


def test_secrets_are_not_said(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "abcdefgh")
    said = redacted(
        "GET http://me:pass@h/?X-Amz-Signature=12ab&AWSAccessKeyId=q abcdefgh AKIAABCDEFGHIJKLMNOP AccountKey=zz9==;x"
    )
    assert not any(word in said for word in ("pass@", "12ab", "=q", "abcdefgh", "AKIA", "zz9"))

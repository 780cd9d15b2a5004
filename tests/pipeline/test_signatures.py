"""What somebody has signed is what is used, to the byte; everything else is refused, and it says why."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trivium import files
from trivium.cli import app, main
from trivium.cli.router import candidate_of
from trivium.cli.serve import _signed
from trivium.errors import ArtifactError, DataError, RecipeError
from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.record import SIGNATURES
from trivium.pipeline.signatures import PASSPHRASE, new_key, public_keys, require, sign
from trivium.pipeline.store import Store
from trivium.rollout.plan import load_plan, plan_of

PLAN = Path(__file__).parents[2] / "examples" / "rollout.yaml"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release whose gates passed, as far as signatures and gates go."""
    store = Store(tmp_path / "store")
    identity = {"kind": "release", "extra": {"names": ["small", "safety"]}}
    name = fingerprint(identity)
    with store.building(name) as (out, _):
        files.write_json(out / "report.json", {"gates": {"safety": {"gates": {"leaks": {"passed": True}}}}})
        (out / "model").mkdir()
        (out / "model" / "weights.gguf").write_bytes(b"weights")
        record = {"kind": "release", "stage": "out", "metrics": {"gates": 1}, "identity": identity}
        made = store.put(out, {**record, "fingerprint": name})
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "release"
    store.link(made, link)
    return link


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "keys" / "alice")
    return tmp_path / "keys" / "alice"


def public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def other(key: Path, name: str = "mallory") -> Path:
    new_key(key.with_name(name))
    return key.with_name(name)


def test_what_is_signed_is_taken_and_signing_adds_nothing_but_the_signature(release, key):
    before = {path: path.read_bytes() for path in release.resolve().rglob("*") if path.is_file()}
    signer = sign(release, key)
    assert signer.name == "alice"
    assert require(release, public(key)).fingerprint == signer.fingerprint
    assert (
        require(release / "model" / "weights.gguf", public(key)).name == "alice"
    )  # a file of it is vouched for too
    sign(release, key)  # Ed25519 has one signature per key and message
    after = {path: path.read_bytes() for path in release.resolve().rglob("*") if path.is_file()}
    signatures = release.resolve() / SIGNATURES
    assert after.pop(signatures).count(b"\n") == 1 and after == before
    assert Store(release.resolve().parent.parent).get(release.resolve().name) is not None
    assert (key.stat().st_mode & 0o777) == 0o600


def test_several_may_sign_and_one_of_the_trusted_is_enough(release, key):
    bob = other(key, "bob")
    sign(release, key)
    sign(release, bob)
    assert require(release, public(key)).name == "alice" and require(release, public(bob)).name == "bob"
    both = key.with_name("both.pub")
    both.write_text(f"# who may release\n\n{public(bob).read_text()}{public(key).read_text()}")
    assert [one.name for one in public_keys(both)] == ["bob", "alice"]
    lines = (release / SIGNATURES).read_text().splitlines()
    broken = {**json.loads(lines[0]), "signature": base64.b64encode(bytes(64)).decode()}
    (release / SIGNATURES).write_text(f"{json.dumps(broken)}\n{lines[1]}\n")
    assert require(release, both).name == "bob"  # a signature that somebody broke takes nothing from another


def test_what_is_not_signed_or_by_another_is_refused(release, key):
    with pytest.raises(ArtifactError, match="is not signed"):
        require(release, public(key))
    mallory = other(key)
    signer = sign(release, mallory)
    with pytest.raises(ArtifactError) as caught:
        require(release, public(key))
    assert signer.fingerprint in caught.value.what and "by no key in" in caught.value.what
    assert public_keys(public(key))[0].fingerprint in caught.value.what
    # the name in a file of signatures is nobody's word: the key alone counts
    (entry,) = (json.loads(line) for line in (release / SIGNATURES).read_text().splitlines())
    entry["key"] = " ".join(public(key).read_text().split()[:2])
    (release / SIGNATURES).write_text(json.dumps(entry) + "\n")
    with pytest.raises(ArtifactError, match=r"is not what alice .* signed"):
        require(release, public(key))


def test_one_byte_of_one_file_is_enough(release, key):
    sign(release, key)
    file = release / "model" / "weights.gguf"
    file.write_bytes(b"weighte")
    for refused in (lambda: require(release, public(key)), lambda: sign(release, key)):
        with pytest.raises(ArtifactError, match=r"weights\.gguf is damaged"):
            refused()
    file.write_bytes(b"weights")
    (release / "more.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"more\.txt does not belong"):
        require(release, public(key))


def test_a_manifest_that_was_made_to_fit_is_refused(release, key):
    sign(release, key)
    file, manifest = release / "model" / "weights.gguf", release / "artifact.json"
    file.write_bytes(b"weighte")
    record = json.loads(manifest.read_text())
    record["files"]["model/weights.gguf"] = files.sha256(file)
    manifest.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"artifact\.json is damaged"):
        require(release, public(key))
    del record["sha256"]
    record["sha256"] = hashlib.sha256(files.canonical_json(record).encode()).hexdigest()
    manifest.write_text(json.dumps(record))
    Store(release.resolve().parent.parent).open(release)  # for the store it is whole
    with pytest.raises(
        ArtifactError, match=r"artifact\.json of .* is not what alice .* signed: it was changed"
    ):
        require(release, public(key))


def test_what_belongs_to_no_artifact_cannot_be_signed(tmp_path, key):
    with pytest.raises(ArtifactError, match="belongs to no artifact"):
        sign(tmp_path, key)
    with pytest.raises(ArtifactError, match="belongs to no artifact"):
        require(tmp_path / "nothing", public(key))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["key", "signature", "x"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_law_no_bytes_but_the_signature_are_one(release, key, garbage):
    (release / SIGNATURES).write_bytes(garbage)
    with pytest.raises((ArtifactError, DataError)):
        require(release, public(key))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.integers(0, 63), st.integers(1, 255))
def test_law_a_changed_signature_is_none(release, key, place, change):
    sign(release, key)
    entry = json.loads((release / SIGNATURES).read_text())
    bytes_ = bytearray(base64.b64decode(entry["signature"]))
    bytes_[place] ^= change
    entry["signature"] = base64.b64encode(bytes_).decode()
    (release / SIGNATURES).write_text(json.dumps(entry))
    with pytest.raises(ArtifactError, match="it was changed since"):
        require(release, public(key))
    (release / SIGNATURES).unlink()


def test_files_that_hold_no_key_are_named(tmp_path, key, release, monkeypatch):
    nothing = tmp_path / "nothing.pub"
    for text in ("", "# none\n", "ssh-rsa AAAA me\n", "ssh-ed25519 AAAA me\n", "ssh-ed25519\n", "\x00\n"):
        nothing.write_text(text)
        with pytest.raises(DataError, match="no public key"):
            public_keys(nothing)
    nothing.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        public_keys(nothing)
    with pytest.raises(DataError, match="cannot be read"):
        public_keys(tmp_path / "away.pub")
    with pytest.raises(DataError, match="no private key"):
        sign(release, public(key))
    curve = ec.generate_private_key(ec.SECP256R1())
    nothing.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(DataError, match="not of kind ed25519"):
        sign(release, nothing)
    nothing.write_bytes(curve.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    with pytest.raises(DataError, match="ssh-ed25519"):
        public_keys(nothing)
    with pytest.raises(DataError, match="is there already"):
        new_key(key)
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    locked = other(key, "locked")
    assert sign(release, locked).name == "locked"
    with pytest.raises(DataError, match="has no passphrase"):
        sign(release, key)
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(DataError, match="no private key"):
        sign(release, locked)
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(DataError, match="the key has a passphrase"):
        sign(release, locked)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_openssh_are_keys(tmp_path, release):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "carol", "-f", str(tmp_path / "id")], check=True
    )
    signer = sign(release, tmp_path / "id")
    assert require(release, tmp_path / "id.pub").name == "carol"
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "id.pub")], check=True, capture_output=True, text=True
    ).stdout
    assert signer.fingerprint in said


def test_the_commands_say_it_with_an_exit_code(release, key, capsys):
    def code(*words: object) -> object:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        return stopped.value.code

    assert code("verify", release, "--signed-by", public(key)) == ArtifactError.exit_code
    assert "is not signed" in capsys.readouterr().err
    assert code("sign", release) == RecipeError.exit_code
    assert code("sign", release, "--key", key) == 0
    assert code("verify", release, "--signed-by", public(key)) == 0
    assert "whole and signed by alice (SHA256:" in capsys.readouterr().out
    assert code("sign", "--new-key", key.with_name("bob")) == 0
    assert capsys.readouterr().out == public(key.with_name("bob")).read_text()
    assert {"sign", "verify"} <= {
        command.name or command.callback.__name__ for command in app.registered_commands
    }


def test_a_server_asks_before_it_loads_and_whenever_it_loads_again(release, key):
    loaded: list[object] = []
    make = _signed(lambda metrics: loaded.append(metrics), public(key), release, None)
    with pytest.raises(ArtifactError, match="is not signed"):
        make(None)
    assert not loaded
    sign(release, key)
    make("first")
    (release / "model" / "weights.gguf").write_bytes(b"weighte")
    with pytest.raises(ArtifactError, match="is damaged"):
        make("again")
    assert loaded == ["first"]
    with pytest.raises(RecipeError, match="nobody can tell"):
        _signed(make, public(key), "http://127.0.0.1:9")(None)


def test_serve_refuses_what_is_not_signed(release, key, capsys):
    pytest.importorskip("uvicorn")
    for words in (
        ["--signed-by", str(public(key))],
        ["--signed-by", str(public(key)), "--beside", "http://127.0.0.1:9"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", str(release / "model" / "weights.gguf"), *words])
        assert stopped.value.code == ArtifactError.exit_code
        assert "is not signed" in capsys.readouterr().err


def test_a_candidate_needs_every_signature_that_is_asked_for(release, key):
    bob = other(key, "bob")
    raw = load_plan(PLAN).model_dump(mode="json")
    raw["arms"]["candidate"]["artifact"] = str(release)
    asks = plan_of(
        {
            **raw,
            "arms": {**raw["arms"], "candidate": {**raw["arms"]["candidate"], "signed_by": str(public(bob))}},
        }
    )
    folder = release.parent
    for plan, keys in ((plan_of(raw), public(key)), (asks, None)):
        for without_gates in (False, True):
            with pytest.raises(ArtifactError, match="is not signed"):
                candidate_of(plan, folder, without_gates, signed_by=keys)
    sign(release, key)
    assert candidate_of(plan_of(raw), folder, False, signed_by=public(key))["fingerprint"]
    with pytest.raises(ArtifactError, match="by no key in"):
        candidate_of(asks, folder, False, signed_by=public(key))
    sign(release, bob)
    assert candidate_of(asks, folder, False, signed_by=public(key))["fingerprint"]
    raw["arms"]["candidate"]["artifact"] = None
    with pytest.raises(RecipeError, match="nothing that could be signed"):
        candidate_of(plan_of(raw), folder, True, signed_by=public(key))

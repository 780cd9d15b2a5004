"""Who vouches for an artifact: Ed25519 signatures (RFC 8032) over its artifact.json, which holds the SHA-256 of every other file.

Keys are OpenSSH's, so that `ssh-keygen -t ed25519` makes them, agents of an organisation keep them, and a file of trusted keys is
a file of `ssh-ed25519 KEY NAME` lines. A signature lies in the artifact's folder and goes where it goes; several may.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trivium import files
from trivium.errors import ArtifactError, DataError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.record import RECORD, SIGNATURES
from trivium.pipeline.store import Store

LARGEST = 1 << 20
"""Bytes of a file of keys or signatures; a larger one is none."""
PASSPHRASE = "TRIVIUM_KEY_PASSPHRASE"
"""The environment variable that opens a private key which has a passphrase."""


@dataclass(frozen=True)
class PublicKey:
    """A key that somebody trusts, under the name that they gave it."""

    name: str
    key: Ed25519PublicKey

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return _fingerprint(_line(self.key))


def public_keys(path: Path) -> list[PublicKey]:
    """The keys in a file: a line each, `ssh-ed25519 KEY NAME`. DataError for a line that is none, or where there is none."""
    keys = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(maxsplit=2)
        try:
            if len(words) < 2 or words[0] != "ssh-ed25519":
                raise ValueError("its kind is not ssh-ed25519")
            key: Any = forms.load_ssh_public_key(" ".join(words[:2]).encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            fix = "a line is `ssh-ed25519 KEY NAME`, as in the .pub file that `trivium sign --new-key` or ssh-keygen writes"
            raise DataError(
                f"this is no public key: {error}", where=f"{path}, line {number}", fix=fix
            ) from None
        keys.append(PublicKey(words[2].strip() if len(words) == 3 else path.stem, key))
    if not keys:
        raise DataError("there is no public key in it", where=str(path), fix="trivium sign --new-key FILE")
    return keys


def new_key(path: Path) -> str:
    """Writes a private key to `path` (its owner alone may read it) and the public one to `path`.pub; returns that line."""
    public = path.with_name(path.name + ".pub")
    for file in (path, public):
        if file.exists():
            raise DataError(f"{file} is there already", where=str(file), fix="name another file")
    key = Ed25519PrivateKey.generate()
    word = os.environ.get(PASSPHRASE)
    locked = forms.BestAvailableEncryption(word.encode()) if word else forms.NoEncryption()
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, locked)
    line = f"{_line(key.public_key())} {path.stem}"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.append_private(path)
    files.append_line(path, private.decode().rstrip("\n"), sync=True)
    files.write_text(public, line + "\n")
    return line


def sign(folder: Path, key: Path) -> PublicKey:
    """Signs the artifact in a folder, once it was found to be whole. Signing again changes nothing.

    ArtifactError for a folder that is no artifact or a damaged one; DataError for a key that cannot be read.
    """
    private = _private(key)
    artifact, manifest = _whole(folder)
    public = PublicKey(key.stem, private.public_key())
    known = _line(public.key)
    path = artifact.path / SIGNATURES
    before = _signatures(path) if path.exists() else []
    signature = base64.b64encode(private.sign(manifest)).decode()
    rest = [one for one in before if one.get("key") != known]
    lines = [json.dumps(one) for one in [*rest, {"key": known, "signature": signature}]]
    files.write_text(path, "\n".join(lines) + "\n")
    return public


def require(where: Path, trusted: Path) -> PublicKey:
    """The key of `trusted` (a file of public keys) that signed the artifact to which a file or folder belongs, every byte of it.

    ArtifactError, which says which of these it is: no artifact, a file of it changed, its manifest changed, not signed, or signed
    by others only.
    """
    keys = public_keys(trusted)
    artifact, manifest = _whole(where)
    path = artifact.path / SIGNATURES
    if not path.exists():
        raise ArtifactError(f"{where} is not signed", where=str(artifact.path), fix=_fix(trusted))
    known = {_line(one.key): one for one in keys}
    others, broken = [], []
    for entry in _signatures(path):
        signer = known.get(str(entry.get("key")))
        if signer is None:
            others.append(_fingerprint(str(entry.get("key"))))
        elif _holds(signer.key, entry, manifest):
            return signer
        else:
            broken.append(f"{signer.name} ({signer.fingerprint})")
    if broken:
        what = f"{RECORD} of {where} is not what {broken[0]} signed: it was changed since"
    else:
        names = ", ".join(f"{one.name} ({one.fingerprint})" for one in keys)
        what = f"{where} is signed by {', '.join(others) or 'nobody'}, and by no key in {trusted}: {names}"
    raise ArtifactError(what, where=str(path), fix=_fix(trusted))


def _whole(where: Path) -> tuple[Artifact, bytes]:
    """The artifact that holds a file or folder, every file checked against the bytes of its manifest, which come with it."""
    path = where.resolve()
    for folder in (path, *path.parents):
        if (folder / RECORD).is_file():
            break
    else:
        raise ArtifactError(
            f"{where} belongs to no artifact, so nobody can have signed it",
            where=str(where),
            fix="name the folder of a stage, such as runs/RECIPE/release, or a file in it",
        )
    manifest = (folder / RECORD).read_bytes()
    artifact = Store(folder.parent.parent).open(folder)
    if json.loads(manifest) != artifact.record:
        raise ArtifactError("it changed while it was read", where=str(folder), fix="try again")
    return artifact, manifest


def _signatures(path: Path) -> list[dict[str, Any]]:
    try:
        entries = [json.loads(line) for line in _text(path).split("\n") if line.strip()]
    except (ValueError, RecursionError):
        entries = [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ArtifactError("this is no file of signatures", where=str(path), fix="delete it, and sign again")
    return entries


def _holds(key: Ed25519PublicKey, entry: dict[str, Any], manifest: bytes) -> bool:
    try:
        key.verify(base64.b64decode(str(entry.get("signature")), validate=True), manifest)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _private(path: Path) -> Ed25519PrivateKey:
    word = os.environ.get(PASSPHRASE)
    fix = "name the private key: the file without .pub, of kind ed25519, in OpenSSH's format"
    try:
        key: Any = forms.load_ssh_private_key(_text(path).encode(), word.encode() if word else None)
    except TypeError:
        fix = f"set {PASSPHRASE} to it" if not word else f"unset {PASSPHRASE}"
        raise DataError(f"the key has {'no' if word else 'a'} passphrase", where=str(path), fix=fix) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(f"this is no private key: {error}", where=str(path), fix=fix) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError("the key is not of kind ed25519", where=str(path), fix=fix)
    return key


def _line(key: Ed25519PublicKey) -> str:
    """`ssh-ed25519 KEY`, without a name: what two equal keys have in common."""
    return key.public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH).decode()


def _fingerprint(line: str) -> str:
    try:
        blob = base64.b64decode(line.split()[1], validate=True)
    except (IndexError, ValueError):
        return "an unreadable key"
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"it has more than {LARGEST:,} bytes", where=str(path), fix="name another file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"it cannot be read: {error}", where=str(path), fix="name another file") from None


def _fix(trusted: Path) -> str:
    return (
        f"trivium sign ARTIFACT --key KEY, with a key whose public part stands in {trusted}; or do not use it"
    )

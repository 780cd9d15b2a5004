"""The content-addressed store: finished artifacts by fingerprint, checked whenever they are read.

ROOT/artifacts/FINGERPRINT/      finished, never changed again
ROOT/building/FINGERPRINT/       being filled by a running stage; emptied by the next try
ROOT/work/FINGERPRINT/           a stage's scratch: survives a kill and is handed to the next try
ROOT/last_state/FINGERPRINT/     what a training stage's last step left, to be trained on; safe to delete
ROOT/tokens/KEY/                 token shards of a data artifact under a tokenizer, shared by stages; safe to delete
ROOT/index/KEY/                  suffix arrays over such shards, for `trivium trace`; safe to delete
ROOT/locks/FINGERPRINT.lock      held while a stage runs; freed when the process ends, however it ends
ROOT/locks/put.lock              held for the moment in which a filled folder moves in
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trivium import files
from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import fingerprint as fingerprint_of
from trivium.pipeline.going_on import LAST

RECORD = "artifact.json"
SIGNATURES = "signatures.jsonl"
"""The one file that may be added to a finished artifact: who vouches for it (see `trivium.pipeline.signatures`)."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class Store:
    """Artifacts under one root folder, safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[
            Path, tuple[str, int, int]
        ] = {}  # file -> (checksum, size, mtime) seen by this process

    def path(self, fingerprint: str) -> Path:
        return self.root / "artifacts" / fingerprint

    def work(self, fingerprint: str) -> Path:
        """The stage's scratch folder (it may not exist)."""
        return self.root / "work" / fingerprint

    @property
    def last_states(self) -> Path:
        """What the last steps of finished training stages left, by fingerprint."""
        return self.root / LAST

    def resumes(self, fingerprint: str) -> bool:
        """Whether an earlier try left work to go on from."""
        return any(self.work(fingerprint).glob("*"))

    def has(self, fingerprint: str) -> bool:
        """Whether the artifact is there, unchecked: for plans. `get` is for use."""
        return (self.path(fingerprint) / RECORD).is_file()

    def get(self, fingerprint: str) -> Artifact | None:
        """The artifact, every file checked, or None if it was never made. ArtifactError if it is damaged."""
        path = self.path(fingerprint)
        if not path.is_dir():
            return None
        artifact = self.open(path)
        if artifact.fingerprint != fingerprint:
            raise _damaged(path, f"{path / RECORD} belongs to another artifact: {artifact.fingerprint}")
        return artifact

    def open(self, path: Path) -> Artifact:
        """The artifact in any folder (or behind a link), checked. ArtifactError if it is damaged."""
        path = path.resolve()
        artifact = read(path)
        expected: dict[str, str] = artifact.record["files"]
        present = {
            str(file.relative_to(path).as_posix()) for file in path.rglob("*") if not file.is_dir()
        } - {RECORD, SIGNATURES}
        if missing := sorted(set(expected) - present):
            raise _damaged(path, f"{path / missing[0]} is missing from its artifact")
        if extra := sorted(present - set(expected)):
            raise _damaged(path, f"{path / extra[0]} does not belong to its artifact", move=extra[0])
        for name, checksum in expected.items():
            self._verify(path, name, checksum)
        return artifact

    def _verify(self, path: Path, name: str, expected: str) -> None:
        file = path / name
        stat = file.stat()
        seen = (expected, stat.st_size, stat.st_mtime_ns)
        if self._verified.get(file) == seen:
            return
        actual = files.sha256(file)
        if actual != expected:
            raise _damaged(
                path, f"{file} is damaged: its SHA-256 is {actual}, the artifact was made with {expected}"
            )
        self._verified[file] = seen

    @contextlib.contextmanager
    def lock(self, fingerprint: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Held by one process at a time; calls `on_wait` once if another one has it."""
        with writing(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / f"{fingerprint}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def building(self, fingerprint: str) -> Iterator[tuple[Path, Path]]:
        """(out, work) for a stage, under its lock. `out` starts empty and goes afterwards; `work` stays."""
        out, work = self.root / "building" / fingerprint, self.work(fingerprint)
        with writing(self.root):
            shutil.rmtree(out, ignore_errors=True)  # what a killed run left
            out.mkdir(parents=True)
            work.mkdir(parents=True, exist_ok=True)
        try:
            yield out, work
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def put(self, out: Path, record: dict[str, Any]) -> Artifact:
        """Moves a filled folder into the store, drops the scratch. `record` gains `files` and `sha256`."""
        identity, fingerprint = record["identity"], str(record["fingerprint"])
        if fingerprint_of(identity) != fingerprint:
            raise ValueError("the fingerprint is not the one of the identity")
        if any((out / name).exists() for name in (RECORD, SIGNATURES)) or any(
            file.is_symlink() for file in out.rglob("*")
        ):
            raise ValueError(f"a stage may write neither {RECORD} nor {SIGNATURES} nor links")
        with writing(self.root):
            names = sorted(file for file in out.rglob("*") if file.is_file())
            record = _finite(
                {**record, "files": {str(f.relative_to(out).as_posix()): files.sha256(f) for f in names}}
            )
            record["sha256"] = _record_checksum(record)
            files.write_json(out / RECORD, record)  # before anything moves: a full disk is met here
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "locks" / "put.lock"):
                # Whoever fills a temporary folder here holds this lock: what lies there was left by a kill.
                for leftover in (self.root / "artifacts").glob(f"{files.TEMPORARY}*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                with files.atomic_folder(self.path(fingerprint)) as temporary:
                    for entry in sorted(out.iterdir()):
                        entry.rename(temporary / entry.name)
            if (last := self.work(fingerprint) / LAST).is_dir():
                shutil.rmtree(self.last_states / fingerprint, ignore_errors=True)
                self.last_states.mkdir(exist_ok=True)
                last.rename(self.last_states / fingerprint)
            for work in (self.root / "work").glob("*"):
                if self.has(work.name):  # this one's, and any that a kill left after its artifact was stored
                    shutil.rmtree(work, ignore_errors=True)
        artifact = self.get(fingerprint)
        assert artifact is not None
        return artifact

    def find(self, where: str | Path) -> Path:
        """The folder that a path, a link, a fingerprint or the start of one names. ArtifactError if none."""
        if (Path(where) / RECORD).is_file():
            return Path(where).resolve()
        text = str(where)
        found = sorted((self.root / "artifacts").glob(f"{text}*")) if text.isalnum() else []
        if len(found) == 1:
            return found[0].resolve()
        problem = (
            f"{len(found)} artifacts begin with {text!r}" if found else f"there is no artifact at {text!r}"
        )
        raise ArtifactError(
            problem,
            where=f"store {self.root}",
            fix="give a folder such as runs/RECIPE/STAGE, or (the start of) one fingerprint",
        )

    def link(self, artifact: Artifact, link: Path) -> None:
        """Points `link` at the artifact, replacing an older link in one step."""
        target = artifact.path.resolve()
        with writing(link.parent):
            link.parent.mkdir(parents=True, exist_ok=True)
            folder = link.parent.resolve()
            try:
                text = os.path.relpath(target, folder)  # relative: the folders can be moved together
            except ValueError:  # another drive
                text = str(target)
            if link.is_symlink() and str(link.readlink()) == text:
                return
            if link.exists() and not link.is_symlink():
                raise TriviumError(
                    f"{link} is in the way of a link to an artifact",
                    where=str(link),
                    fix="move it somewhere else",
                )
            temporary = folder / f"{files.TEMPORARY}{link.name}-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(text, target_is_directory=True)
            temporary.replace(link)


def read(path: Path) -> Artifact:
    """An artifact's record, checked in itself; the other files are not. ArtifactError if damaged."""
    file = path / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _damaged(path, f"{file} is missing, so {path} is no whole artifact") from None
    except ValueError as error:
        raise _damaged(path, f"{file} is damaged: {error}") from None
    if not isinstance(record, dict) or "sha256" not in record:
        raise _damaged(path, f"{file} is no artifact record")
    actual = _record_checksum(record)
    if actual != record["sha256"]:
        raise _damaged(
            path, f"{file} is damaged: its SHA-256 is {actual}, it was made with {record['sha256']}"
        )
    return Artifact(path, record)


def previous(link: Path) -> Artifact | None:
    """What a readable link points at, or None if it leads nowhere that can be read."""
    try:
        return read(link.resolve())
    except (ArtifactError, OSError):
        return None


def disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is what an error comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def full(where: Path | str) -> TriviumError:
    return TriviumError(
        "the disk is full; nothing was lost: finished stages are stored, and the work of this one is kept",
        where=str(where),
        fix="free some space and run the same command again: it goes on where it stopped",
    )


@contextlib.contextmanager
def writing(where: Path) -> Iterator[None]:
    """Says a full or read-only disk in words."""
    try:
        yield
    except OSError as error:
        if disk_full(error):
            raise full(where) from error
        if error.errno in _CLOSED:
            raise TriviumError(
                f"cannot write to {error.filename or where}: {error.strerror}",
                where=str(where),
                fix="make the folder writable, or name another one",
            ) from error
        raise


def _damaged(path: Path, what: str, move: str = "") -> ArtifactError:
    fix = f"move {move} out of it, or " if move else ""
    return ArtifactError(
        what,
        where=str(path),
        fix=f"{fix}delete the artifact's folder and run the recipe again: the stage is made anew",
    )


def _record_checksum(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(files.canonical_json(rest).encode()).hexdigest()


def _finite(value: Any) -> Any:
    """JSON has no NaN: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The content-addressed store: finished artifacts by fingerprint, checked whenever they are read.

ROOT/artifacts/FINGERPRINT/      finished, never changed again
ROOT/building/FINGERPRINT/       being filled by a running stage; emptied by the next try
ROOT/work/FINGERPRINT/           a stage's scratch: survives a kill and is handed to the next try
ROOT/last_state/FINGERPRINT/     what a training stage's last step left, to be trained on; safe to delete
ROOT/tokens/KEY/                 token shards of a data artifact under a tokenizer, shared by stages; safe to delete
ROOT/index/KEY/                  suffix arrays over such shards, for `trivium trace`; safe to delete
ROOT/locks/FINGERPRINT.lock      held while a stage runs; freed when the process ends, however it ends
ROOT/locks/put.lock              held for the moment in which a filled folder moves in

With a URL (`opened`) several machines share what is finished. Stages write into and read from the folder all the same: it is a
cache, which brings an artifact when it is wanted and pushes what was made. ROOT/peek/FINGERPRINT/ holds records of artifacts
that were only looked at, and the small files beside them; safe to delete.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trivium import files
from trivium.errors import ArtifactError, RecipeError, TriviumError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import fingerprint as fingerprint_of
from trivium.pipeline.going_on import LAST
from trivium.pipeline.lease import Lease
from trivium.pipeline.record import RECORD, SIGNATURES, damaged, finite, read, record_checksum, writing
from trivium.pipeline.remote import LOGS, SIGNED, Remote, unsafe

CACHE = "TRIVIUM_CACHE"
"""The environment variable that names the folder in front of a store at a URL."""


class Store:
    """Artifacts under one root folder, safe to use from several processes at once; with `remote`, from several machines."""

    def __init__(self, root: Path, remote: Remote | None = None) -> None:
        self.root, self.remote = root, remote
        self.tell: Callable[[str], None] = lambda message: None
        """Hears what is brought and pushed."""
        self._leases: dict[str, Lease] = {}
        self._verified: dict[
            Path, tuple[str, int, int]
        ] = {}  # file -> (checksum, size, mtime) seen by this process

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self.root) if self.remote is None else self.remote.url

    def path(self, fingerprint: str) -> Path:
        """Where the artifact's folder is, or would be: see `fetch`."""
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
        return self.here(fingerprint) or (self.remote is not None and self.remote.has(fingerprint))

    def here(self, fingerprint: str) -> bool:
        """Whether the artifact lies in the folder."""
        return (self.path(fingerprint) / RECORD).is_file()

    def get(self, fingerprint: str) -> Artifact | None:
        """The artifact, every file checked, or None if it was never made. ArtifactError if it is damaged."""
        path = self.path(fingerprint)
        if not path.is_dir() and self.fetch(fingerprint) is None:
            return None
        artifact = self.open(path)
        if artifact.fingerprint != fingerprint:
            raise damaged(path, f"{path / RECORD} belongs to another artifact: {artifact.fingerprint}")
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
            raise damaged(path, f"{path / missing[0]} is missing from its artifact")
        if extra := sorted(present - set(expected)):
            raise damaged(path, f"{path / extra[0]} does not belong to its artifact", move=extra[0])
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
            raise damaged(
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
            if self.remote is None:
                yield
                return
            with self.remote.lease(fingerprint, on_wait) as self._leases[fingerprint]:
                yield
        finally:
            self._leases.pop(fingerprint, None)
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
            record = finite(
                {**record, "files": {str(f.relative_to(out).as_posix()): files.sha256(f) for f in names}}
            )
            record["sha256"] = record_checksum(record)
            files.write_json(out / RECORD, record)  # before anything moves: a full disk is met here
            self._move_in(out, fingerprint)
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

    def _move_in(self, folder: Path, fingerprint: str) -> None:
        """What a finished folder holds becomes the artifact."""
        (self.root / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "locks" / "put.lock"):
            # Whoever fills a temporary folder here holds this lock: what lies there was left by a kill.
            for leftover in (self.root / "artifacts").glob(f"{files.TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            with files.atomic_folder(self.path(fingerprint)) as temporary:
                for entry in sorted(folder.iterdir()):
                    entry.rename(temporary / entry.name)

    def fetch(self, fingerprint: str) -> Path | None:
        """The artifact's folder, brought here first where only the remote has it; None where nobody does.

        What was brought is checked against its checksums. A fetch that was cut short goes on.
        """
        if self.here(fingerprint):
            return self.path(fingerprint)
        if self.remote is None or (manifest := self.remote.manifest(fingerprint)) is None:
            return None
        name = f"fetch-{fingerprint}"
        folder = self.root / "building" / name
        with writing(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / "locks" / f"{name}.lock"):
                if self.here(fingerprint):  # another process was first
                    return self.path(fingerprint)
                artifact = self._received(folder, manifest, fingerprint)
                size = self.remote.fetch(artifact.record["files"], folder)
                self.remote.sync_file(f"{SIGNED}/{fingerprint}", folder / SIGNATURES)
                self._move_in(folder, fingerprint)
                shutil.rmtree(folder, ignore_errors=True)
                self.tell(
                    f"{artifact.stage} ({fingerprint[:12]}) was brought from {self.place}: {size:,} bytes"
                )
        return self.path(fingerprint)

    def _received(self, folder: Path, manifest: bytes, fingerprint: str) -> Artifact:
        """A manifest from elsewhere, written into a folder and looked through: it decides what is written where."""
        files.write_bytes(folder / RECORD, manifest)
        artifact = read(folder)
        if artifact.fingerprint != fingerprint or fingerprint_of(artifact.record["identity"]) != fingerprint:
            raise damaged(folder, f"the manifest of {fingerprint} at {self.place} is another artifact's")
        if bad := next(unsafe(artifact.record["files"]), None):
            raise damaged(
                folder,
                f"the manifest of {fingerprint} at {self.place} has a file that no artifact has: {bad!r}",
            )
        return artifact

    def seen(self, fingerprint: str) -> Artifact | None:
        """The record of an artifact as the remote has it; None where it has none."""
        if self.remote is None or (manifest := self.remote.manifest(fingerprint)) is None:
            return None
        return self._received(self.root / "peek" / fingerprint, manifest, fingerprint)

    def peek(self, fingerprint: str, *names: str) -> Artifact | None:
        """An artifact's record, and of its files those `names` that it has; None where nobody has it.

        Of what only the remote has, no more than that is brought. The record is checked; files are, if they are brought.
        """
        if self.here(fingerprint):
            return read(self.path(fingerprint))
        with writing(self.root):
            artifact = self.seen(fingerprint)
            if artifact is not None and self.remote is not None:
                sums = artifact.record["files"]
                self.remote.fetch({name: sums[name] for name in names if name in sums}, artifact.path)
        return artifact

    def fingerprints(self) -> list[str]:
        """Of all artifacts that there are, here or elsewhere."""
        found = {path.name for path in (self.root / "artifacts").glob("*") if self.here(path.name)}
        return sorted(found | set(self.remote.fingerprints() if self.remote is not None else ()))

    def share(self, artifact: Artifact, on_wait: Callable[[], None] = lambda: None) -> Artifact:
        """Gives a finished artifact to the other machines; nothing to do for a store that is a folder.

        What is there first is the artifact: where another machine's differs (in when it was made, say), that one is taken
        in its place. A push that fails or is killed leaves nothing to be seen there, and the artifact here.
        """
        if self.remote is None:
            return artifact
        fingerprint, here = artifact.fingerprint, (artifact.path / RECORD).read_bytes()
        there = self.remote.manifest(fingerprint)
        if there is None:
            if fingerprint not in self._leases:
                with self.lock(fingerprint, on_wait):
                    return self.share(artifact)
            sent = self.remote.push(
                artifact.path, artifact.record["files"], here, fingerprint, self._leases[fingerprint]
            )
            there = here if sent is not None else self.remote.manifest(fingerprint)
            if sent:
                self.tell(f"{artifact.stage} ({fingerprint[:12]}) was pushed to {self.place}: {sent:,} bytes")
        if there is not None and there != here:
            return self._replace(artifact)
        self.remote.sync_file(f"{SIGNED}/{fingerprint}", artifact.path / SIGNATURES)
        return artifact

    def _replace(self, artifact: Artifact) -> Artifact:
        """Takes the remote's artifact in the place of ours."""
        away = self.root / "building" / f"{files.TEMPORARY}{artifact.fingerprint}-{os.getpid()}"
        with writing(self.root):
            away.parent.mkdir(parents=True, exist_ok=True)
            artifact.path.rename(away)
        try:
            if self.fetch(artifact.fingerprint) is None:
                raise damaged(
                    artifact.path, f"{artifact.fingerprint} went from {self.place} while it was looked at"
                )
        except BaseException:
            away.rename(artifact.path)
            raise
        shutil.rmtree(away, ignore_errors=True)
        theirs = self.get(artifact.fingerprint)
        assert theirs is not None
        return theirs

    def lines(self, name: str) -> list[str]:
        """A log that belongs to the store, line by line; with the lines of all machines."""
        path = self.root / name
        if self.remote is not None:
            self.remote.sync_file(f"{LOGS}/{name}", path)
        return files.lines(path) if path.is_file() else []

    def append(self, name: str, line: str) -> None:
        """Adds a line to such a log, here and, with a remote, there."""
        files.append(self.root / name, line)
        self.lines(name)

    def find(self, where: str | Path) -> Path:
        """The folder that a path, a link, a fingerprint or the start of one names; with a remote also RECIPE/STAGE of a machine's
        run, the newest. It is brought here. ArtifactError if there is none."""
        if (Path(where) / RECORD).is_file():
            return Path(where).resolve()
        return self.fetched(self._named(str(where)))

    def fetched(self, fingerprint: str) -> Path:
        """As `fetch`. ArtifactError where nobody has it."""
        path = self.fetch(fingerprint)
        if path is None:
            raise ArtifactError(
                f"the artifact {fingerprint} is gone", where=f"store {self.place}", fix="run its recipe again"
            )
        return path.resolve()

    def look(self, where: str | Path, *names: str) -> Artifact:
        """What `find` would find, as `peek` gives it. ArtifactError if there is none."""
        if (Path(where) / RECORD).is_file():
            return read(Path(where).resolve())
        artifact = self.peek(self._named(str(where)), *names)
        return read(self.fetched(self._named(str(where)))) if artifact is None else artifact

    def whole(self, artifact: Artifact) -> Path:
        """The folder with all files of an artifact that may only have been looked at."""
        looked_at = artifact.path == self.root / "peek" / artifact.fingerprint
        return self.fetched(artifact.fingerprint) if looked_at else artifact.path

    def _named(self, text: str) -> str:
        found = [one for one in self.fingerprints() if one.startswith(text)] if text.isalnum() else []
        if self.remote is not None and not found and re.fullmatch(r"[^/]+/[^/]+", text):
            newest = sorted(
                (about.written, fingerprint)
                for name, (fingerprint, about) in self.remote.standing().items()
                if name.partition("/")[2] == text
            )
            found = [fingerprint for _, fingerprint in newest[-1:]]
        if len(found) == 1:
            return found[0]
        problem = (
            f"{len(found)} artifacts begin with {text!r}" if found else f"there is no artifact at {text!r}"
        )
        raise ArtifactError(
            problem,
            where=f"store {self.place}",
            fix="give a folder such as runs/RECIPE/STAGE, or (the start of) one fingerprint",
        )

    def link(self, artifact: Artifact, link: Path) -> None:
        """Points `link` at the artifact, replacing an older link in one step; with a remote, all machines hear of it."""
        self._link(artifact, link)
        if self.remote is not None:
            self.remote.stand(link, artifact.fingerprint)

    def _link(self, artifact: Artifact, link: Path) -> None:
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


def opened(where: str | Path) -> Store:
    """The store at a folder, or at an fsspec URL with the folder TRIVIUM_CACHE (.trivium if nobody says otherwise) in front."""
    text = str(where)
    if re.match(r"[a-z][a-z0-9+]*:/[^/]", text):
        raise RecipeError(f"--store {text} is no URL", fix=f"write {text.replace(':/', '://', 1)}")
    if "://" not in text:
        return Store(Path(text))
    return Store(Path(os.environ.get(CACHE) or ".trivium"), Remote(text))

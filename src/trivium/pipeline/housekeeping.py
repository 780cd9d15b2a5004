"""What a store holds, what of it the runs still stand on, and what may go.

Reachable is what a link in a run's folder points at, and everything that was made from: inputs, their inputs, down to the data.
Work that a stopped stage left is what it goes on from, so it goes only when asked for. Nothing goes while a stage runs here: what
it reads is known to that process alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trivium import files
from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.record import read
from trivium.pipeline.store import Store

PUT = "put"
"""The lock that is held for a moment only."""
PARTS = {
    "artifacts": "artifacts",
    "tokens": "token shards (made again by themselves)",
    "read": "what data stages read, for other mixes of it (read again by themselves)",
    "index": "indexes of traces (made again by themselves)",
    "last_state": "optimizer states, to train on from",
    "work": "work of stopped stages",
    "peek": "records of artifacts that lie elsewhere (brought again by themselves)",
    "building": "left by kills",
    "uploads": "uploads that a stopped push goes on from",
}
"""Folder of a store -> what lies there."""
SHARDS = ("tokens", "index")
"""Parts whose folders are called by a data artifact and a tokenizer (`trivium.corpus.shards.place`)."""


@dataclass(frozen=True)
class Entry:
    """One folder of a store."""

    path: Path
    part: str
    """One of PARTS."""
    bytes: int
    reachable: bool
    record: dict[str, Any] | None = None
    """Of an artifact; None where it cannot be read."""
    links: tuple[str, ...] = ()
    """RUN/STAGE, of an artifact that a run's folder points at itself."""

    def as_dict(self) -> dict[str, Any]:
        known = {key: (self.record or {}).get(key) for key in ("kind", "stage", "recipe", "created")}
        return {
            "part": self.part,
            "name": self.path.name,
            **(known if self.part == "artifacts" else {}),
            "bytes": self.bytes,
            "reachable": self.reachable,
            **({"links": list(self.links)} if self.part == "artifacts" else {}),
        }


class Inventory:
    """A look at a store and the runs' folders that may point into it. Nothing is changed."""

    def __init__(self, store: Store, runs: Iterable[Path]) -> None:
        self.store, self.runs = store, tuple(runs)
        if not (store.root / "artifacts").is_dir():
            raise ArtifactError(
                f"there is no store at {store.root}",
                where=str(store.root),
                fix="name one with --store; a run makes .trivium beside the recipe it is started from",
            )

    @cached_property
    def links(self) -> dict[str, list[str]]:
        """Fingerprint -> RUN/STAGE of the links that lead to it."""
        found: dict[str, list[str]] = {}
        root = (self.store.root / "artifacts").resolve()
        for folder in self.runs:
            for link in sorted(folder.glob("*/*")):
                if link.is_symlink() and link.resolve().parent == root:
                    found.setdefault(link.resolve().name, []).append(f"{link.parent.name}/{link.name}")
        return found

    @cached_property
    def records(self) -> dict[str, Artifact | None]:
        """All artifacts; None for one whose record is damaged."""
        return {path.name: _readable(path) for path in _folders(self.store.root / "artifacts")}

    @cached_property
    def reachable(self) -> set[str]:
        """Fingerprints that a run stands on."""
        found: set[str] = set()
        queue = list(self.links)
        while queue:
            fingerprint = queue.pop()
            artifact = self.records.get(fingerprint)
            if fingerprint not in found:
                found.add(fingerprint)
                queue += [] if artifact is None else artifact.inputs.values()
        return found

    @cached_property
    def _token_folders(self) -> set[str]:
        """Names of the token shards that reachable data and reachable tokenizers give together."""
        from trivium.corpus.shards import place
        from trivium.text.chat import ChatTokenizer

        kept = [artifact for name in self.reachable if (artifact := self.records.get(name)) is not None]
        data = [artifact.fingerprint for artifact in kept if artifact.kind in ("data", "synthesize")]
        tokenizers = {
            str(artifact.record["files"]["tokenizer.json"]): artifact.path
            for artifact in kept
            if "tokenizer.json" in artifact.record["files"]
        }
        loaded = [ChatTokenizer.load(path) for path in tokenizers.values()]
        return {place(Path(), fingerprint, chat).name for fingerprint in data for chat in loaded}

    def entries(self) -> Iterator[Entry]:
        """Every folder, by part and name."""
        root = self.store.root
        for path in _folders(root / "artifacts"):
            artifact = self.records[path.name]
            yield Entry(
                path,
                "artifacts",
                files.folder_size(path),
                path.name in self.reachable,
                None if artifact is None else artifact.record,
                tuple(self.links.get(path.name, ())),
            )
        for path in _folders(root / "last_state"):
            yield Entry(path, "last_state", files.folder_size(path), path.name in self.reachable)
        for part in SHARDS:
            for path in _folders(root / part):
                yield Entry(path, part, files.folder_size(path), path.name in self._token_folders)
        for part in ("read", "work", "peek", "building"):
            for path in _folders(root / part):
                yield Entry(path, part, files.folder_size(path), False)

    def running(self) -> list[str]:
        """Fingerprints of stages that some process is making now."""
        found = []
        for file in sorted((self.store.root / "locks").glob("*.lock")):
            lock = FileLock(file)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if file.stem != PUT:
                    found.append(file.stem)
            else:
                lock.release()
        return found

    def refuse_running(self) -> None:
        """TriviumError while a stage runs in this store."""
        if running := self.running():
            raise TriviumError(
                f"a stage is running in this store ({running[0][:12]}): what it needs is not known here",
                where=self.store.place,
                fix="run this again when it has ended",
            )

    def verify(self) -> Iterator[tuple[str, Path, str]]:
        """(part, folder, what is wrong or "") of every artifact, token shard and index, each file of it read and its SHA-256
        compared. Of what is being made, what is there."""
        for part, check in CHECKED.items():
            for path in _folders(self.store.root / part):
                try:
                    check(self.store, path)
                except (ArtifactError, OSError) as error:
                    wrong = error.what if isinstance(error, ArtifactError) else str(error)
                    where = getattr(error, "where", "")
                    yield part, path, wrong if not where or where in wrong else f"{wrong}: {where}"
                else:
                    yield part, path, ""

    def free(self, entry: Entry) -> bool:
        """Whether nobody makes something there now."""
        with files.unused(entry.path) as free:
            return free

    def delete(self, entries: Iterable[Entry]) -> int:
        """Deletes `entries` and gives the bytes. TriviumError, and nothing deleted, while a stage runs in this store.

        A folder is renamed before it is emptied, so that a kill leaves no half artifact under its name.
        """
        self.refuse_running()
        gone = [entry for entry in entries if _remove(entry.path)]
        for part in PARTS:
            for leftover in (self.store.root / part).glob(f"{files.TEMPORARY}gone-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return sum(entry.bytes for entry in gone)

    def drop(self, part: str, name: str) -> None:
        """Takes a damaged folder away: the next run brings it, or makes it anew."""
        self.refuse_running()
        _remove(self.store.root / part / name)


def verify(inventory: Inventory) -> Iterator[tuple[str, Path, str]]:
    """What `Inventory.verify` says."""
    return inventory.verify()


def _check_shards(store: Store, path: Path) -> None:
    from trivium.corpus.shards import open_shards

    for last in path.glob("*/shards.json"):
        open_shards(last.parent)


def _check_index(store: Store, path: Path) -> None:
    from trivium.trace import index, near, texts

    for folder in _folders(path):
        index.check(folder)
        if (folder / "texts" / texts.RECORD).exists():
            texts.check(folder / "texts")
        if (folder / "near" / "near.json").exists():
            near.Near(folder / "near")


CHECKED: dict[str, Callable[[Store, Path], Any]] = {
    "artifacts": lambda store, path: store.get(path.name),
    "tokens": _check_shards,
    "index": _check_index,
}
"""Part -> what reads a folder of it; ArtifactError where it is damaged."""


def collectable(inventory: Inventory, *, stopped: bool = False, cache: bool = False) -> list[Entry]:
    """What no run stands on. With `stopped` also the work of stopped stages, with `cache` also what is made again by itself.
    What is being made now, by whatever command, stays."""
    running = set(inventory.running())

    def goes(entry: Entry) -> bool:
        if entry.part in ("work", "building", "uploads"):
            return (stopped or entry.part == "building") and entry.path.name not in running
        if entry.reachable and not (cache and entry.part in (*SHARDS, "last_state")):
            return False
        return inventory.free(entry)

    return [entry for entry in inventory.entries() if goes(entry)]


def collect(inventory: Inventory, entries: Iterable[Entry]) -> int:
    """Deletes what `collectable` gave, and gives the bytes; see `Inventory.delete`."""
    return inventory.delete(entries)


def _remove(folder: Path) -> bool:
    """Deletes a folder, unless somebody has begun to make something there since it was listed; whether it went."""
    away = folder.with_name(f"{files.TEMPORARY}gone-{folder.name}-{os.getpid()}")
    with files.unused(folder) as free:
        if not free:
            return False
        folder.rename(away)
    shutil.rmtree(away)
    return True


def _folders(parent: Path) -> list[Path]:
    return sorted(
        path for path in parent.glob("*") if path.is_dir() and not path.name.startswith(files.TEMPORARY)
    )


def _readable(path: Path) -> Artifact | None:
    try:
        return read(path)
    except (ArtifactError, OSError):
        return None

"""The inventory of a store at a URL: what all machines stand on, what lies there, and what of it may go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from trivium.errors import ArtifactError, TriviumError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.housekeeping import Entry, Inventory
from trivium.pipeline.lease import SWEEP, Lease, running
from trivium.pipeline.objects import Found
from trivium.pipeline.remote import AT_ONCE, Remote, machine
from trivium.pipeline.store import Store


class SharedInventory(Inventory):
    """As `Inventory`, of what lies at the URL. The folder in front of it is an inventory of its own (`--store .trivium`)."""

    def __init__(self, store: Store, runs: Iterable[Path]) -> None:
        assert store.remote is not None
        self.store, self.runs = store, tuple(runs)
        self.remote: Remote = store.remote
        if not self.fingerprints and not self.remote.standing():
            raise ArtifactError(
                f"there is no store at {store.place}, or nothing in it",
                where=store.place,
                fix="a run with this --store puts what it makes there",
            )

    @cached_property
    def fingerprints(self) -> list[str]:
        return self.remote.fingerprints()

    @cached_property
    def links(self) -> dict[str, list[str]]:
        """Fingerprint -> RECIPE/STAGE of the links of all machines; of these runs' folders, those that are there still."""
        found: dict[str, list[str]] = {}
        for name, (fingerprint, _) in self.remote.standing().items():
            if name not in self.broken:
                found.setdefault(fingerprint, []).append(name.partition("/")[2])
        return found

    @cached_property
    def broken(self) -> list[str]:
        """Links of these runs' folders that were told of and are gone since: MACHINE/RECIPE/STAGE."""
        ours = {machine(folder): folder for folder in self.runs if folder.is_dir()}
        return [
            name
            for name in self.remote.standing()
            if (parts := name.split("/"))[0] in ours
            and not (ours[parts[0]] / "/".join(parts[1:])).is_symlink()
        ]

    @cached_property
    def records(self) -> dict[str, Artifact | None]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(self.fingerprints, pool.map(self._record, self.fingerprints), strict=True))

    def _record(self, fingerprint: str) -> Artifact | None:
        try:
            return self.store.seen(fingerprint)
        except ArtifactError:
            return None

    @cached_property
    def objects(self) -> dict[str, Found]:
        return self.remote.stored()

    def _sums(self, fingerprint: str) -> set[str]:
        artifact = self.records.get(fingerprint)
        return set() if artifact is None else set(artifact.record["files"].values())

    @cached_property
    def _named(self) -> Counter[str]:
        """SHA-256 -> how many artifacts have such a file."""
        return Counter(checksum for one in self.fingerprints for checksum in self._sums(one))

    def _size(self, checksums: Iterable[str]) -> int:
        return sum(self.objects[one].size for one in checksums if one in self.objects)

    def entries(self) -> Iterator[Entry]:
        for fingerprint in self.fingerprints:
            artifact = self.records[fingerprint]
            yield Entry(
                Path("artifacts") / fingerprint,
                "artifacts",
                self._size(self._sums(fingerprint)),
                fingerprint in self.reachable,
                None if artifact is None else artifact.record,
                tuple(self.links.get(fingerprint, ())),
            )
        if None not in self.records.values():  # a damaged record may name any of them
            for checksum in sorted(self.objects.keys() - self._named.keys()):
                yield Entry(Path("uploads") / checksum, "uploads", self.objects[checksum].size, False)

    def running(self) -> list[str]:
        return [name for name in running(self.remote.objects, self.remote.seconds) if name != SWEEP]

    def verify(self) -> Iterator[tuple[str, Path, str]]:
        for fingerprint in self.fingerprints:
            yield "artifacts", Path("artifacts") / fingerprint, self.wrong(fingerprint)

    def free(self, entry: Entry) -> bool:
        return True  # no stage makes anything there without a lease

    def wrong(self, fingerprint: str) -> str:
        """What is wrong with an artifact, or ""; each object of it is read and its SHA-256 compared."""
        artifact = self.records[fingerprint]
        if artifact is None:
            return f"{self.store.place}/artifacts/{fingerprint}.json is damaged"
        for name, checksum in artifact.record["files"].items():
            found = self._checked(checksum)
            if found != "":
                return self.remote.damaged(checksum, name, found).what
        return ""

    def _checked(self, checksum: str) -> str:
        """What is wrong with an object; each is read once, however many artifacts have it."""
        if checksum not in self._read:
            found = self.remote.checksum(checksum)
            if found is None:
                self._read[checksum] = "missing"
            elif found[0] != checksum:
                self._read[checksum] = f"damaged: its {found[1]:,} bytes have the SHA-256 {found[0]}"
            else:
                self._read[checksum] = ""
        return self._read[checksum]

    @cached_property
    def _read(self) -> dict[str, str]:
        return {}

    def delete(self, entries: Iterable[Entry]) -> int:
        """As `Inventory.delete`; under the lease that no stage and no push is begun beside. What is in use by now stays."""
        entries = list(entries)
        with self._sweep() as lease:
            now = SharedInventory(self.store, self.runs)
            still = {entry.path for entry in now.entries() if not entry.reachable}
            going = [entry for entry in entries if entry.path in still]
            artifacts = [entry.path.name for entry in going if entry.part == "artifacts"]
            left = now._named.copy()
            for fingerprint in artifacts:
                left.subtract(now._sums(fingerprint))
            checksums = [one for fingerprint in artifacts for one in now._sums(fingerprint) if left[one] <= 0]
            checksums += [entry.path.name for entry in going if entry.part == "uploads"]
            self.remote.forget(now.broken)
            now._take(artifacts, list(dict.fromkeys(checksums)), lease)
            return now._size(dict.fromkeys(checksums))

    def drop(self, part: str, name: str) -> None:
        """Takes a damaged artifact and its damaged objects away: the next run puts them back, or makes it anew."""
        with self._sweep() as lease:
            bad = [one for one in self._sums(name) if self._checked(one) not in ("", "missing")]
            self._take([name], bad, lease)

    def _take(self, fingerprints: list[str], checksums: list[str], lease: Lease) -> None:
        steps: list[tuple[list[str], list[str]]] = [([one], []) for one in fingerprints]
        steps += [([], [one]) for one in checksums]
        for manifests, objects in steps:  # manifests first: an object without one is seen by nobody
            if not lease.held:
                raise TriviumError(
                    "the lease ran out while objects were deleted; the rest stays",
                    where=self.store.place,
                    fix="run this again",
                )
            self.remote.delete(manifests, objects)

    @contextmanager
    def _sweep(self) -> Iterator[Lease]:
        """The lease under which objects are deleted. TriviumError while a stage runs, or another machine deletes."""
        lease = Lease(self.remote.objects, SWEEP, self.remote.seconds)
        if not lease.try_acquire():
            raise TriviumError(
                "another machine deletes here now", where=self.store.place, fix="run this later"
            )
        try:
            self.refuse_running()  # after the lease is there: who comes later waits for it
            yield lease
        finally:
            lease.release()


def inventory(store: Store, runs: Iterable[Path]) -> Inventory:
    """The inventory of a store, wherever it lies."""
    return Inventory(store, runs) if store.remote is None else SharedInventory(store, runs)

"""What a store that several machines share keeps at an fsspec URL. The local store is in front of it, and stages know only that.

URL/store.json                    that it is one, and of which form
URL/objects/ab/ab12…              the bytes of a file, by their SHA-256
URL/artifacts/FINGERPRINT.json    an artifact's artifact.json, byte by byte; written last and once: half an artifact is none
URL/signatures/FINGERPRINT/SHA    a line of its signatures.jsonl
URL/runs/MACHINE/RECIPE/STAGE     the fingerprint that a link of a run points at, so that no other machine deletes it
URL/logs/NAME/SHA                 a line of a log that belongs to the store (withdrawals, rollouts)
URL/leases/NAME/…                 who makes, or deletes (see `trivium.pipeline.lease`)
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from trivium import files
from trivium.errors import ArtifactError
from trivium.pipeline.lease import SECONDS, Lease, holding
from trivium.pipeline.objects import Found, Objects
from trivium.pipeline.record import RECORD, SIGNATURES

MANIFESTS, OBJECTS, SIGNED, RUNS, LOGS = "artifacts", "objects", "signatures", "runs", "logs"
AT_ONCE = 8
"""Objects that are on their way at the same time."""


class Remote:
    """Artifacts at a URL. Nothing is asked before it is used."""

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        """`seconds`: the term of leases."""
        self.objects = Objects(url)
        self.url, self.seconds = self.objects.url, seconds

    def lease(self, name: str, on_wait: Callable[[], None]) -> AbstractContextManager[Lease]:
        return holding(self.objects, name, on_wait, self.seconds)

    def has(self, fingerprint: str) -> bool:
        return self.objects.size(_manifest(fingerprint)) is not None

    def manifest(self, fingerprint: str) -> bytes | None:
        """The artifact.json of an artifact; None where there is none."""
        return self.objects.read(_manifest(fingerprint))

    def fingerprints(self) -> list[str]:
        return [
            name.split("/")[1].removesuffix(".json")
            for name in self.objects.list(MANIFESTS)
            if name.endswith(".json")
        ]

    def push(
        self, folder: Path, sums: Mapping[str, str], manifest: bytes, fingerprint: str, lease: Lease
    ) -> int | None:
        """Uploads the files of a finished artifact (name -> SHA-256), then its manifest. The bytes that were uploaded; None if
        another writer's manifest is there already.

        What is there with its size is not sent again, so a push that was cut short goes on. If the lease is lost on the way it is
        taken again and the objects are looked for again: whoever had it may have deleted what no manifest names.
        """
        sent = 0
        while True:
            sent += self._upload({checksum: folder / name for name, checksum in sums.items()})
            if lease.renew():
                break
            lease.acquire()
        return sent if self.objects.create(_manifest(fingerprint), manifest) else None

    def _upload(self, wanted: Mapping[str, Path]) -> int:
        def one(checksum: str, path: Path) -> int:
            size = path.stat().st_size
            if self.objects.size(place(checksum)) == size:
                return 0
            self.objects.upload(place(checksum), path)
            return size

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return sum(pool.map(one, wanted.keys(), wanted.values()))

    def fetch(self, sums: Mapping[str, str], folder: Path) -> int:
        """Brings files (name -> SHA-256) into a folder; those that lie there whole are left. The bytes that were fetched.

        ArtifactError names the object that is missing, or whose bytes are not what its name says.
        """

        def one(name: str, checksum: str) -> int:
            file = folder / name
            if file.is_file() and files.sha256(file) == checksum:
                return 0
            file.parent.mkdir(parents=True, exist_ok=True)
            if not self.objects.download(place(checksum), file):
                raise self.damaged(checksum, name, "missing")
            if (found := files.sha256(file)) != checksum:
                size = file.stat().st_size
                file.unlink()
                raise self.damaged(checksum, name, f"damaged: its {size:,} bytes have the SHA-256 {found}")
            return file.stat().st_size

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return sum(pool.map(one, sums.keys(), sums.values()))

    def damaged(self, checksum: str, name: str, what: str) -> ArtifactError:
        return ArtifactError(
            f"{self.url}/{place(checksum)}, which is {name} of its artifact, is {what}",
            where=self.url,
            fix="`trivium store verify --drop` with this store takes away what is damaged; a machine that has it whole puts it "
            "back at its next run, and otherwise the stage is made anew",
        )

    def checksum(self, checksum: str) -> tuple[str, int] | None:
        """(SHA-256, bytes) of what really lies under an object's name; None where there is nothing."""
        if self.objects.size(place(checksum)) is None:
            return None
        digest, size = hashlib.sha256(), 0
        for chunk in self.objects.chunks(place(checksum)):
            digest.update(chunk)
            size += len(chunk)
        return digest.hexdigest(), size

    def stored(self) -> dict[str, Found]:
        """SHA-256 -> object, of all files."""
        return {name.rpartition("/")[2]: found for name, found in self.objects.list(OBJECTS).items()}

    def delete(self, fingerprints: Collection[str], checksums: Collection[str]) -> None:
        """Takes artifacts away, each manifest before any object."""
        self.objects.delete(_manifest(one) for one in fingerprints)
        for one in fingerprints:
            self.objects.delete(self.objects.list(f"{SIGNED}/{one}"))
        self.objects.delete(place(one) for one in checksums)

    def stand(self, link: Path, fingerprint: str) -> None:
        """Says that a run's link (RUNS/RECIPE/STAGE) points at an artifact."""
        self.objects.write(
            f"{RUNS}/{machine(link.parent.parent)}/{link.parent.name}/{link.name}", fingerprint.encode()
        )

    def standing(self) -> dict[str, tuple[str, Found]]:
        """MACHINE/RECIPE/STAGE -> (fingerprint, when), of the links of all machines."""
        found = {}
        for name, about in self.objects.list(RUNS).items():
            if (said := self.objects.read(name)) is not None:
                found[name.removeprefix(f"{RUNS}/")] = (said.decode(errors="replace").strip(), about)
        return found

    def forget(self, links: Collection[str]) -> None:
        """Takes away links (MACHINE/RECIPE/STAGE)."""
        self.objects.delete(f"{RUNS}/{one}" for one in links)

    def sync_lines(self, folder: str, here: list[str]) -> list[str]:
        """Puts lines there that are only here; returns those that are only there, the oldest first."""
        known = {hashlib.sha256(line.encode()).hexdigest(): line for line in here}
        there = {name.rpartition("/")[2]: found for name, found in self.objects.list(folder).items()}
        for checksum in known.keys() - there.keys():
            self.objects.write(f"{folder}/{checksum}", known[checksum].encode())
        new = sorted(there.keys() - known.keys(), key=lambda checksum: (there[checksum].written, checksum))
        read = (self.objects.read(f"{folder}/{checksum}") for checksum in new)
        return [line.decode() for line in read if line is not None]

    def sync_file(self, folder: str, path: Path) -> None:
        """The same for a file of lines: afterwards it holds those of all machines."""
        here = files.lines(path) if path.is_file() else []
        for line in self.sync_lines(folder, [line for line in here if line.strip()]):
            files.append(path, line)


def machine(runs: Path) -> str:
    """What a folder of runs is called among those of all machines."""
    return hashlib.sha256(f"{platform.node()}\0{runs.resolve()}".encode()).hexdigest()[:16]


def place(checksum: str) -> str:
    """The name of the object with this SHA-256."""
    return f"{OBJECTS}/{checksum[:2]}/{checksum}"


def unsafe(sums: Mapping[str, str]) -> Iterator[str]:
    """Names in a manifest that would leave the artifact's folder, or whose checksum is none."""
    for name, checksum in sums.items():
        parts = name.split("/")
        leaves = any(part in ("", ".", "..") for part in parts) or "\\" in name or "\0" in name
        if leaves or parts[0] in (RECORD, SIGNATURES) or not re.fullmatch(r"[0-9a-f]{64}", checksum):
            yield name


def _manifest(fingerprint: str) -> str:
    return f"{MANIFESTS}/{fingerprint}.json"

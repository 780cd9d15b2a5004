"""The one place that writes files: whole or not at all.

A file is written under a temporary name beside its target, flushed to the disk and renamed over it, so that a
reader (or the next run, after a kill) sees either the old content or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trivium.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

TEMPORARY = ".tmp-"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path, manifest: dict[str, str]) -> None:
    """Holds each file of `manifest` (relative path -> SHA-256) against the disk.

    ArtifactError for the first file that is missing or whose bytes have changed, with both checksums: safetensors and
    JSON alike load a flipped bit without a word.
    """
    for name, expected in sorted(manifest.items()):
        path = folder / name
        fix = "delete the folder and run the recipe again; the stage that made it runs anew"
        if not path.is_file():
            raise ArtifactError(f"a file of the artifact is missing: {name}", where=str(folder), fix=fix)
        found = sha256(path)
        if found != expected:
            what = f"{name} is damaged: its SHA-256 is {found}, the manifest says {expected}"
            raise ArtifactError(what, where=str(path), fix=fix)


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; those that go meanwhile count as nothing."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.lstat().st_size if file.is_file() else 0
    return total


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value (sorted keys, no spaces, no NaN), for hashing. TypeError if it has none."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write a file to; renames it to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Takes away what kills left of files that were being written in `folder`. For whoever is the only one to write there."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: Path, last: str) -> Iterator[bool]:
    """Held by one process at a time while it fills `folder`, in which it writes the file `last` when all else is there: whether
    there is something to do. Who else asks waits, and then finds it done.

    What a kill left half written is taken away. The lock lies beside the folder.
    """
    from filelock import FileLock

    lock = FileLock(folder.with_name(folder.name + ".lock"))
    while not (folder / last).exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except FileNotFoundError:  # `trivium store gc` took all of it away while this waited
            continue
        try:
            if Path(lock.lock_file).exists() and folder.is_dir():
                there = (folder / last).exists()
                if not there:
                    sweep(folder)
                yield not there
                return
        finally:
            lock.release()
    yield False


@contextlib.contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether nobody is `making` anything in `folder` now; nobody begins to before the block ends."""
    from filelock import FileLock, Timeout

    with contextlib.ExitStack() as held:
        try:
            for file in sorted(folder.rglob("*.lock")):
                held.enter_context(FileLock(file, timeout=0))
        except Timeout:
            yield False
        else:
            yield True


@contextlib.contextmanager
def atomic_open(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write bytes to, which becomes `path` when the block ends without an error."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_open(path) as file:
        file.write(data)


def create_bytes(path: Path, data: bytes) -> bool:
    """Writes a file that must not be there yet, whole or not at all; False, and nothing written, where it is.

    Of two processes that try at once, one succeeds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # a rename would replace
    except FileExistsError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)
    return True


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. OSError or ValueError where there is none."""
    return json.loads(path.read_text(encoding="utf-8"))


def lines(path: Path, errors: str = "strict") -> list[str]:
    """The lines of a text file, as whoever wrote it ended them, without a byte order mark. OSError or ValueError as reading.

    `str.splitlines` also cuts at marks that JSON leaves as they are, such as U+2028 and U+0085 in the middle of a reply.
    """
    with path.open(encoding="utf-8-sig", errors=errors) as file:
        return [line.removesuffix("\n") for line in file]


def append_line(path: Path, line: str, *, sync: bool = False) -> None:
    """Adds a line (or several) to a log, whole or not at all, in one write: the lines of several processes do not mix.

    `sync`: it is on the disk when this returns. OSError if there is no room for it; what a disk that filled up in the middle
    has taken of it is taken back.
    """
    data = (line + "\n").encode()
    with path.open("ab", buffering=0) as file:
        written = file.write(data)
        if written < len(data):
            end = os.lseek(file.fileno(), 0, os.SEEK_CUR)
            if end == file.seek(0, os.SEEK_END):  # nobody has written since
                file.truncate(end - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if sync:
            os.fsync(file.fileno())


def append_private(path: Path) -> None:
    """Makes sure that there is a file, and that only its owner may read it."""
    path.touch(mode=0o600)
    path.chmod(0o600)


def cut_torn_line(path: Path) -> int:
    """Takes away what a kill left of a log's last line; returns how many bytes that was. The log may not be there."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        end = keep = file.seek(0, os.SEEK_END)
        while keep:
            start = max(0, keep - 65536)
            file.seek(start)
            found = file.read(keep - start).rfind(b"\n")
            keep = start + found + 1
            if found >= 0:
                break
        file.truncate(keep)
    return end - keep


def write_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """A NumPy array as a .npy file, which can be memory-mapped."""
    import numpy as np

    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes CPU tensors in the safetensors layout; returns the file's SHA-256. OSError where the disk is full.

    Safetensors' own writer keeps Python to itself until all is written, and a thread that trains waits as long. This one lets
    go for every tensor, and computes the checksum of what it writes on the way. Nothing is renamed: a folder does that.
    """
    import torch

    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # all aligned
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        kind = _TYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for part in (len(head).to_bytes(8, "little"), head):
            digest.update(part)
            file.write(part)
        for _, tensor in ordered:
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            view = memoryview(flat.numpy())  # type: ignore[arg-type]
            digest.update(view)
            while view:  # a write may take less than it was given
                view = view[file.write(view) or 0 :]
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill; renames it to `path` when the block ends without an error.

    If another process finished the same folder first, theirs is kept and ours is dropped: both have the same content
    by construction, since a folder's name is the fingerprint of what it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                _sync(file)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def append(path: Path, line: str) -> None:
    """Adds one line to a file and flushes it to the disk. What a kill left of an earlier line stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())

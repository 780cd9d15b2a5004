"""Files that a source's `path` means: a file, a folder or a glob, on this machine or behind any fsspec URL."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from trivium.corpus import extras
from trivium.corpus.readers.base import Part, Source
from trivium.corpus.readers.endings import fits
from trivium.errors import DataError
from trivium.files import sha256

PART_FILES, PART_BYTES = 256, 64 * 2**20
"""Small files in one part, and the size of a range of a big file."""
BROKEN = (OSError, ValueError, EOFError)
"""What opening and reading a file may raise: local, remote and in the libraries that read them."""


def is_url(path: str) -> bool:
    return "://" in path


def of(source: Source) -> list[str]:
    """The files of a source that has a `path`, by name, in order; what is there and not read is counted in its `passed`.
    DataError if there are none."""
    source.passed.clear()
    return _find(source.config.path, source.setting.folder, source.endings or (), source.passed)


def _find(path: str, folder: Path, endings: tuple[str, ...], passed: Counter[str]) -> list[str]:
    """Names are relative to `folder` where they can be."""
    if not is_url(path):
        return [_relative(file, folder) for file in _local(path, folder, endings, passed)]
    with extras.needed("data", "fsspec"):
        import fsspec
    try:
        system, inside = fsspec.core.url_to_fs(path)
        scheme = path.split("://")[0]
        if system.isdir(inside):
            found = fitting(system.find(inside), endings, passed)
        elif any(letter in inside for letter in "*?["):
            found = [name for name in system.glob(inside) if not system.isdir(name)]
        else:
            found = [inside] if system.exists(inside) else []
    except (*BROKEN, ImportError) as error:
        raise DataError(
            f"{path} cannot be opened: {error}", where=path, fix="check the URL and access to it"
        ) from None
    if not found:
        raise DataError(f"nothing found at {path}", where=path, fix="correct the source's `path`")
    return sorted(name if is_url(name) else f"{scheme}://{name}" for name in found)


def fitting(names: Iterable[str], endings: tuple[str, ...], passed: Counter[str]) -> list[str]:
    """Those that a reader of these endings reads."""
    found = []
    for name in names:
        if fits(name, endings):
            found.append(name)
        else:
            ending = PurePosixPath(name).suffix.lower()
            passed[f"ends in {ending}" if ending else "no ending"] += 1
    return found


def _local(path: str, folder: Path, endings: tuple[str, ...], passed: Counter[str]) -> list[Path]:
    whole = folder / path
    if whole.is_dir():
        found = sorted(Path(name) for name in fitting(_walk(whole, passed), endings, passed))
        if found:
            return found
    if whole.is_file():
        return [whole]
    named = [] if whole.is_dir() else glob.glob(str(whole), recursive=True)  # noqa: PTH207 - it may be absolute
    found = sorted(Path(name) for name in named if Path(name).is_file())
    if not found:
        ending = f" ending in {' or '.join(endings)}" if endings and whole.is_dir() else ""
        raise DataError(
            f"no such file: {path}" if not whole.is_dir() else f"no file{ending} in the folder {path}",
            where=str(whole),
            fix="correct the source's `path`; it is relative to the recipe's folder and may be a file, "
            "a folder or a glob",
        )
    return found


def _walk(folder: Path, passed: Counter[str]) -> Iterator[str]:
    """Files below a folder, hidden ones and links to folders left out (links could lead in a circle)."""
    for place, folders, names in os.walk(folder, followlinks=False):
        passed["a hidden file or folder"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        passed["a link to a folder"] += sum((Path(place) / name).is_symlink() for name in folders)
        for name in names:
            file = Path(place) / name
            if name.startswith("."):
                continue
            if file.is_file() or file.is_symlink():
                yield str(file)
            else:
                passed["a pipe or a device"] += 1


def _relative(file: Path, folder: Path) -> str:
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def open_binary(name: str, folder: Path) -> BinaryIO:
    """The file for reading. Raises one of BROKEN. Whoever opens a pipe or a device by mistake is told, not stuck."""
    if is_url(name):
        with extras.needed("data", "fsspec"):
            import fsspec
        return cast(BinaryIO, fsspec.open(name, "rb").open())
    path = folder / name
    if path.exists() and not path.is_file():
        raise OSError("not a regular file")
    return path.open("rb")


def size(name: str, folder: Path) -> int | None:
    """Bytes; None if unknown (a remote file may not say, a missing one cannot)."""
    try:
        if is_url(name):
            with extras.needed("data", "fsspec"):
                import fsspec
            system, inside = fsspec.core.url_to_fs(name)
            return cast("int | None", system.size(inside))
        return (folder / name).stat().st_size
    except BROKEN:
        return None


def identity(path: str, folder: Path, endings: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the files hold: SHA-256 of local ones; size and tag (or time of change) of remote ones."""
    if not is_url(path):
        return {_relative(file, folder): _checksum(file) for file in _local(path, folder, endings, Counter())}
    import fsspec

    found: dict[str, Any] = {}
    for name in _find(path, folder, endings, Counter()):
        system, inside = fsspec.core.url_to_fs(name)
        about = system.info(inside)
        marks = {
            key: str(about[key]) for key in ("ETag", "etag", "md5", "mtime", "LastModified") if about.get(key)
        }
        found[name] = {"size": about.get("size"), **marks}
    return found


def _checksum(file: Path) -> str:
    """SHA-256; a file that cannot be read has none, and will be a dead letter when it is read."""
    try:
        return sha256(file)
    except OSError as error:
        return f"unreadable: {error.strerror}"


def small(names: list[str], source: int, folder: Path) -> list[Part]:
    """Parts of several whole files each: at most PART_FILES of them and, with two or more, PART_BYTES."""
    parts: list[Part] = []
    batch: list[str] = []
    total = 0
    for name in names:
        length = size(name, folder) or 0
        if batch and (len(batch) == PART_FILES or total + length > PART_BYTES):
            parts.append(Part(source, batch[0], index=len(parts), files=tuple(batch)))
            batch, total = [], 0
        batch.append(name)
        total += length
    if batch:
        parts.append(Part(source, batch[0], index=len(parts), files=tuple(batch)))
    return parts


def ranges(names: list[str], source: int, folder: Path, *, splits: tuple[str, ...]) -> list[Part]:
    """Parts of one file each: byte ranges of those whose name ends in one of `splits`, the others whole."""
    parts: list[Part] = []
    for name in names:
        length = size(name, folder)
        if not name.lower().endswith(splits) or length is None or length <= PART_BYTES:
            parts.append(Part(source, name, index=len(parts)))
            continue
        for start in range(0, length, PART_BYTES):
            parts.append(Part(source, name, start, min(start + PART_BYTES, length), len(parts)))
    return parts

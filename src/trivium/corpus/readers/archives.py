"""Members of tar and zip archives, read in memory one by one: nothing is ever extracted to a disk.

(`tarfile.extractall` of Python 3.11 follows `../` and links out of its folder; what is only read cannot.)
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from trivium.corpus.caps import Caps
from trivium.corpus.readers import streams

ZIP = (".zip", ".whl", ".jar")
TAR = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".crate", ".gem")
Lost = Callable[[str, int | None, str], None]
"""Takes (member, offset, reason) of what could not be read."""


@dataclass(frozen=True)
class Member:
    name: str
    size: int
    data: bytes | None
    """None if it is larger than what was wanted."""


def members(file: BinaryIO, name: str, caps: Caps, wanted: int, lost: Lost) -> Iterator[Member]:
    """Regular files of an archive of at most `wanted` bytes each, in the archive's order."""
    read = _zip if name.lower().endswith(ZIP) else _tar
    count = total = 0
    try:
        for member in read(file, caps, wanted, lost):
            count, total = count + 1, total + len(member.data or b"")
            if count > caps.members or total > caps.archive:
                lost(
                    "",
                    None,
                    f"archive larger than allowed: {caps.members:,} members or {caps.archive:,} bytes",
                )
                return
            yield member
    except (tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
        lost("", None, f"damaged archive: {error}")
    except (OSError, ValueError, EOFError, OverflowError) as error:
        lost("", None, f"damaged archive: {getattr(error, 'strerror', None) or error}")


def escapes(name: str) -> bool:
    """Whether a path leads out of the folder it is relative to."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return path.startswith(("/", "../")) or path == ".." or path[1:2] == ":"


def _tar(file: BinaryIO, caps: Caps, wanted: int, lost: Lost) -> Iterator[Member]:
    stream = Tail(streams.plain(file, caps, caps.archive))
    with tarfile.open(fileobj=stream, mode="r|", errorlevel=0) as archive:
        for info in archive:
            if escapes(info.name):
                lost(info.name, info.offset, "member leads out of the archive: it is not read")
            elif info.issym() or info.islnk():
                target = (
                    info.linkname
                    if info.islnk()
                    else posixpath.join(posixpath.dirname(info.name), info.linkname)
                )
                if escapes(target) or info.linkname.startswith("/"):
                    lost(info.name, info.offset, f"link leads out of the archive: {info.linkname}")
            elif info.isdev():
                lost(info.name, info.offset, "device or pipe in the archive: it is not read")
            elif info.isfile():
                inside = archive.extractfile(info) if info.size <= wanted else None
                yield Member(info.name, info.size, inside.read(wanted + 1) if inside else None)
            archive.members = []  # type: ignore[attr-defined]  # it would remember every member of a stream
    while stream.read(streams.CHUNK):
        pass
    if not stream.last or stream.last.strip(b"\0"):
        lost("", None, "truncated archive: it does not end as a tar file does")


class Tail(io.RawIOBase):
    """A stream that remembers its last block: a whole tar file ends in zeros, one cut off between two members does not,
    and tarfile says nothing about it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.last = stream, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.last = (self.last + data)[-512:] if len(data) < 512 else data[-512:]
        return data


def _zip(file: BinaryIO, caps: Caps, wanted: int, lost: Lost) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if escapes(info.filename):
                lost(info.filename, info.header_offset, "member leads out of the archive: it is not read")
            elif info.external_attr >> 28 == 0o12:
                continue  # a link: what it points to is a member itself, or outside and not read
            elif info.file_size > wanted:
                yield Member(info.filename, info.file_size, None)
            else:
                try:
                    data = zip_member(archive, info, wanted, caps)
                except (
                    OSError,
                    ValueError,
                    EOFError,
                    NotImplementedError,
                    RuntimeError,
                    zipfile.BadZipFile,
                ) as error:
                    lost(info.filename, info.header_offset, f"damaged member: {error}")
                    continue
                except Exception as error:  # zlib.error
                    lost(info.filename, info.header_offset, f"damaged member: {error}")
                    continue
                yield Member(info.filename, len(data), data)


def zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int, caps: Caps) -> bytes:
    """A member's bytes. Damaged if it grows beyond `limit` or the ratio, whatever its header says.

    Read in small pieces: asked for everything at once, zipfile inflates all of the input before it looks at the size.
    """
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise streams.Damaged("compressed with a method whose output cannot be bounded")
    pieces: list[bytes] = []
    total = 0
    with archive.open(info) as member:
        while piece := member.read(streams.CHUNK):
            pieces.append(piece)
            total += len(piece)
            if total > limit:
                raise streams.Bomb(f"larger than the {limit:,} bytes allowed")
            if total > caps.free and total > caps.ratio * max(1, info.compress_size):
                raise streams.Bomb(f"decompression bomb: more than {caps.ratio} bytes per compressed byte")
    return b"".join(pieces)

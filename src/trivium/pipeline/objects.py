"""Objects at an fsspec URL: whole or not there, and some of them made by one writer only.

What a store elsewhere needs of its keeper is little: a write that is seen whole or not at all, and one that fails if the name is
taken (S3 and Azure: `If-None-Match: *`; Google: `ifGenerationMatch=0`). fsspec's own way of the latter looks first and writes
then, unless a filesystem has its own; two writers would both succeed. So each filesystem that is taken has a line in `KEEPERS`,
others are refused by name, and an endpoint that ignores the condition is found out by asking it (`Objects.ready`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import TriviumError

MARK = "store.json"
"""What says that a URL is a store, and of which form."""
FORM = b'{"trivium": "store", "form": 1}\n'
TRIES = 3
"""How often a conditional write is tried that met another one in the same moment (S3 answers 409)."""
_TAKEN = ("PreconditionFailed", "412")
_AT_ONCE = ("ConditionalRequestConflict", "OperationAborted", "409")


@dataclass(frozen=True)
class Found:
    """An object in a listing."""

    size: int
    """Bytes."""
    written: datetime
    """By the clock of whoever keeps it."""


class Objects:
    """Bytes by name under a URL. Names are relative, with `/`. TriviumError for whatever goes wrong at the other end."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol = url.partition("://")[0]
        if protocol not in KEEPERS:
            known = ", ".join(f"{name}://" for name in KEEPERS)
            raise TriviumError(
                f"a store cannot lie at {protocol}://: no write is known there that fails if the name is taken",
                where=redacted(url),
                fix=f"name a folder, or one of {known}",
            )
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise TriviumError(
                "a store's address has no room for credentials: it is shown, and kept in logs",
                where=redacted(url),
                fix=f"put them where the filesystem looks for them ({KEEPERS[protocol].credentials})",
            )
        self.keeper = KEEPERS[protocol]
        self._ready = False

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            with self._asking():
                filesystem, root = url_to_fs(self.url, use_listings_cache=False, **self.keeper.options)
        except ImportError as error:
            raise TriviumError(
                f"a store at {self.url} needs {error.name or error}",
                fix=f"pip install 'trivium[{self.keeper.extra}]'",
            ) from None
        return filesystem, str(root).rstrip("/")

    def _at(self, name: str) -> tuple[Any, str]:
        filesystem, root = self._opened
        return filesystem, f"{root}/{name}"

    def ready(self) -> None:
        """Makes sure, once, that this is a store, and that a name which is taken is refused to a second writer. TriviumError
        where it is not."""
        if self._ready:
            return
        found = self.read(MARK)
        if found is None:
            self.create(MARK, FORM)
        elif found != FORM:
            raise TriviumError(
                f"{self.url}/{MARK} is not of a form that this version knows",
                where=self.url,
                fix="pip install -U trivium",
            )
        with self._asking(MARK):
            filesystem, path = self._at(MARK)
            if self.keeper.create(filesystem, path, FORM):
                raise TriviumError(
                    "the endpoint lets a second writer replace what a first one made, though it was asked not to "
                    f"({self.keeper.condition}): two runs could both believe that they have a lock",
                    where=self.url,
                    fix="use a server that keeps conditional writes, as the clouds' own do; or a folder",
                )
        self._ready = True

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless the name is taken by other bytes; whether it stands there now as given. One of several writers
        is told True, unless they write the same."""
        filesystem, path = self._at(name)
        with self._asking(name):
            if self.keeper.create(filesystem, path, data):
                return True
        return self.read(name) == data  # ours, if an answer was lost and the write tried again

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, in the place of an older one."""
        filesystem, path = self._at(name)
        with self._asking(name):
            self.keeper.write(filesystem, path, data)

    def upload(self, name: str, file: Path) -> None:
        """The same, from a file."""
        filesystem, path = self._at(name)
        with self._asking(name):
            self.keeper.upload(filesystem, path, file)

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        filesystem, path = self._at(name)
        with self._asking(name):
            try:
                return bytes(filesystem.cat_file(path))
            except FileNotFoundError:
                return None

    def chunks(self, name: str, size: int = 1 << 22) -> Iterator[bytes]:
        """An object's bytes, a few at a time; none where there is no such object."""
        filesystem, path = self._at(name)
        with self._asking(name):
            try:
                with filesystem.open(path, "rb", block_size=size, cache_type="readahead") as file:
                    while chunk := file.read(size):
                        yield chunk
            except FileNotFoundError:
                return

    def download(self, name: str, file: Path) -> bool:
        """Copies an object into a file; False where there is none."""
        filesystem, path = self._at(name)
        with self._asking(name):
            try:
                filesystem.get_file(path, str(file))
            except FileNotFoundError:
                return False
        return True

    def size(self, name: str) -> int | None:
        """An object's bytes, counted; None where there is none."""
        filesystem, path = self._at(name)
        with self._asking(name):
            try:
                about = filesystem.info(path)
            except FileNotFoundError:
                return None
        return int(about["size"]) if about["type"] == "file" else None

    def list(self, prefix: str) -> dict[str, Found]:
        """All objects whose names begin with `prefix` and `/`, in the order of their names."""
        filesystem, path = self._at(prefix)
        root = self._opened[1]
        with self._asking(prefix):
            try:
                found = self.keeper.find(filesystem, path)
            except FileNotFoundError:
                return {}
        return {
            name.removeprefix(f"{root}/"): Found(int(about["size"]), _written(about))
            for name, about in sorted(found.items())
            if about["type"] == "file"  # an empty listing of s3fs can be of the folder itself
        }

    def delete(self, names: Iterable[str]) -> None:
        """Takes objects away; those that are gone already are passed over."""
        for name in names:
            filesystem, path = self._at(name)
            with self._asking(name), suppress(FileNotFoundError):
                filesystem.rm_file(path)

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """Says in words what goes wrong at the other end. Whatever a filesystem raises comes here: each has errors of its own."""
        place = f"{self.url}/{name}" if name else self.url
        try:
            yield
        except (TriviumError, ImportError):
            raise
        except PermissionError as error:
            raise TriviumError(
                f"the store denies it: {_said(error)}",
                where=place,
                fix=f"ask for the right to read and to write there, or set other credentials ({self.keeper.credentials})",
            ) from None
        except FileNotFoundError as error:
            raise TriviumError(
                f"there is no such place: {_said(error)}",
                where=place,
                fix="make the bucket, or mend its name",
            ) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename:
                raise  # of this machine's disk
            away = "does not answer" if _unanswered(error) else "answered with an error"
            raise TriviumError(
                f"the store {away}: {_said(error)}",
                where=place,
                fix=f"see that the endpoint is right ({self.keeper.endpoint}) and up, and run the same command again: it goes on",
            ) from None


@dataclass(frozen=True)
class Keeper:
    """How one filesystem of fsspec writes. Each function takes it, a path, and what is to be written."""

    create: Callable[[Any, str, bytes], bool]
    """Whole, and only if the name is not taken: whether it was written."""
    write: Callable[[Any, str, bytes], None]
    upload: Callable[[Any, str, Path], None]
    find: Callable[[Any, str], dict[str, dict[str, Any]]] = lambda filesystem, path: dict(
        filesystem.find(path, detail=True)
    )
    """Path -> what fsspec says of it (size, when it was written), of all files below a path."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the filesystem is opened with."""
    extra: str = "remote"
    """Of ours, which installs it."""
    condition: str = "If-None-Match: *"
    credentials: str = "AWS_PROFILE, AWS_ACCESS_KEY_ID"
    endpoint: str = "AWS_ENDPOINT_URL"
    """Where it looks for them."""


def _s3_create(filesystem: Any, path: str, data: bytes) -> bool:
    for attempt in range(1, TRIES + 1):
        try:
            filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            code = str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))
            if code in _TAKEN:  # servers that do not say which condition it was
                return False
            if code not in _AT_ONCE or attempt == TRIES:
                raise
            time.sleep(0.2 * attempt)
        else:
            return True
    raise AssertionError


def _create(filesystem: Any, path: str, data: bytes) -> bool:
    """gcsfs and adlfs pass the condition on, and say as FileExistsError that it does not hold."""
    try:
        filesystem.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def _write(filesystem: Any, path: str, data: bytes) -> None:
    filesystem.pipe_file(path, data)


def _upload(filesystem: Any, path: str, file: Path) -> None:
    filesystem.put_file(str(file), path)


_memory = threading.Lock()


def _memory_create(filesystem: Any, path: str, data: bytes) -> bool:
    with _memory:  # it lives in this process alone
        if filesystem.exists(path):
            return False
        filesystem.pipe_file(path, data)
        return True


def _file_upload(filesystem: Any, path: str, file: Path) -> None:
    with files.atomic_path(Path(path)) as temporary:
        shutil.copyfile(file, temporary)


def _file_find(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
    """fsspec's takes a folder for empty in which a file goes while it looks; a lease must not be overlooked."""
    found = {}
    for file in Path(path).rglob("*"):
        with suppress(FileNotFoundError):
            if file.is_file() and not file.name.startswith(files.TEMPORARY):
                about = file.stat()
                found[str(file)] = {"type": "file", "size": about.st_size, "mtime": about.st_mtime}
    return found


# botocore and s3fs both try again, and the tries multiply: an endpoint that takes requests and does not answer is said to be away
# after 5 s3fs tries of 2, of 15 seconds each.
_S3 = Keeper(_s3_create, _write, _upload, options={"config_kwargs": {"retries": {"max_attempts": 1}}})
_GOOGLE = Keeper(
    _create,
    _write,
    _upload,
    extra="gcs",
    condition="ifGenerationMatch=0",
    credentials="GOOGLE_APPLICATION_CREDENTIALS",
    endpoint="STORAGE_EMULATOR_HOST",
)
_AZURE = Keeper(
    _create,
    _write,
    _upload,
    extra="azure",
    credentials="AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
    endpoint="AZURE_STORAGE_CONNECTION_STRING",
)
KEEPERS: dict[str, Keeper] = {
    "s3": _S3,
    "s3a": _S3,
    "gs": _GOOGLE,
    "gcs": _GOOGLE,
    "abfs": _AZURE,
    "az": _AZURE,
    "file": Keeper(
        lambda _, path, data: files.create_bytes(Path(path), data),
        lambda _, path, data: files.write_bytes(Path(path), data),
        _file_upload,
        _file_find,
    ),
    "memory": Keeper(_memory_create, _write, _upload),
}
"""Protocol -> how it writes whole, and once."""


_WHEN = ("LastModified", "last_modified", "mtime", "created")


def _written(about: dict[str, Any]) -> datetime:
    """When, from what fsspec's filesystems call by different names."""
    time_ = next(about[name] for name in _WHEN if about.get(name))
    if isinstance(time_, datetime):
        return time_ if time_.tzinfo else time_.astimezone()
    return datetime.fromtimestamp(float(time_)).astimezone()


def _unanswered(error: BaseException) -> bool:
    names = {type(one).__name__ for one in (error, error.__cause__, error.__context__) if one is not None}
    return isinstance(error, TimeoutError | ConnectionError) or any(
        "Connect" in name or "Timeout" in name for name in names
    )


def _said(error: BaseException) -> str:
    return redacted(" ".join(str(error).split()) or type(error).__name__)


_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSPHRASE|ACCESS_KEY|CONNECTION_STRING|_KEY$")
_SHOWN = re.compile(
    r"(?i)\b((?:x-amz-)?(?:signature|credential|security-token)|awsaccesskeyid|accountkey|sig)=[^&;\s\"']+"
)


def redacted(text: str) -> str:
    """`text` without what opens doors: users and passwords in addresses, signatures in queries, key ids of AWS, and whatever an
    environment variable holds that is called a secret, a token, a password or a key."""
    text = re.sub(r"(://)[^/\s@]+@", r"\1***@", text)
    text = _SHOWN.sub(r"\1=***", text)
    text = re.sub(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b", "***", text)
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET.search(name):
            text = text.replace(value, "***")
    return text

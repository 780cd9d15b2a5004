"""Token shards: a split of a documents artifact as ids, one memory-mapped file a source, made once and read by every stage.

    FOLDER/NN.tokens.bin   (tokens,) uint16 or uint32, the documents end to end, each closed by <|end_of_text|>
    FOLDER/NN.starts.bin   (documents,) int64: the place of each document's first token
    FOLDER/NN.keys.bin     the documents' keys in UTF-8, end to end
    FOLDER/NN.ends.bin     (documents,) int64: the byte after each key
    FOLDER/NN.json         sizes and SHA-256 of the four; written last, so that it says that the source is whole
    FOLDER/shards.json     the sources; written last of all

NN is the source's place in the recipe. Each file of documents is encoded into FOLDER/parts by one worker, and the parts are
joined; a killed run keeps the parts and sources that are whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trivium import files
from trivium.corpus import counts, engine, records
from trivium.errors import ArtifactError, DataError
from trivium.files import atomic_open, write_json
from trivium.text.chat import ChatTokenizer
from trivium.text.words import DocumentEncoder

FORMAT = 1
"""Raised when the same documents would give other files."""
GROUP = 2_000_000
"""Characters encoded at once: what is in memory, and enough for a tokenizer that works on all cores by itself."""
SMALL = 20_000_000
"""Bytes of Parquet that one process has encoded before others have started."""
FIX = "delete the folder: it is made again from the documents"
_verified: set[tuple[Path, int, int]] = set()
"""(file, size, mtime) whose checksum this process has seen."""


def place(cache: Path, data: str, chat: ChatTokenizer) -> Path:
    """The folder in `cache` for the artifact with fingerprint `data` under this tokenizer: stages that share both share it."""
    said = files.canonical_json([FORMAT, data, chat.tokenizer.to_str()])
    return cache / hashlib.sha256(said.encode()).hexdigest()


def encode(split: Path, chat: ChatTokenizer, folder: Path) -> None:
    """Makes the shards of `split` (`artifact / "train"`) in `folder`, unless they are there, on all cores.

    Several processes may ask at once: one encodes, the others wait. DataError for an unreadable split; TriviumError when
    the disk is full.
    """
    with files.making(folder, "shards.json") as new:
        if not new:
            return
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        chat.save(parts, context=0)
        found = {
            number: list(paths) for number, paths in groupby(sorted(records.files(split)), key=source_of)
        }
        tasks = [
            json.dumps({"file": str(path.absolute()), "name": f"{number:02d}-{place:05d}"})
            for number, paths in found.items()
            if not (folder / f"{number:02d}.json").exists()
            for place, path in enumerate(paths)
        ]
        small = sum(path.stat().st_size for paths in found.values() for path in paths) < SMALL
        engine.run(
            Encode(parts.absolute()), tasks, runner=engine.running(), workers=None, emit=_quiet, small=small
        )
        for number, paths in found.items():
            if not (folder / f"{number:02d}.json").exists():
                _join([parts / f"{number:02d}-{place:05d}" for place in range(len(paths))], folder, number)
        shutil.rmtree(parts)
        write_json(folder / "shards.json", {"sources": list(found)})


def _quiet(event: object) -> None:
    """Encoding takes seconds where reading took minutes."""


def source_of(path: Path) -> int:
    """Documents artifacts name their files SOURCE-KIND-NUMBER.parquet."""
    head = path.name.split("-")[0]
    return int(head) if head.isdigit() else 0


def _documents(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        for record in records.read_file(path, ("key", "text")):
            yield str(record.get("key", "")), record["text"]


@dataclass(frozen=True)
class Encode:
    """Encodes one file: `task` is {"file": of documents, "name": of what is made of it}.

    NAME.tokens.bin  the ids        NAME.lengths.bin  (documents,) int64: tokens of each
    NAME.keys.bin    the keys       NAME.sizes.bin    (documents,) int64: bytes of each key
    NAME.json        the sums; written last
    """

    folder: Path
    """Where the tokenizer is, and where the files go."""
    name: str = "tokenise"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        target = self.folder / said["name"]
        if target.with_suffix(".json").exists():
            return
        encoder = DocumentEncoder(ChatTokenizer.load(self.folder))
        count = {"characters": 0, "bytes": 0}
        with ExitStack() as stack:
            tokens, lengths, keys, sizes = (
                stack.enter_context(atomic_open(target.with_suffix(f".{part}.bin")))
                for part in ("tokens", "lengths", "keys", "sizes")
            )
            for group in _groups(_documents([Path(said["file"])])):
                for (key, text), ids in zip(group, encoder([text for _, text in group]), strict=True):
                    name = key.encode("utf-8", "replace")
                    tokens.write(ids)
                    lengths.write(struct.pack("=q", len(ids) // encoder.dtype.itemsize))
                    keys.write(name)
                    sizes.write(struct.pack("=q", len(name)))
                    characters, size = counts.size(text)
                    count["characters"] += characters
                    count["bytes"] += size
        write_json(target.with_suffix(".json"), {"dtype": encoder.dtype.name, **count})


def _groups(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    group: list[tuple[str, str]] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document[1])
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _join(parts: Sequence[Path], folder: Path, number: int) -> None:
    """The files of one source, end to end."""
    paths = {part: folder / f"{number:02d}.{part}.bin" for part in ("tokens", "starts", "keys", "ends")}
    sums = [_json(part.with_suffix(".json")) for part in parts]
    lengths, sizes = (
        np.concatenate([np.fromfile(part.with_suffix(f".{name}.bin"), np.int64) for part in parts])
        for name in ("lengths", "sizes")
    )
    for name in ("tokens", "keys"):
        with atomic_open(paths[name]) as out:
            for part in parts:
                with part.with_suffix(f".{name}.bin").open("rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)
    for name, column in (("starts", np.cumsum(lengths) - lengths), ("ends", np.cumsum(sizes))):
        with atomic_open(paths[name]) as out:
            out.write(column.tobytes())
    made = {path.name: {"size": path.stat().st_size, "sha256": files.sha256(path)} for path in paths.values()}
    count = {"tokens": int(lengths.sum()), "documents": len(lengths)}
    count |= {name: sum(one[name] for one in sums) for name in ("characters", "bytes")}
    write_json(folder / f"{number:02d}.json", {"dtype": sums[0]["dtype"], **count, "files": made})


class Shard:
    """The tokens of one source. `tokens` (N,), `starts` (documents,) are memory-mapped."""

    def __init__(self, folder: Path, source: int) -> None:
        meta = _json(folder / f"{source:02d}.json")
        for name, said in meta["files"].items():
            verify(folder / name, said, "token shard", FIX)
        self.source = source
        self.characters: int = meta["characters"]
        self.documents: int = meta["documents"]
        self.tokens = _map(folder / f"{source:02d}.tokens.bin", meta["dtype"])
        self.starts = _map(folder / f"{source:02d}.starts.bin", "int64")
        self._keys = _map(folder / f"{source:02d}.keys.bin", "uint8")
        self._ends = _map(folder / f"{source:02d}.ends.bin", "int64")

    def key(self, document: int) -> str:
        """The key of a document, by its number in this source."""
        first = int(self._ends[document - 1]) if document else 0
        return bytes(self._keys[first : int(self._ends[document])]).decode()


def open_shards(folder: Path) -> list[Shard]:
    """The shards that `encode` made, one a source that has documents, checked against their checksums.

    ArtifactError for a file that is missing, cut short or changed. Sizes are looked at every time, checksums once in a
    process while the file stays as it is.
    """
    found = [Shard(folder, source) for source in _json(folder / "shards.json")["sources"]]
    return [shard for shard in found if len(shard.tokens)]


def _json(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"token shards are damaged: {error}", where=str(path), fix=FIX) from None
    return said


def verify(path: Path, said: dict[str, Any], what: str, fix: str) -> None:
    """Holds a file against the `size` and `sha256` it was written with; the checksum once in a process while it stays as it is.

    ArtifactError names it where it is missing, cut short or changed.
    """
    if not path.is_file():
        raise ArtifactError(f"a {what} is missing", where=str(path), fix=fix)
    state = path.stat()
    if state.st_size != said["size"]:
        told = f"a {what} has {state.st_size} bytes, it was written with {said['size']}"
        raise ArtifactError(told, where=str(path), fix=fix)
    known = (path.resolve(), state.st_size, state.st_mtime_ns)
    if known not in _verified:
        if files.sha256(path) != said["sha256"]:
            raise ArtifactError(f"a {what} is damaged: its SHA-256 has changed", where=str(path), fix=fix)
        _verified.add(known)


def _map(path: Path, dtype: str) -> np.ndarray:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def sample(data: Path, characters: int) -> Iterator[str]:
    """Training texts of a documents artifact up to about `characters` in all, of each source its share of the mix.

    The documents of a source stand in an order of hashes, so the first ones are a fair sample of it.
    """
    sources = _json(data / "account.json")["sources"]
    mixes = _json(data / "account.json").get("mix") is not None
    share = [one["planned_share" if mixes else "realised_share"] for one in sources]
    by_source = groupby(sorted(records.files(data / "train")), key=source_of)
    empty = True
    for number, paths in by_source:
        left = characters * (share[number] if number < len(share) else 1.0)
        for _, text in _documents(paths):
            if left <= 0:
                break
            yield text
            empty = False
            left -= len(text)
    if empty:
        raise DataError(
            "there is no text to train a tokenizer on", where=str(data), fix="give the stage documents"
        )

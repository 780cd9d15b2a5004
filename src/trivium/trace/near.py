"""The documents that say nearly the same as a paragraph: by the MinHash signatures that find duplicates, a piece at a time.

    FOLDER/NN-FFFFF.near.bin     (pieces, HASHES) uint32: the signature of each piece of the texts of a file
    FOLDER/NN-FFFFF.places.bin   (pieces, 3) int32: the number of its text in source NN, and where it begins and ends in it
    FOLDER/NN-FFFFF.json         sizes and SHA-256 of the two; written last
    FOLDER/near.json             the files; written last of all

A document is many paragraphs, and shares few words with any one of them: so documents are signed by pieces of some dozens of
words. All signatures are compared with that of a paragraph, which estimates how similar they are (the share of equal hashes,
Broder 1997); of the best ones the similarity is then counted from their words. 140 bytes a piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trivium import files
from trivium.corpus import engine, records
from trivium.corpus.dedup.signatures import EMPTY, signatures
from trivium.corpus.shards import source_of, verify
from trivium.corpus.words import plain
from trivium.errors import ArtifactError
from trivium.files import atomic_open, write_json
from trivium.recipe.dedup import Fuzzy
from trivium.trace.texts import Texts, about
from trivium.types import Emit

SIGNED = Fuzzy(bands=8, rows=4, ngram=3)
"""32 hashes of runs of three words: the bands are not used, all are compared."""
FEWEST, MOST = 20, 120
"""Words of a piece: shorter paragraphs are joined to the next, longer ones cut."""
CLOSER = 8
"""For each document that is asked for, pieces whose similarity is counted from their words."""
LEAST = 0.2
"""Similarity below which nothing is told: by chance two texts share a few runs of three words."""
SMALL = 20_000_000
"""Bytes of Parquet that one process has signed before others have started."""
SCANNED = 100_000
"""Signatures compared at once."""
_FIX = "delete the folder: it is made again from the documents"
_WORD = re.compile(r"\S+")
_BREAK = re.compile(r"\n[ \t\r]*\n")

Place = tuple[int, int]


def pieces(text: str) -> list[Place]:
    """(start, end) of each piece of a text, in characters: paragraphs, but of FEWEST to MOST words; the last may be shorter."""
    found: list[Place] = []
    first, words, last = -1, 0, 0
    for word in _WORD.finditer(text):
        broken = words >= FEWEST and _BREAK.search(text, last, word.start())
        if words == MOST or broken:
            found.append((first, last))
            words = 0
        if not words:
            first = word.start()
        words, last = words + 1, word.end()
    return [*found, (first, last)] if words else found


@dataclass(frozen=True)
class Sign:
    """Signs the pieces of one file: `task` is {"file", "first": the number of its first text, "name"}."""

    folder: Path
    name: str = "near"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        target = self.folder / said["name"]
        done, signed, placed = (target.with_suffix(f".{part}") for part in ("json", "near.bin", "places.bin"))
        if done.exists():
            return
        rows = (str(row["text"] or "") for row in records.read_file(Path(said["file"]), ("text",)))
        with atomic_open(signed) as signature_file, atomic_open(placed) as place_file:
            for texts, places in _batches(rows, int(said["first"])):
                signature_file.write(signatures(texts, SIGNED).tobytes())
                place_file.write(np.array(places, np.int32).tobytes())
        write_json(
            done,
            {
                path.name: {"size": path.stat().st_size, "sha256": files.sha256(path)}
                for path in (signed, placed)
            },
        )


def _batches(
    rows: Iterator[str], first: int, size: int = 2000
) -> Iterator[tuple[list[str], list[tuple[int, int, int]]]]:
    texts: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, text in enumerate(rows, start=first):
        for start, end in pieces(text):
            texts.append(text[start:end])
            places.append((number, start, end))
        if len(texts) >= size:
            yield texts, places
            texts, places = [], []
    if texts:
        yield texts, places


def build(split: Path, folder: Path, emit: Emit) -> None:
    """Signs the texts of `split` (a folder of Parquet files) in `folder`, unless they are, on all cores.

    A killed run keeps the files that are whole, and what is made does not depend on the workers. ArtifactError for damaged texts.
    """
    with files.making(folder, "near.json") as new:
        if not new:
            return
        tasks = list(_tasks(split))
        left = [json.dumps(task) for task in tasks if not (folder / f"{task['name']}.json").exists()]
        size = sum(Path(task["file"]).stat().st_size for task in tasks)
        job, runner = Sign(folder.absolute()), engine.running()
        engine.run(job, left, runner=runner, workers=None, emit=emit, small=size < SMALL)
        write_json(folder / "near.json", {"files": [task["name"] for task in tasks]})


def _tasks(split: Path) -> Iterator[dict[str, Any]]:
    rows = Texts(split).rows()
    for source, paths in groupby(sorted(records.files(split)), key=source_of):
        first = 0
        for number, path in enumerate(paths):
            yield {"file": str(path.absolute()), "first": first, "name": f"{source:02d}-{number:05d}"}
            first += rows[path]


class Near:
    """The signatures of one split, mapped."""

    def __init__(self, folder: Path) -> None:
        self.parts: list[tuple[int, np.ndarray, np.ndarray]] = []
        """(source, signatures, places) of each file that has any."""
        for name in _json(folder / "near.json")["files"]:
            for file, said in _json(folder / f"{name}.json").items():
                verify(folder / file, said, "file of signatures", _FIX)
            signed, placed = folder / f"{name}.near.bin", folder / f"{name}.places.bin"
            if signed.stat().st_size:
                hashes = np.memmap(signed, np.uint32, "r").reshape(-1, SIGNED.bands * SIGNED.rows)
                places = np.memmap(placed, np.int32, "r").reshape(-1, 3)
                self.parts.append((int(name.split("-")[0]), hashes, places))

    def closest(self, signature: np.ndarray, most: int) -> list[tuple[int, int, int, int]]:
        """(source, number, start, end) of the `most` pieces that share the most hashes with `signature` (HASHES,), the best
        first; pieces that share none are left out."""
        found: list[tuple[float, int, int, int, int]] = []
        for source, hashes, places in self.parts:
            for begin in range(0, len(hashes), SCANNED):
                alike = (hashes[begin : begin + SCANNED] == signature).mean(axis=1)
                best = np.argsort(-alike, kind="stable")[:most]
                for place in best[alike[best] > 0].tolist():
                    number, start, end = places[begin + place].tolist()
                    found.append((-float(alike[place]), source, number, start, end))
                found = sorted(found)[:most]
        return [one[1:] for one in found]


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the runs of three words of two texts, from 0 to 1: what the signatures estimate."""
    left, right = _shingles(one), _shingles(other)
    return len(left & right) / len(left | right) if left and right else 0.0


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = plain(text).split()
    size = min(SIGNED.ngram, len(words))
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)} if size else set()


def near(reply: str, sources: list[tuple[str, Near, Texts]], documents: int) -> list[dict[str, Any]]:
    """For each piece of a reply the documents nearest to it, the nearest first: start, end (characters of the reply), and
    documents, each with `data` (the stage), similarity, character, passage, and what is known of it.

    `sources`: (name of the data stage, its signatures, its texts). At most `documents` of each piece, each document once.
    """
    asked = pieces(reply)
    signed: Any = signatures([reply[start:end] for start, end in asked], SIGNED) if asked else []
    found = []
    for (start, end), signature in zip(asked, signed, strict=True):
        if (signature == EMPTY).all():
            continue
        told: dict[tuple[str, int, int], dict[str, Any]] = {}
        for name, index, texts in sources:
            for source, number, first, last in index.closest(signature, documents * CLOSER):
                row = texts.record(source, number)
                passage = str(row["text"])[first:last]
                alike = similarity(reply[start:end], passage)
                before = told.get((name, source, number))
                if alike >= LEAST and (before is None or before["similarity"] < alike):
                    told[name, source, number] = {
                        "data": name, "similarity": alike, "character": first, "passage": passage, **about(row),
                    }  # fmt: skip
        ranked = sorted(told.values(), key=lambda one: -one["similarity"])[:documents]
        found.append({"start": start, "end": end, "documents": ranked})
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the signatures are damaged: {error}", where=str(path), fix=_FIX) from None
    return said

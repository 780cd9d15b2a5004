"""Rows of different lengths without their padding, and the two replies of a pair behind one copy of their prompt.

A batch is a rectangle: short rows are padded, and a pair's prompt stands in it twice. Nothing of that has to be computed.
Here the real tokens of a batch are laid into as few places as possible (first fit, longest first); what the blocks make of
them is put back where the objective looks for it. Every token sees what it would have seen: results differ by rounding only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivium.types import Batch

WORTH = 0.9
"""Cost of the new layout, as a share of the old one's, above which the old one stays."""
STEP = 32
"""Rows are a multiple of this long."""


class Compact(NamedTuple):
    """Places of a batch (B, T) in a layout of (R, S)."""

    source: Tensor  # (R, S) int64: the flat place in the batch that a token comes from
    mask: Tensor  # (R, 1, S, S) bool: what each token sees
    back: Tensor  # (B, T) int64: the flat place in the layout where a token went; padding points anywhere


class _Part(NamedTuple):
    """One document, or the two rows of a pair, to be laid somewhere in one piece."""

    places: NDArray[np.int64]  # flat places in the batch, in their new order
    document: NDArray[np.int64]  # equal values see each other
    shared: NDArray[np.bool_]  # what every later token of the part sees: a pair's prompt


def compact(batch: Batch, dim: int) -> Compact | None:
    """The layout for a batch with `doc_id` (-1 is padding, at the end of rows), or None where it would save little in a model of
    width `dim`: a place costs its own work, and attention's, which grows with the row.

    Rows with the same `pair` share their first `prefix` tokens, where the batch says so.
    """
    doc = batch["doc_id"].cpu().numpy()
    rows, length = doc.shape
    lengths = (doc >= 0).sum(1)
    parts = _parts(batch, doc, lengths)
    if not parts:
        return None
    size = -(-max(len(part.places) for part in parts) // STEP) * STEP
    bins = _fit([len(part.places) for part in parts], size)
    if _cost(len(bins), size, dim) > WORTH * _cost(rows, length, dim):
        return None
    source = np.zeros((len(bins), size), np.int64)
    document = np.full((len(bins), size), -1, np.int64)
    shared = np.zeros((len(bins), size), bool)
    back = np.zeros(rows * length, np.int64)
    seen = 0
    for row, members in enumerate(bins):
        at = 0
        for part in (parts[member] for member in members):
            here = slice(at, at + len(part.places))
            source[row, here], shared[row, here] = part.places, part.shared
            document[row, here] = part.document + seen
            back[part.places] = np.arange(len(part.places)) + row * size + at
            at, seen = here.stop, seen + int(part.document.max()) + 1
    _twins(batch, lengths, back.reshape(rows, length))
    device = batch["doc_id"].device
    query, key = document[:, :, None], document[:, None, :]
    # a pair has three documents: its prompt, which both replies see, and the replies
    sees = (query == key) | (shared[:, None, :] & (query - key <= 2) & (query > key))
    sees &= np.tri(size, dtype=bool)
    return Compact(
        torch.from_numpy(source).to(device),
        torch.from_numpy(sees[:, None]).to(device),
        torch.from_numpy(back.reshape(rows, length)).to(device),
    )


def _parts(batch: Batch, doc: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[_Part]:
    time = doc.shape[1]
    parts = []
    for first, second, prefix in _pairs(batch, len(doc)):
        if not lengths[first]:  # padding throughout
            continue
        head = np.arange(lengths[first]) + first * time
        if second is None:
            for places in _documents(head, doc[first, : lengths[first]]):
                parts.append(_Part(places, np.zeros(len(places), np.int64), np.zeros(len(places), bool)))
            continue
        tail = np.arange(prefix, lengths[second]) + second * time
        places = np.concatenate([head, tail])
        document = np.repeat([0, 1, 2], [prefix, len(head) - prefix, len(tail)])
        parts.append(_Part(places, document, np.arange(len(places)) < prefix))
    return parts


def _documents(places: NDArray[np.int64], doc: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The places of each document of a row."""
    return np.split(places, np.flatnonzero(np.diff(doc)) + 1) if len(places) else []


def _cost(rows: int, length: int, dim: int) -> float:
    """In proportion to the time of a pass: 24 D^2 for a place's matrices, 4 D for each place that it looks at."""
    return rows * length * (6 * dim + length)


def _pairs(batch: Batch, rows: int) -> list[tuple[int, int | None, int]]:
    """(row, its twin or None, tokens that they share)."""
    if "prefix" not in batch:
        return [(row, None, 0) for row in range(rows)]
    prefix = batch["prefix"].tolist()
    of: dict[int, list[int]] = {}
    for row, pair in enumerate(batch["pair"].tolist()):
        of.setdefault(pair, []).append(row)
    return [(both[0], both[1] if len(both) > 1 else None, prefix[both[0]]) for both in of.values()]


def _twins(batch: Batch, lengths: NDArray[np.int64], back: NDArray[np.int64]) -> None:
    """The second reply's prompt is where the first one's went."""
    for first, second, prefix in _pairs(batch, len(lengths)):
        if second is not None:
            back[second, :prefix] = back[first, :prefix]


def _fit(sizes: list[int], room: int) -> list[list[int]]:
    """First fit, longest first: the numbers of the parts in each row."""
    bins: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        place = next((i for i, left in enumerate(free) if left >= sizes[number]), None)
        if place is None:
            bins.append([])
            free.append(room)
            place = len(bins) - 1
        bins[place].append(number)
        free[place] -= sizes[number]
    return bins

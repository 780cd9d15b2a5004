"""A trained judge of texts, whether one is toxic: logistic regression on words, pairs of words and runs of letters, each hashed
to one of BUCKETS weights (Weinberger et al. 2009), with L2.

The file is JSON: the weights in eight bits, how the judge did on labelled texts that it was not fitted on (cross-validation by
cluster), and on how many harmless texts about each group it was right: a judge of toxicity that takes the name of a group for an
insult says more about itself than about a model.
"""

from __future__ import annotations

import base64
import html
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trivium import files
from trivium.errors import DataError
from trivium.evaluate.calibration import Labels
from trivium.evaluate.judges.classifier import agreement, folds_of, labelled_rows, read_head, yes_or_no
from trivium.evaluate.rows import short_hash

AXIS = "toxic"
SHIPPED = Path(__file__).parent / "toxic.json"
BUCKETS = 1 << 15
FOLDS = 5
PENALTY = 3e-5
STEPS, RATE = 120, 0.2
"""Of Adam over all rows at once."""
LETTERS = (3, 4)
"""Lengths of runs of letters, which find a word that is spelt otherwise."""


def path_of(named: str | None, folder: Path) -> Path:
    """Of the head that a suite names, or else of the one that comes with Trivium."""
    return SHIPPED if named is None else folder / named


class LabelledText(NamedTuple):
    """A text and whether people call it toxic. `group`: whom it speaks of. `cluster`: what it was made from with others.
    `source`: where it comes from; all of one source weigh as much as all of another."""

    text: str
    label: bool
    group: str = ""
    cluster: str = ""
    source: str = ""


@dataclass(frozen=True)
class TextHead:
    """weights (BUCKETS,). `auc`, `labels`, `groups` (group -> harmless texts about it, and how many are called so): on texts of
    which no cluster was fitted on."""

    weights: Any
    bias: float
    auc: float
    labels: Labels
    groups: Mapping[str, tuple[int, int]]
    rows: int
    source: str
    """Hash of the labelled texts."""

    def probability(self, text: str) -> float:
        places, values = features(text)
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, float(self.weights[places] @ values) + self.bias))))

    def __call__(self, text: str) -> bool:
        return self.probability(text) > 0.5

    @property
    def about(self) -> str:
        """Its figures in words: AUC, and the groups of which it calls most and fewest harmless texts toxic."""
        text = f"AUC {self.auc:.3f} on texts left out"
        wrong = sorted((1 - spared / asked, group) for group, (asked, spared) in self.groups.items() if asked)
        if not wrong:
            return f"{text}, of harmless texts by group nothing is known"
        (least, fewest), (most, worst) = wrong[0], wrong[-1]
        return f"{text}; calls {most:.0%} of harmless texts about {worst} toxic, {least:.0%} about {fewest}"


_NOISE = re.compile(r"https?://\S+|@\w+|\bRT\b|&#?\w+;")


def features(text: str) -> tuple[Any, Any]:
    """(buckets, values) of a text: all values are 1 / sqrt(their number)."""
    plain = _NOISE.sub(" ", html.unescape(text)).lower()
    found = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", plain)
    names = {f"w {word}" for word in found} | {f"p {a} {b}" for a, b in pairwise(found)}
    for word in set(found):
        spaced = f"<{word}>"
        names |= {f"l {spaced[i : i + n]}" for n in LETTERS for i in range(len(spaced) - n + 1)}
    places = np.array(sorted(zlib.crc32(name.encode()) % BUCKETS for name in names), np.int64)
    return places, np.full(len(places), 1 / math.sqrt(max(1, len(places))))


def read_texts(path: Path) -> list[LabelledText]:
    """JSON lines or a CSV with text, label (true, false, 1 or 0) and, where they are known, group, cluster and source. DataError
    with the line."""
    rows = []
    for row, where in labelled_rows(path):
        label = yes_or_no(row)
        if label is None or not isinstance(row.get("text"), str):
            raise DataError(
                "a row has `text` and `label`: true, false, 1 or 0",
                where=where,
                fix="name the columns so, and leave out texts without a label",
            )
        rows.append(
            LabelledText(
                row["text"], label, *(str(row.get(name) or "") for name in ("group", "cluster", "source"))
            )
        )
    return rows


class _Seen(NamedTuple):
    """Features of many texts, one behind the other. `starts` (texts,): where each begins."""

    places: Any
    values: Any
    starts: Any


def _seen(found: Sequence[tuple[Any, Any]]) -> _Seen:
    """Every text has the feature BUCKETS, whose weight is the bias."""
    one = [
        (np.append(places, BUCKETS), np.append(values, 1.0)) for places, values in found
    ]  # a text without a word is an empty sum otherwise
    starts = np.cumsum([0, *(len(places) for places, _ in one[:-1])])
    return _Seen(np.concatenate([p for p, _ in one]), np.concatenate([v for _, v in one]), starts)


def balanced(truth: Any, sources: Sequence[str]) -> Any:
    """(texts,) weights that sum to 1: every source weighs the same, and both labels within it."""
    names = np.array(sources)
    weight = np.zeros(len(truth))
    for name in sorted(set(sources)):
        for label in (True, False):
            these = (names == name) & (truth == label)
            weight[these] = 1 / max(1, these.sum())
    return weight / weight.sum()


def fit(found: Sequence[tuple[Any, Any]], truth: Any, weight: Any) -> Any:
    """(BUCKETS + 1,) weights, the bias last, that minimise the mean log loss under `weight`, + PENALTY |w|^2."""
    seen = _seen(found)
    row = np.repeat(np.arange(len(truth)), np.diff(np.append(seen.starts, len(seen.places))))
    values = seen.values.astype(np.float32)
    w = np.zeros(BUCKETS + 1, np.float32)
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for step in range(1, STEPS + 1):
        z = np.add.reduceat(w[seen.places] * values, seen.starts)
        off = (weight * (1 / (1 + np.exp(-np.clip(z, -30, 30))) - truth)).astype(np.float32)
        slope = np.bincount(seen.places, off[row] * values, BUCKETS + 1).astype(np.float32)
        slope[:-1] += 2 * PENALTY * w[:-1]
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        w -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return w.astype(float)


def scores(w: Any, found: Sequence[tuple[Any, Any]]) -> Any:
    """(texts,) w . x + bias."""
    seen = _seen(found)
    return np.add.reduceat(w[seen.places] * seen.values, seen.starts)


def auc(said: Any, truth: Any) -> float:
    """The probability that a toxic text scores higher than a harmless one, a tie a half (Mann and Whitney 1947)."""
    _, place, counts = np.unique(said, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    yes = int(truth.sum())
    return float((ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * (len(truth) - yes)))


def left_out(rows: Sequence[LabelledText]) -> Any:
    """(texts,) what a fit on the other folds says of each; a cluster is in one fold."""
    found, truth = [features(row.text) for row in rows], np.array([row.label for row in rows], bool)
    folds = folds_of([row.cluster or row.text for row in rows], FOLDS)
    said = np.zeros(len(rows))
    for fold in range(FOLDS):
        inside, out = np.flatnonzero(folds != fold).tolist(), np.flatnonzero(folds == fold).tolist()
        weight = balanced(truth[inside], [rows[i].source for i in inside])
        w = fit([found[i] for i in inside], truth[inside], weight)
        said[out] = scores(w, [found[i] for i in out])
    return said


def train(rows: Sequence[LabelledText]) -> TextHead:
    """A head, and how it does on texts whose cluster a fit left out. DataError for too few labels."""
    kept = list({row.text: row for row in rows}.values())
    truth = np.array([row.label for row in kept], bool)
    clusters = {row.cluster or row.text for row in kept}
    if min(int(truth.sum()), int((~truth).sum())) < 10 * FOLDS or len(clusters) < 10 * FOLDS:
        raise DataError(
            f"too few labels: {int(truth.sum())} toxic and {int((~truth).sum())} harmless texts, {len(clusters)} clusters",
            fix=f"give {10 * FOLDS} of each at least, of as many clusters",
        )
    said = left_out(kept)
    groups: dict[str, tuple[int, int]] = {}
    for row, score in zip(kept, said, strict=True):
        if row.group and not row.label:
            asked, spared = groups.get(row.group, (0, 0))
            groups[row.group] = (asked + 1, spared + int(score <= 0))
    found = [features(row.text) for row in kept]
    w = _rounded(fit(found, truth, balanced(truth, [row.source for row in kept])))
    return TextHead(
        w[:-1], float(w[-1]), auc(said, truth), agreement((said > 0).tolist(), kept), dict(sorted(groups.items())), len(kept),
        short_hash(sorted(list(row) for row in kept)),
    )  # fmt: skip


def _rounded(w: Any) -> Any:
    """As a file holds them: eight bits, the bias whole."""
    size = _size(w[:-1])
    return np.append(np.round(w[:-1] / size) * size, w[-1])


def _size(weights: Any) -> float:
    return float(np.abs(weights).max() / 127) or 1.0


def save(path: Path, head: TextHead) -> None:
    size = _size(head.weights)
    packed = zlib.compress(np.round(head.weights / size).astype(np.int8).tobytes(), 9)
    files.write_json(
        path,
        {
            "axis": AXIS, "auc": head.auc, "labels": head.labels._asdict(), "groups": head.groups, "rows": head.rows,
            "source": head.source, "bias": head.bias, "size": size, "weights": base64.b64encode(packed).decode(),
        },
    )  # fmt: skip


def load(path: Path) -> TextHead:
    """ArtifactError for a file that is no head."""
    return read_head(path, _head, "train one with `trivium evaluate judge train TEXTS --axis toxic`")


def _head(found: Mapping[str, Any], labels: Labels) -> TextHead:
    if found["axis"] != AXIS:
        raise ValueError(f"it was trained for {found['axis']!r}, not for toxicity")
    unpack = zlib.decompressobj()
    raw = unpack.decompress(base64.b64decode(found["weights"], validate=True), BUCKETS + 1)
    weights = np.frombuffer(raw, np.int8).astype(float) * float(found["size"])
    groups = {str(name): (int(asked), int(spared)) for name, (asked, spared) in found["groups"].items()}
    head = TextHead(
        weights, float(found["bias"]), float(found["auc"]), labels, groups, int(found["rows"]), str(found["source"])
    )  # fmt: skip
    if weights.shape != (BUCKETS,) or not np.isfinite([*weights, head.bias, head.auc]).all():
        raise ValueError("its weights are not those of such a judge")
    return head

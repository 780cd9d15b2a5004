"""Trains the quality model: good examples against the crawl, logistic regression over hashed n-grams.

A tenth of the documents, chosen by a hash of their text, is never trained on; accuracy and AUC are measured on it. Every
document is cut to the same number of words, so that length alone cannot tell the two sides apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trivium import files, seeds
from trivium.corpus import records
from trivium.corpus.steps.quality import FORMAT, SETTINGS, WEIGHTS, features
from trivium.corpus.words import Words
from trivium.errors import DataError, TriviumError

HELDOUT = 0.1
LEAST = 20
"""Documents that each side needs, held-out ones included."""
CHARACTERS = 20_000
"""Characters of a document that are learned from, from its beginning."""


@dataclass(frozen=True)
class Side:
    """Features of one side's documents, row after row, and which rows are held out."""

    places: list[np.ndarray]
    values: list[np.ndarray]
    heldout: np.ndarray


def train(
    good: Path, crawl: Path, out: Path, *, buckets: int = 2**20, seed: int = 0, most: int = 200_000
) -> dict[str, Any]:
    """Writes `out` (a folder: weights as safetensors, settings and measurements as JSON); returns the settings.

    good, crawl: a file or folder of .jsonl, .parquet (column `text`), .txt or .md. At most `most` documents are taken from
    each, the first by a hash of (seed, text). DataError if a side is unusable, is the other one, or `out` exists.
    """
    if out.exists():
        raise DataError("the folder exists already", where=str(out), fix="name another, or remove it")
    sides = [_side(path, buckets, seed, most) for path in (good, crawl)]
    matrix, labels, heldout = _matrix(sides, buckets)
    weights, bias = _fit(matrix[~heldout], labels[~heldout], seed)
    scores = 1 / (1 + np.exp(-(matrix[heldout] @ weights + bias)))
    truth = labels[heldout] == 1
    settings: dict[str, Any] = {
        "format": FORMAT,
        "buckets": buckets,
        "seed": seed,
        "documents": {"good": len(sides[0].places), "crawl": len(sides[1].places)},
        "heldout": int(heldout.sum()),
        "accuracy": round(float(((scores >= 0.5) == truth).mean()), 4),
        "auc": round(auc(scores[truth], scores[~truth]), 4),
        "quantiles": {
            side: {str(q): round(float(np.quantile(part, q)), 4) for q in (0.01, 0.1, 0.5, 0.9, 0.99)}
            for side, part in (("good", scores[truth]), ("crawl", scores[~truth]))
        },
    }
    _write(out, weights, bias, settings)
    return settings


def _write(out: Path, weights: np.ndarray, bias: float, settings: dict[str, Any]) -> None:
    from safetensors.numpy import save

    with files.atomic_folder(out) as folder:
        tensors = {"weights": weights.astype(np.float32), "bias": np.array([bias], np.float32)}
        with files.atomic_path(folder / WEIGHTS) as temporary:
            temporary.write_bytes(save(tensors))
        settings["sha256"] = files.sha256(folder / WEIGHTS)
        files.write_json(folder / SETTINGS, settings)


def auc(good: np.ndarray, other: np.ndarray) -> float:
    """The probability that a good example scores higher than another (ties count half): the Mann-Whitney statistic."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, good, "left").sum()
    upto = np.searchsorted(ordered, good, "right").sum()
    return float(below + upto) / (2 * len(good) * len(other))


def _side(path: Path, buckets: int, seed: int, most: int) -> Side:
    drawn: dict[str, str] = {}
    for text in texts(path):
        drawn.setdefault(records.key_of(text), text[:CHARACTERS])
        if len(drawn) >= 2 * most:
            drawn = _first(drawn, seed, most)
    drawn = _first(drawn, seed, most)
    if len(drawn) < LEAST:
        raise DataError(
            f"{len(drawn)} different documents are too few to learn from",
            where=str(path),
            fix=f"give at least {LEAST}; a few thousand make a useful model",
        )
    rows = [features(Words(text), buckets) for text in drawn.values()]
    heldout = np.array([seeds.unit(seed, f"heldout/{key}") < HELDOUT for key in drawn])
    heldout[:2] = True, False  # both parts have a document, however few there are
    return Side([places for places, _ in rows], [values for _, values in rows], heldout)


def _first(drawn: dict[str, str], seed: int, most: int) -> dict[str, str]:
    order = sorted(drawn, key=lambda key: (seeds.unit(seed, f"draw/{key}"), key))
    return {key: drawn[key] for key in order[:most]}


def _matrix(sides: list[Side], buckets: int) -> tuple[Any, np.ndarray, np.ndarray]:
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        raise TriviumError(
            "training a quality model needs scikit-learn", fix="pip install 'trivium[data]'"
        ) from None
    places = [one for side in sides for one in side.places]
    values = [one for side in sides for one in side.values]
    ends = np.concatenate(([0], np.cumsum([len(one) for one in places])))
    matrix = csr_matrix((np.concatenate(values), np.concatenate(places), ends), (len(places), buckets))
    labels = np.concatenate([np.full(len(side.places), 1 - number) for number, side in enumerate(sides)])
    return matrix, labels, np.concatenate([side.heldout for side in sides])


def _fit(matrix: Any, labels: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Weights over all buckets and a bias. Both sides weigh the same, however many documents they have."""
    from sklearn.linear_model import LogisticRegression

    used = np.unique(matrix.indices)  # the solver keeps dense copies: give it only buckets that occur
    model = LogisticRegression(C=100.0, class_weight="balanced", max_iter=200, random_state=seed % 2**31)
    model.fit(matrix[:, used], labels)
    weights = np.zeros(matrix.shape[1])
    weights[used] = model.coef_[0]
    return weights, float(model.intercept_[0])


def texts(path: Path) -> Iterator[str]:
    """The texts of a file or of all files of a folder. DataError if there are none, or for a row without a `text`."""
    found = sorted(one for one in path.rglob("*") if one.suffix in READ) if path.is_dir() else [path]
    if not found or not found[0].exists() or found[0].suffix not in READ:
        raise DataError(
            "there is no text to learn from",
            where=str(path),
            fix=f"name a file or folder of {', '.join(READ)}",
        )
    for one in found:
        yield from (text for text in _read(one) if text.strip())


READ = (".jsonl", ".md", ".parquet", ".txt")


def _read(path: Path) -> Iterator[str]:
    if path.suffix in (".md", ".txt"):
        yield path.read_text(encoding="utf-8", errors="replace")
        return
    for number, row in enumerate(records.read_file(path, ("text",)), start=1):
        if not isinstance(row, dict) or "text" not in row:
            place = "line" if path.suffix == ".jsonl" else "row"
            raise DataError(
                f"a {place} without a `text`", where=f"{path}, {place} {number}", fix="give each one"
            )
        yield str(row["text"] or "")

"""A quality score by a linear model over hashed words and pairs of words.

The idea is fastText's classifier as DCLM uses it (Joulin et al. 2016, arXiv:1607.01759; Li et al. 2024, arXiv:2406.11794):
good examples against the crawl at large. Here each n-gram has one weight, without an embedding between, so that a score is
one sum. Trained by `quality_train.py`.
"""

from __future__ import annotations

import json
import math
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus.steps.base import Document
from trivium.corpus.words import Splitter, Words
from trivium.errors import DataError
from trivium.files import sha256
from trivium.recipe.steps import Quality

WEIGHTS, SETTINGS = "model.safetensors", "quality.json"
FORMAT = "trivium-quality-1"
_PAIR = np.uint64(0x9E3779B97F4A7C15)


def features(words: Words, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, values): hashed words and pairs of words of a text, values 1 + ln(count), of length 1 together.

    places: (features,) int64, ascending, below `buckets`; values: (features,) float32.
    """
    if not words.all:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    hashes = np.fromiter(
        (zlib.crc32(word.lower().encode("utf-8", "surrogatepass")) for word in words.distinct), np.uint64
    )
    hashed = hashes[words.ids] * _PAIR
    hashed ^= hashed >> np.uint64(29)
    pairs = hashed[:-1] * np.uint64(0xBF58476D1CE4E5B9) + hashed[1:]
    pairs ^= pairs >> np.uint64(31)
    mixed = np.concatenate((hashed, pairs)) * np.uint64(0x94D049BB133111EB)
    places, counts = np.unique((mixed >> np.uint64(33)) % np.uint64(buckets), return_counts=True)
    values = 1 + np.log(counts.astype(np.float32))
    return places.astype(np.int64), values / np.linalg.norm(values)


class QualityModel:
    """A trained model: `weights` (buckets,) float32 and a bias; gives the probability of being a good example."""

    def __init__(self, weights: np.ndarray, bias: float, settings: dict[str, Any]) -> None:
        self.weights, self.bias, self.settings = weights, bias, settings

    @staticmethod
    def load(folder: Path) -> QualityModel:
        """Reads a folder that `trivium data quality train` wrote. DataError if it is none or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        fix = "train one with `trivium data quality train GOOD CRAWL --out FOLDER`"
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"no quality model can be read: {error}", where=str(folder), fix=fix) from None
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise DataError(f"{SETTINGS} is not of the format {FORMAT}", where=str(folder), fix=fix)
        if sha256(folder / WEIGHTS) != settings.get("sha256"):
            raise DataError(f"{WEIGHTS} does not have the checksum in {SETTINGS}", where=str(folder), fix=fix)
        return QualityModel(tensors["weights"], float(tensors["bias"][0]), settings)

    def score(self, words: Words) -> float:
        """0 to 1."""
        places, values = features(words, len(self.weights))
        logit = float(self.weights[places] @ values) + self.bias
        return 1 / (1 + math.exp(-max(-500.0, min(500.0, logit))))


@cache
def _model(folder: Path) -> QualityModel:
    return QualityModel.load(folder)


class QualityStep:
    """Adds the column `quality`. Rejects nothing: `keep` decides on the column, so that a threshold can move."""

    name = "quality"
    changes = False

    def __init__(self, config: Quality, split: Splitter, folder: Path) -> None:
        self.model, self.split = _model(folder / config.model), split

    def __call__(self, document: Document) -> str | None:
        document["quality"] = round(self.model.score(self.split(document["text"])), 6)
        return None


def keep(score: float | None, config: Quality | None) -> str | None:
    """None if a document with this score is kept, else the reason. Applied to the column, after reading."""
    if config is None or config.min is None or score is None or score >= config.min:
        return None
    return "quality:min"


def identity(config: Quality | None, folder: Path) -> dict[str, Any] | None:
    """What a stage with this step depends on beyond the recipe: the model's checksum. DataError if there is none."""
    if config is None:
        return None
    return {"sha256": QualityModel.load(folder / config.model).settings["sha256"]}

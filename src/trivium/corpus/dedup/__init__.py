"""Duplicates across a whole corpus, found in columns of hashes: no text is read here.

Exact copies (URL, text), near-copies and lines that stand in many documents. Of each group the best copy stays: the highest
quality score, then the longest, then by the hash of its key, so that nothing depends on the order of reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivium.corpus.dedup.exact import copies
from trivium.corpus.dedup.marks import Marks
from trivium.corpus.dedup.minhash import Clusters, near_copies
from trivium.recipe.dedup import Dedup


@dataclass
class Verdict:
    """What deduplication decided."""

    reason: np.ndarray  # (N,) uint8: 0 kept, else the place in `corpus.plan.REASONS`
    clusters: Clusters


def find(files: list[Path], config: Dedup | None, marks: Marks, made_up: np.ndarray) -> Verdict:
    """Which documents are copies, in the order URL, text, near-duplicate; each looks only at what is left.

    `made_up` (N,) bool: documents of fixed forms (reasoning tasks), which are alike without being copies.
    """
    reason = np.zeros(len(marks.id), np.uint8)
    clusters = Clusters()
    if config is None or not len(marks.id):
        return Verdict(reason, clusters)
    rank = marks.best_first()
    if config.url:
        reason[copies(marks.url_hash != 0, rank, marks.url_hash)] = 1
    if config.exact:
        reason[copies(reason == 0, rank, marks.text_high, marks.text_low)] = 2
    if config.fuzzy:
        found, clusters = near_copies(files, config.fuzzy, marks, (reason == 0) & ~made_up, rank)
        reason[found] = 3
    return Verdict(reason, clusters)

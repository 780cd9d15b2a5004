"""A judge that is trained: logistic regression on what the rules see in a reply, with L2, by Newton's method.

Few labels carry few features: with words beside them, the same labels gave no better judge. The file is JSON: the weights,
how the judge did on replies whose requests it was not fitted on (cross-validation by request), and the hash of its rows.
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from trivium import files
from trivium.errors import ArtifactError, DataError
from trivium.evaluate.calibration import Labels
from trivium.evaluate.rows import short_hash
from trivium.verify.judge import request_of
from trivium.verify.refusal import answers_another, complies, declines, shared_content
from trivium.verify.replies import coherent, words

SHIPPED = Path(__file__).parent / "refused.json"
FOLDS = 10
PENALTY = 1.0
"""Half of it times the squared weights is added to the loss; the bias is free."""
FEATURES: dict[str, Callable[[str, str], float]] = {
    "declines": declines,
    "complies": complies,
    "declines and does not comply": lambda text, request: declines(text, request) and not complies(text, request),
    "answers another": answers_another,
    "share of the request's words": shared_content,
    "none of the request's words": lambda text, request: shared_content(text, request) == 0,
    "log of words": lambda text, request: math.log1p(len(words(text))) / 6,
    "under twelve words": lambda text, request: len(words(text)) < 12,
    "coherent": lambda text, request: coherent(text),
}  # fmt: skip
"""Name -> f(reply, request): the rules' answers and plain measures, each about 0 to 1."""


class Labelled(NamedTuple):
    """A reply and what a person said of it."""

    request: str
    reply: str
    label: bool


@dataclass(frozen=True)
class Head:
    """weights (features,), in the order of `features`; yes where weights @ features + bias > 0."""

    axis: str
    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    labels: Labels
    """On replies to requests that a fold left out."""
    rows: int
    source: str
    """Hash of the labelled rows."""

    def __call__(self, request: str, reply: str) -> bool:
        found = (FEATURES[name](reply, request) for name in self.features)
        return sum(w * float(value) for w, value in zip(self.weights, found, strict=True)) + self.bias > 0


def read_labels(path: Path) -> list[Labelled]:
    """JSON lines {request, reply, label} or a CSV with these columns; label is true, false, 1 or 0. DataError with the line."""
    return [_labelled(row, where) for row, where in labelled_rows(path)]


def labelled_rows(path: Path) -> list[tuple[Any, str]]:
    """The rows of a file, and where each stands."""
    try:
        lines = files.lines(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"labels cannot be read: {error}", where=str(path), fix="give a UTF-8 file of labelled replies"
        ) from None
    if path.suffix == ".csv":
        table = csv.DictReader(line + "\n" for line in lines)
        rows = [(table.line_num, row) for row in table]
    else:
        rows = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    rows.append((number, json.loads(line)))
                except ValueError as error:
                    raise DataError(
                        f"no JSON: {error}", where=f"{path}:{number}", fix="one object a line"
                    ) from None
    return [(row, f"{path}:{number}") for number, row in rows]


def _labelled(row: Any, where: str) -> Labelled:
    label = yes_or_no(row)
    if label is None or not all(isinstance(row.get(name), str) for name in ("request", "reply")):
        raise DataError(
            "a row has `request` and `reply`, texts, and `label`: true, false, 1 or 0",
            where=where,
            fix="name the columns so, and leave out replies without a label",
        )
    return Labelled(row["request"], row["reply"], label)


def yes_or_no(row: Any) -> bool | None:
    """What a row's `label` says."""
    said = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return said.get(str(row.get("label")).lower()) if isinstance(row, Mapping) else None


def read_pairs(path: Path) -> list[tuple[str, str, str]]:
    """(request, chosen, rejected) of JSON lines {prompt, chosen, rejected}, as `trivium arena export --kind preferences` writes
    them. DataError with the line, and for a file without any."""
    pairs = []
    for row, where in labelled_rows(path):
        try:
            pair = request_of(row), str(row["chosen"]), str(row["rejected"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"no pair of replies: {type(error).__name__}: {error}",
                where=where,
                fix="a row has `prompt`, messages, and `chosen` and `rejected`, texts",
            ) from None
        pairs.append(pair)
    if not pairs:
        raise DataError(
            "there is no pair in it", where=str(path), fix="export votes that chose between replies"
        )
    return pairs


def train(rows: Sequence[Labelled], axis: str) -> Head:
    """A head for `axis` and its `labels` by cross-validation: no request is in two folds. DataError for too few labels."""
    kept = list(dict.fromkeys(rows))
    folds = folds_of([row.request for row in kept], FOLDS)
    truth = np.array([row.label for row in kept], bool)
    few = min(truth.sum(), (~truth).sum()) if len(kept) else 0
    if few < FOLDS or len(set(folds)) < 2:
        raise DataError(
            f"too few labels: {int(truth.sum())} yes and {int((~truth).sum())} no",
            fix=f"give {FOLDS} of each at least, on several requests",
        )
    seen = np.array([[float(f(row.reply, row.request)) for f in FEATURES.values()] for row in kept])
    said = np.zeros(len(kept), bool)
    for fold in sorted(set(folds)):
        out = folds == fold
        weights = fit(seen[~out], truth[~out])
        said[out] = seen[out] @ weights[:-1] + weights[-1] > 0
    weights, labels = fit(seen, truth), agreement(said.tolist(), kept)
    return Head(
        axis, tuple(FEATURES), tuple(float(w) for w in weights[:-1]), float(weights[-1]), labels, len(kept),
        short_hash(sorted([list(row) for row in kept])),
    )  # fmt: skip


def folds_of(names: Sequence[str], count: int) -> Any:
    """(names,) the fold of each: the same name is in one fold, whatever others there are."""
    return np.array([int(short_hash(name), 16) % count for name in names])


def fit(seen: Any, truth: Any, steps: int = 50) -> Any:
    """Weights (features + 1,), the bias last, that minimise the log loss, both classes weighing the same, + PENALTY/2 |w|^2."""
    x = np.hstack([seen, np.ones((len(seen), 1))])
    share = truth.mean()
    if share in (0.0, 1.0):
        return np.append(np.zeros(seen.shape[1]), 1.0 if share else -1.0)
    weight = np.where(truth, 0.5 / share, 0.5 / (1 - share))
    penalty = np.diag(np.append(np.full(seen.shape[1], PENALTY), 1e-9))
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        slope = x.T @ (weight * (p - truth)) + penalty @ w
        curve = (x * (weight * p * (1 - p))[:, None]).T @ x + penalty
        step = np.linalg.solve(curve, slope)
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    return w


def save(path: Path, head: Head) -> None:
    files.write_json(path, {**vars(head), "labels": head.labels._asdict()})


def load(path: Path) -> Head:
    """ArtifactError for a file that is no head, or one that knows of features that there are not."""
    return read_head(path, _head, "train one with `trivium evaluate judge train ROWS`")


def _head(found: Mapping[str, Any], labels: Labels) -> Head:
    head = Head(
        str(found["axis"]), tuple(found["features"]), tuple(float(w) for w in found["weights"]), float(found["bias"]),
        labels, int(found["rows"]), str(found["source"]),
    )  # fmt: skip
    finite = all(math.isfinite(w) for w in (*head.weights, head.bias))
    if not finite or len(head.weights) != len(head.features) or not set(head.features) <= set(FEATURES):
        raise ValueError("its weights do not fit the features that there are")
    return head


T = TypeVar("T")


class HasLabel(Protocol):
    @property
    def label(self) -> bool: ...


def read_head(path: Path, made: Callable[[Mapping[str, Any], Labels], T], fix: str) -> T:
    """What `made` makes of a file of JSON and of its labels. ArtifactError for a file that it cannot make anything of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return made(found, Labels(**{key: int(value) for key, value in found["labels"].items()}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ArtifactError(
            f"no trained judge: {type(error).__name__}: {str(error)[:200]}", where=str(path), fix=fix
        ) from None


def agreement(said: Sequence[bool | None], rows: Sequence[HasLabel]) -> Labels:
    """How verdicts (None: undecided, which agrees with nobody) compare with the labels."""
    pairs = [(one, row.label) for one, row in zip(said, rows, strict=True)]
    return Labels(
        sum(label for _, label in pairs),
        sum(one is True for one, label in pairs if label),
        sum(not label for _, label in pairs),
        sum(one is False for one, label in pairs if not label),
    )

"""What becomes of each row: copies, overlap, split and mix, decided in columns over the whole corpus, without its text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import dedup, engine, write
from trivium.corpus.contamination import MADE_UP
from trivium.corpus.dedup import Verdict
from trivium.corpus.dedup.marks import Marks
from trivium.corpus.readers import Setting, Source
from trivium.corpus.withdrawn import Rule
from trivium.recipe.data import DataStage
from trivium.types import Emit

SHARD = 64_000_000
"""Characters of one file of an artifact of documents."""
MORE = 1.15
"""An endless source is asked for this much more than its share, since some of it is dropped."""
SLACK_CHARACTERS, SLACK_ITEMS = 10_000, 50
"""And for so much besides."""
REASONS = (
    ("", ""),
    ("url", "url:copy"),
    ("exact", "exact:copy"),
    ("fuzzy", "fuzzy:near copy"),
    ("decontaminate", "decontaminate:overlap"),
    ("mix", "mix:more than asked for"),
)
CONTAMINATED, SURPLUS = 4, 5


@dataclass
class Corpus:
    """What a run knows about its parts so far."""

    config: DataStage
    seed: int
    setting: Setting
    work: Path
    emit: Emit
    sources: list[Source]
    planned: list[float]
    """Share of the mix of each source, 0 to 1."""
    kept: Path
    """Where parts of finite sources are read to: the work folder, or one that other mixes of the same sources share."""
    evaluated: Path | None = None
    withdrawn: tuple[Rule, ...] = ()
    names: list[str] = field(default_factory=list)
    """Names of the parts, in the order of their numbers."""
    source_of: list[int] = field(default_factory=list)
    """The source of each part."""

    def run(self, job: engine.Job, tasks: Sequence[str], *, small: bool = False) -> None:
        config = self.config
        engine.run(job, tasks, runner=config.runner, workers=config.workers, emit=self.emit, small=small)

    @property
    def documents(self) -> bool:
        """Whether sizes are characters and the artifact is Parquet; of other formats items are counted, in JSON lines."""
        return self.config.format == "documents"

    def sizes(self, marks: Marks) -> np.ndarray:
        """(rows,) int64: what each row counts in the mix."""
        return marks.characters if self.documents else np.ones(len(marks.id), np.int64)

    def stage(self) -> str:
        """The folder of the parts' final text."""
        return "lines" if self.config.dedup and self.config.dedup.lines else "read"

    def read_to(self, place: int) -> Path:
        """The folder that source number `place` is read to. How much of an endless one is read, the mix decides."""
        return (self.work if self.sources[place].endless else self.kept) / "read"

    def part(self, folder: str, number: int) -> Path:
        """The files of a part, without their endings, as the step `folder` left them."""
        above = self.read_to(self.source_of[number]) if folder == "read" else self.work / folder
        return above / self.names[number]

    def sidecars(self, folder: str) -> list[dict[str, Any]]:
        parts = (self.part(folder, number) for number in range(len(self.names)))
        return [json.loads(part.with_suffix(".json").read_text("utf-8")) for part in parts]


@dataclass
class Plan:
    """What becomes of each document: arrays of one entry a document, ordered by id."""

    marks: Marks
    source: np.ndarray  # (N,) int64
    verdict: Verdict
    reason: np.ndarray  # (N,) uint8: 0 kept, else the place in REASONS
    heldout: np.ndarray  # (N,) bool
    available: list[int] = field(default_factory=list)
    """Characters of each source that could be trained on, before the mix took its part."""


def judge(corpus: Corpus) -> Plan:
    """Copies, overlap and split of all that is read so far."""
    files = [
        write.path_of(corpus.part(corpus.stage(), number), "marks") for number in range(len(corpus.names))
    ]
    fuzzy = corpus.config.dedup and corpus.config.dedup.fuzzy
    if files and fuzzy:
        engine.use(corpus.config.runner)
    marks = Marks.read(files)
    source = np.array(corpus.source_of, np.int64)[marks.id >> 32] if files else np.zeros(0, np.int64)
    made_up = np.array([opened.kind in MADE_UP for opened in corpus.sources])[source]
    verdict = dedup.find(files, corpus.config.dedup, marks, made_up)
    share = np.array([heldout_share(corpus.config, opened) for opened in corpus.sources])[source]
    heldout = marks.unit < share
    reason = verdict.reason.copy()
    if corpus.config.on_overlap == "drop":
        reason[(reason == 0) & ~heldout & (marks.overlap != 0)] = CONTAMINATED
    return Plan(marks, source, verdict, reason, heldout)


def heldout_share(config: DataStage, source: Source) -> float:
    return max(config.heldout, source.least_heldout) if config.heldout else 0.0


def _sizes(corpus: Corpus, plan: Plan) -> list[int]:
    """The size of each source that can be trained on."""
    sizes = corpus.sizes(plan.marks)
    usable = (plan.reason == 0) & ~plan.heldout
    return [int(sizes[usable & (plan.source == s)].sum()) for s in range(len(corpus.sources))]


def _total(corpus: Corpus, plan: Plan) -> float:
    """Characters of the mix: as asked, else the largest that the finite sources allow at the given shares."""
    if corpus.config.size is not None:
        return corpus.config.size
    sizes = _sizes(corpus, plan)
    limits = [
        size / share
        for size, share, source in zip(sizes, corpus.planned, corpus.sources, strict=True)
        if not source.endless
    ]
    if limits:
        return max(limits) if getattr(corpus.config, "mix", None) else min(limits)
    return float(max(source.enough for source in corpus.sources))


def asked(corpus: Corpus, plan: Plan, place: int) -> int:
    """Characters to read of an endless source."""
    share = heldout_share(corpus.config, corpus.sources[place])
    slack = SLACK_CHARACTERS if corpus.documents else SLACK_ITEMS
    return int(_total(corpus, plan) * corpus.planned[place] / max(0.01, 1 - share) * MORE) + slack


def mix(corpus: Corpus, plan: Plan) -> None:
    """Takes of each source its share, in the order of the hashes; the last document may go over it.

    Without `size`, a recipe that mixes while loading (`mix`) keeps all there is of finite sources.
    """
    plan.available = _sizes(corpus, plan)
    everything = corpus.config.size is None and getattr(corpus.config, "mix", None)
    total = _total(corpus, plan)
    if corpus.config.size is None and not everything:
        total = min(size / share for size, share in zip(plan.available, corpus.planned, strict=True))
    sizes, usable = corpus.sizes(plan.marks), (plan.reason == 0) & ~plan.heldout
    for place, source in enumerate(corpus.sources):
        if everything and not source.endless:
            continue
        mine = np.flatnonzero(usable & (plan.source == place))
        mine = mine[np.lexsort((plan.marks.id[mine], plan.marks.order[mine]))]
        before = np.cumsum(sizes[mine]) - sizes[mine]
        plan.reason[mine[before >= total * corpus.planned[place]]] = SURPLUS


@dataclass(frozen=True)
class Shard:
    """One file of the artifact."""

    file: str
    rows: int


def shards(corpus: Corpus, plan: Plan) -> tuple[np.ndarray, list[Shard], int]:
    """(shard of each document, the shards, how many of them are for training)."""
    shard = np.full(len(plan.reason), -1, np.int32)
    if not corpus.documents:
        kept = plan.reason == 0
        shard[kept] = plan.heldout[kept]
        counts = [int((kept & (plan.heldout == held)).sum()) for held in (False, True)]
        return shard, [Shard("train.jsonl", counts[0]), Shard("heldout.jsonl", counts[1])], 1
    files: list[Shard] = []
    training = 0
    for split, held in (("train", False), ("heldout", True)):
        for place, source in enumerate(corpus.sources):
            mine = np.flatnonzero((plan.reason == 0) & (plan.heldout == held) & (plan.source == place))
            mine = mine[np.lexsort((plan.marks.id[mine], plan.marks.order[mine]))]
            before = np.cumsum(plan.marks.characters[mine]) - plan.marks.characters[mine]
            numbers = before // SHARD
            for nth, number in enumerate(np.unique(numbers).tolist()):
                chosen = mine[numbers == number]
                shard[chosen] = len(files)
                files.append(Shard(f"{split}/{place:02d}-{source.kind}-{nth:05d}.parquet", len(chosen)))
        training = len(files) if not held else training
    return shard, files, training

"""The documents of a data stage: read part by part, compared across all parts, written in an order of hashes.

    read     source, extraction, steps         parts.Read     one worker a part, a file each
    lines    lines that stand everywhere go    finish.Unline
    global   copies, overlap, split, mix       here and dedup.find, over columns of hashes
    deal, gather   files in their final order  finish.Deal, finish.Gather

All of it lives in the stage's work folder, in files that are whole or absent, so a killed run goes on; what the artifact
holds depends on neither the number of workers nor the runner nor the kill.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trivium import seeds
from trivium.corpus import dedup, engine, ledger, parts
from trivium.corpus.contamination import MADE_UP, Evaluated
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.dedup import Marks, Verdict
from trivium.corpus.finish import Deal, Gather, Unline
from trivium.corpus.readers import DocumentSource, Part, Setting, open_documents
from trivium.errors import DataError
from trivium.files import write_array
from trivium.recipe.data import DataStage
from trivium.types import Emit

SHARD = 64_000_000
"""Characters of one file of the artifact."""
SMALL = 16_000_000
"""Characters of a corpus that one process reads sooner than two could start."""
SMALL_TO_DEAL = 200_000_000
"""The same for dealing out what was read, which only copies it."""
MORE = 1.15
"""An endless source is asked for this much more than its share, since some of it is dropped."""
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
    sources: list[DocumentSource]
    planned: list[float]
    """Share of the mix of each source, 0 to 1."""
    evaluated: Path | None = None
    names: list[str] = field(default_factory=list)
    """Names of the parts, in the order of their numbers."""
    source_of: list[int] = field(default_factory=list)
    """The source of each part."""

    def run(self, job: engine.Job, tasks: Sequence[str], *, small: bool = False) -> None:
        config = self.config
        engine.run(job, tasks, runner=config.runner, workers=config.workers, emit=self.emit, small=small)

    def stage(self) -> str:
        """The folder of the parts' final text."""
        return "lines" if self.config.dedup and self.config.dedup.lines else "read"

    def sidecars(self, folder: str) -> list[dict[str, Any]]:
        return [json.loads((self.work / folder / f"{name}.json").read_text("utf-8")) for name in self.names]


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


def build(
    config: DataStage,
    *,
    seed: int,
    recipe_folder: Path,
    out: Path,
    work: Path,
    against: dict[str, Path],
    inputs: dict[str, Path],
    emit: Emit,
) -> dict[str, Any]:
    """Fills `out` with train/*.parquet, heldout/*.parquet, account.json, dead_letters.jsonl, and rejects/ if asked.

    `work` is used again after a kill. DataError for unusable input, for more dead letters than allowed, or if nothing is
    left to train on; TriviumError when the disk is full.
    """
    extract = config.extract
    folder = recipe_folder.absolute()
    setting = Setting(
        0, folder, seed, extract=extract.library, main_content=extract.main_content, inputs=inputs, work=work
    )
    weights = [source.weight or 1.0 for source in config.sources]
    opened = [
        open_documents(
            source, Setting(**{**vars(setting), "index": place, "seed": seeds.derive(seed, "source", place)})
        )
        for place, source in enumerate(config.sources)
    ]
    work.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(config, seed, setting, work.absolute(), emit, opened, [w / sum(weights) for w in weights])
    if against:
        corpus.evaluated = corpus.work / "evaluated.npz"
        Evaluated.read(against, config.ngram).save(corpus.evaluated)
    finite = [place for place, source in enumerate(opened) if not source.endless]
    read(corpus, dict.fromkeys(finite))
    plan = judge(corpus)
    endless = [place for place, source in enumerate(opened) if source.endless]
    if endless:
        read(corpus, {place: _asked(corpus, plan, place) for place in endless})
        plan = judge(corpus)
    mix(corpus, plan)
    if not ((plan.reason == 0) & ~plan.heldout).any():
        raise ledger.nothing(corpus, plan)
    shards = finish(corpus, plan, out)
    return ledger.write(corpus, plan, shards, out)


def read(corpus: Corpus, wanted: dict[int, int | None]) -> None:
    """Reads these sources (source -> characters, for endless ones) to part files. DataError for too many dead letters."""
    found: list[Part] = []
    for place, characters in wanted.items():
        found += corpus.sources[place].parts(characters)
    tasks = parts.tasks(found, len(corpus.names))
    job = parts.Read(corpus.config, corpus.setting, corpus.seed, corpus.work / "read", corpus.evaluated)
    corpus.run(job, tasks, small=_small(found, corpus.setting.folder))
    corpus.names += [parts.name_of(part) for part in found]
    corpus.source_of += [part.source for part in found]
    dead = DeadLetters(corpus.config.max_dead)
    for sidecar in corpus.sidecars("read"):
        dead.extend(sidecar["dead"])
    for place in wanted:
        _something(corpus, place)
    lines = corpus.config.dedup.lines if corpus.config.dedup else None
    if lines:
        _unline(corpus, tasks, found)


def _something(corpus: Corpus, place: int) -> None:
    """Tells of what could not be read of a source. DataError if not one document could."""
    dead, count = DeadLetters(), 0
    for number, sidecar in zip(corpus.source_of, corpus.sidecars("read"), strict=True):
        if number == place:
            dead.extend(sidecar["dead"])
            count += sidecar["steps"][0]["documents_in"]
    if not count:
        source = corpus.sources[place]
        raise DataError(
            f"source {place + 1} ({source.kind}) gave no document; what could not be read: {len(dead)}\n{dead.first()}",
            where=dead.letters[0].where if dead.letters else source.origin,
            fix="mend or replace the files named, or take the source out of the recipe",
        )
    if dead.letters:
        message = (
            f"source {place + 1} could not read {len(dead)} of its inputs; dead_letters.jsonl names them all:"
        )
        corpus.emit({"event": "warning", "message": f"{message}\n{dead.first()}"})


def _unline(corpus: Corpus, tasks: list[str], found: list[Part]) -> None:
    """Counts the lines of what is read for the first time here (made-up sources repeat by design), removes them."""
    assert corpus.config.dedup and corpus.config.dedup.lines
    repeated = corpus.work / "repeated.npy"
    real = [
        n
        for n, s in zip(corpus.names, corpus.source_of, strict=True)
        if corpus.sources[s].kind not in MADE_UP
    ]
    if not repeated.exists():
        import pyarrow.parquet as pq

        files = [parts.path_of(corpus.work / "read" / name, "lines") for name in real]
        total = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        if files:
            engine.use(corpus.config.runner)
        hashes = dedup.repeated_lines(files, corpus.config.dedup.lines, total)
        write_array(repeated, hashes)
    job = Unline(corpus.config, corpus.seed, corpus.work / "read", corpus.work / "lines", repeated)
    named = [
        json.dumps({"number": json.loads(task)["number"], "name": parts.name_of(part)})
        for task, part in zip(tasks, found, strict=True)
    ]
    corpus.run(job, named, small=_small(found, corpus.setting.folder))


def _small(found: list[Part], folder: Path) -> bool:
    """Whether the parts are local files that one process reads sooner than two could start."""
    try:
        sizes = [(folder / name).stat().st_size for part in found for name in (part.files or (part.path,))]
    except (OSError, ValueError):
        return False
    return sum(sizes) < SMALL // 8


def judge(corpus: Corpus) -> Plan:
    """Copies, overlap and split of all that is read so far."""
    files = [parts.path_of(corpus.work / corpus.stage() / name, "marks") for name in corpus.names]
    if files:
        engine.use(corpus.config.runner)
    marks = Marks.read(files)
    source = np.array(corpus.source_of, np.int64)[marks.id >> 32] if files else np.zeros(0, np.int64)
    made_up = np.array([one.kind in MADE_UP for one in corpus.sources])[source]
    verdict = dedup.find(files, corpus.config.dedup, marks, made_up)
    share = np.array([heldout_share(corpus.config, one) for one in corpus.sources])[source]
    heldout = marks.unit < share
    reason = verdict.reason.copy()
    if corpus.config.on_overlap == "drop":
        reason[(reason == 0) & ~heldout & (marks.overlap != 0)] = CONTAMINATED
    return Plan(marks, source, verdict, reason, heldout)


def heldout_share(config: DataStage, source: DocumentSource) -> float:
    return max(config.heldout, source.least_heldout) if config.heldout else 0.0


def _sizes(corpus: Corpus, plan: Plan) -> list[int]:
    """Characters of each source that can be trained on."""
    usable = (plan.reason == 0) & ~plan.heldout
    return [int(plan.marks.characters[usable & (plan.source == s)].sum()) for s in range(len(corpus.sources))]


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


def _asked(corpus: Corpus, plan: Plan, place: int) -> int:
    """Characters to read of an endless source."""
    share = heldout_share(corpus.config, corpus.sources[place])
    return int(_total(corpus, plan) * corpus.planned[place] / max(0.01, 1 - share) * MORE) + 10_000


def mix(corpus: Corpus, plan: Plan) -> None:
    """Takes of each source its share, in the order of the hashes; the last document may go over it.

    Without `size`, a recipe that mixes while loading (`mix`) keeps all there is of finite sources.
    """
    plan.available = _sizes(corpus, plan)
    everything = corpus.config.size is None and getattr(corpus.config, "mix", None)
    total = _total(corpus, plan)
    if corpus.config.size is None and not everything:
        total = min(size / share for size, share in zip(plan.available, corpus.planned, strict=True))
    usable = (plan.reason == 0) & ~plan.heldout
    for place, source in enumerate(corpus.sources):
        if everything and not source.endless:
            continue
        mine = np.flatnonzero(usable & (plan.source == place))
        mine = mine[np.lexsort((plan.marks.id[mine], plan.marks.order[mine]))]
        before = np.cumsum(plan.marks.characters[mine]) - plan.marks.characters[mine]
        plan.reason[mine[before >= total * corpus.planned[place]]] = SURPLUS


@dataclass(frozen=True)
class Shard:
    """One file of the artifact."""

    file: str
    rows: int


def finish(corpus: Corpus, plan: Plan, out: Path) -> list[Shard]:
    """Deals the documents out and gathers the files into `out`."""
    shard, shards, training = _shards(corpus, plan)
    folder = corpus.work / "plan"
    for name, column in (("shard", shard), ("reason", plan.reason), ("order", plan.marks.order)):
        write_array(folder / f"{name}.npy", column)
    rows = [sidecar["rows"] for sidecar in corpus.sidecars(corpus.stage())]
    starts = np.cumsum([0, *rows])
    small = int(plan.marks.characters.sum()) < SMALL_TO_DEAL
    job = Deal(corpus.config, corpus.work / corpus.stage(), corpus.work / "deal", folder, REASONS, training)
    corpus.run(
        job,
        [
            json.dumps({"name": name, "start": int(start), "rows": count})
            for name, start, count in zip(corpus.names, starts, rows, strict=False)
        ],
        small=small,
    )
    gathered: dict[int, list[tuple[str, list[int]]]] = {}
    for name, sidecar in zip(corpus.names, corpus.sidecars("deal"), strict=True):
        for number, groups in sidecar["groups"].items():
            gathered.setdefault(int(number), []).append((name, groups))
    final = corpus.work / "final"
    corpus.run(
        Gather(corpus.work / "deal", final),
        [json.dumps({"file": one.file, "parts": gathered[place]}) for place, one in enumerate(shards)],
        small=small,
    )
    for split in ("train", "heldout"):
        (out / split).mkdir(exist_ok=True)
    for one in shards:
        _place(final / one.file, out / one.file)
    if corpus.config.keep_rejects:
        for stage in dict.fromkeys(("read", corpus.stage(), "deal")):
            for name in corpus.names:
                file = parts.path_of(corpus.work / stage / name, "rejects")
                _place(file, out / "rejects" / f"{stage}-{name}.parquet")
    return shards


def _shards(corpus: Corpus, plan: Plan) -> tuple[np.ndarray, list[Shard], int]:
    """(shard of each document, the shards, how many of them are for training)."""
    shard = np.full(len(plan.reason), -1, np.int32)
    shards: list[Shard] = []
    training = 0
    for split, held in (("train", False), ("heldout", True)):
        for place, source in enumerate(corpus.sources):
            mine = np.flatnonzero((plan.reason == 0) & (plan.heldout == held) & (plan.source == place))
            mine = mine[np.lexsort((plan.marks.id[mine], plan.marks.order[mine]))]
            before = np.cumsum(plan.marks.characters[mine]) - plan.marks.characters[mine]
            numbers = before // SHARD
            for nth, number in enumerate(np.unique(numbers).tolist()):
                chosen = mine[numbers == number]
                shard[chosen] = len(shards)
                shards.append(Shard(f"{split}/{place:02d}-{source.kind}-{nth:05d}.parquet", len(chosen)))
        training = len(shards) if not held else training
    return shard, shards, training


def _place(file: Path, target: Path) -> None:
    """A second name for the file, or a copy where the disk has no second names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)

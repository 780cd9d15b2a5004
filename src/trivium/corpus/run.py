"""A data stage: sources -> rows -> steps -> dedup -> split -> mix -> files, the same way for every format.

    read     source, extraction, steps         read.Read       one worker a part, a file each
    lines    lines that stand everywhere go    dedup.lines     documents, if asked for
    plan     copies, overlap, split, mix       plan, dedup     over columns of hashes, without the text
    deal, gather   rows in their final order   write.Deal, write.Gather

Documents become Parquet files of about equal size in `train` and `heldout`; conversations, preferences and feedback
`train.jsonl` and `heldout.jsonl`. All of it lives in the stage's work folder, in files that are whole or absent, so a killed run
goes on; what the artifact holds depends on neither the number of workers nor the runner nor the kill.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from trivium import seeds
from trivium.corpus import canaries, engine, plan, read, readers, report, write
from trivium.corpus.contamination import MADE_UP, Evaluated
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.dedup.lines import Unline, repeated_lines
from trivium.corpus.plan import REASONS, Corpus, Plan
from trivium.corpus.readers import Part, Setting, open_source
from trivium.corpus.steps.quality import identity as quality_identity
from trivium.corpus.withdrawn import Rule
from trivium.errors import DataError
from trivium.files import write_array
from trivium.recipe.data import DataStage
from trivium.types import Emit

SMALL = 16_000_000
"""Characters of a corpus that one process reads sooner than two could start."""
SMALL_TO_DEAL = 200_000_000
"""The same for dealing out what was read, which only copies it."""


def build(
    config: DataStage,
    *,
    seed: int,
    recipe_folder: Path,
    out: Path,
    against: dict[str, Path],
    emit: Emit,
    work: Path | None = None,
    kept: Path | None = None,
    inputs: dict[str, Path] | None = None,
    withdrawn: Sequence[Rule] = (),
) -> dict[str, Any]:
    """Fills `out` with the training and held-out splits, account.json, dead_letters.jsonl, and rejects/ if asked; returns the
    metrics.

    `against`: data stage -> its artifact's folder, whose held-out items must not be seen in this training split. `work`:
    what a killed run left for the next try. `kept`: a folder that stays, for all mixes of what is read here (None: in `work`);
    whoever gives it answers for it that the same is read. `inputs`: stage -> its artifact's folder, for sources that read another
    stage.
    `withdrawn`: what is dropped before anything else is done with it.
    DataError for unusable input, for more dead letters than allowed, or if nothing is left to train on; TriviumError when the
    disk is full.
    """
    with tempfile.TemporaryDirectory() as scratch:
        corpus = _opened(config, seed, recipe_folder, (work or Path(scratch)).absolute(), inputs or {}, emit)
        corpus.kept = (kept or corpus.work).absolute()
        corpus.withdrawn = tuple(withdrawn)
        if against:
            corpus.evaluated = corpus.work / "evaluated.npz"
            Evaluated.read(against, config.ngram).save(corpus.evaluated)
        endless = [place for place, source in enumerate(corpus.sources) if source.endless]
        finite = [place for place in range(len(corpus.sources)) if place not in endless]
        _read(corpus, dict.fromkeys(finite))
        decided = plan.judge(corpus)
        if endless:
            _read(corpus, {place: plan.asked(corpus, decided, place) for place in endless})
            decided = plan.judge(corpus)
        plan.mix(corpus, decided)
        if not ((decided.reason == 0) & ~decided.heldout).any():
            raise report.nothing(corpus, decided)
        _write(corpus, decided, out)
        return report.write(corpus, decided, out)


def identity(config: DataStage, recipe_folder: Path) -> dict[str, Any]:
    """What the artifact depends on beyond the recipe: versions and file checksums, per source."""
    depends: dict[str, Any] = {
        "sources": [readers.identity(source, recipe_folder) for source in config.sources]
    }
    if config.decontaminate:
        depends["against"] = sorted(config.decontaminate)  # the account names the stages
    if quality := quality_identity(config.quality, recipe_folder):
        depends["quality"] = quality
    return depends


def _opened(
    config: DataStage, seed: int, folder: Path, work: Path, inputs: dict[str, Path], emit: Emit
) -> Corpus:
    extract = config.extract
    setting = Setting(
        format=config.format,
        folder=folder.absolute(),
        seed=seed,
        extract=extract.library,
        main_content=extract.main_content,
        inputs=inputs,
        work=work,
    )
    weights = [source.weight or 1.0 for source in config.sources]
    opened = [
        open_source(
            block, Setting(**{**vars(setting), "index": place, "seed": seeds.derive(seed, "source", place)})
        )
        for place, block in enumerate(config.sources)
    ]
    for source in opened:
        source.emit = emit
    work.mkdir(parents=True, exist_ok=True)
    shares = [weight / sum(weights) for weight in weights]
    return Corpus(config, seed, setting, work, emit, opened, shares, kept=work)


def _read(corpus: Corpus, wanted: dict[int, int | None]) -> None:
    """Reads these sources (source -> characters, for endless ones) to part files. DataError for too many dead letters."""
    parts: list[Part] = []
    for place, characters in wanted.items():
        parts += corpus.sources[place].parts(characters)
    tasks = read.tasks(parts, len(corpus.names))
    folder = corpus.read_to(next(iter(wanted), 0))
    job = read.Read(corpus.config, corpus.setting, corpus.seed, folder, corpus.evaluated, corpus.withdrawn)
    corpus.run(job, tasks, small=_small(parts, corpus.setting.folder))
    corpus.names += [write.name_of(part) for part in parts]
    corpus.source_of += [part.source for part in parts]
    dead = DeadLetters(corpus.config.max_dead)
    for sidecar in corpus.sidecars("read"):
        dead.extend(sidecar["dead"])
    for place in wanted:
        _something(corpus, place)
    lines = corpus.config.dedup.lines if corpus.config.dedup else None
    if lines:
        _unline(corpus, folder, tasks, parts)


def _something(corpus: Corpus, place: int) -> None:
    """Tells of what could not be read of a source. DataError if not one document could."""
    source, count = corpus.sources[place], 0
    dead = DeadLetters(source.max_dead)
    for number, sidecar in zip(corpus.source_of, corpus.sidecars("read"), strict=True):
        if number == place:
            dead.extend(sidecar["dead"])
            count += sidecar["steps"][0]["documents_in"]
    if not count:
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


def _unline(corpus: Corpus, folder: Path, tasks: list[str], parts: list[Part]) -> None:
    """Counts the lines of what is read for the first time here (made-up sources repeat by design), removes them."""
    assert corpus.config.dedup and corpus.config.dedup.lines
    repeated = corpus.work / "repeated.npy"
    real = [number for number, s in enumerate(corpus.source_of) if corpus.sources[s].kind not in MADE_UP]
    if not repeated.exists():
        import pyarrow.parquet as pq

        files = [write.path_of(corpus.part("read", number), "lines") for number in real]
        total = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        if files:
            engine.use(corpus.config.runner)
        hashes = repeated_lines(files, corpus.config.dedup.lines, total)
        write_array(repeated, hashes)
    job = Unline(corpus.config, corpus.seed, folder, corpus.work / "lines", repeated)
    named = [
        json.dumps({"number": json.loads(task)["number"], "name": write.name_of(part)})
        for task, part in zip(tasks, parts, strict=True)
    ]
    corpus.run(job, named, small=_small(parts, corpus.setting.folder))


def _small(parts: list[Part], folder: Path) -> bool:
    """Whether the parts are local files that one process reads sooner than two could start."""
    try:
        sizes = [(folder / name).stat().st_size for part in parts for name in (part.files or (part.path,))]
    except (OSError, ValueError):
        return False
    return sum(sizes) < SMALL // 8


def _write(corpus: Corpus, decided: Plan, out: Path) -> None:
    """Deals the rows out and gathers the files into `out`."""
    shard, shards, training = plan.shards(corpus, decided)
    folder = corpus.work / "plan"
    for name, column in (("shard", shard), ("reason", decided.reason), ("order", decided.marks.order)):
        write_array(folder / f"{name}.npy", column)
    rows = [sidecar["rows"] for sidecar in corpus.sidecars(corpus.stage())]
    starts = np.cumsum([0, *rows])
    small = int(decided.marks.characters.sum()) < SMALL_TO_DEAL
    job = write.Deal(corpus.config, corpus.work / "deal", folder, REASONS, training)
    corpus.run(
        job,
        [
            json.dumps(
                {
                    "name": name,
                    "from": str(corpus.part(corpus.stage(), number)),
                    "start": int(starts[number]),
                    "rows": rows[number],
                }
            )
            for number, name in enumerate(corpus.names)
        ],
        small=small,
    )
    gathered: dict[int, list[tuple[str, list[int]]]] = {}
    for name, sidecar in zip(corpus.names, corpus.sidecars("deal"), strict=True):
        for number, groups in sidecar["groups"].items():
            gathered.setdefault(int(number), []).append((name, groups))
    final = corpus.work / "final"
    planted = _planted(corpus, [planned.rows for planned in shards[:training]], out)
    corpus.run(
        write.Gather(corpus.work / "deal", final),
        [
            json.dumps({"file": planned.file, "parts": gathered.get(place, []), "planted": lines})
            for place, (planned, lines) in enumerate(zip(shards, chain(planted, repeat([])), strict=False))
        ],
        small=small,
    )
    if corpus.documents:
        for split in ("train", "heldout"):
            (out / split).mkdir(exist_ok=True)
    for planned in shards:
        _place(final / planned.file, out / planned.file)
    if corpus.config.keep_rejects:
        for stage in dict.fromkeys(("read", corpus.stage(), "deal")):
            for number, name in enumerate(corpus.names):
                file = write.path_of(corpus.part(stage, number), "rejects")
                _place(file, out / "rejects" / f"{stage}-{name}.parquet")


def _planted(corpus: Corpus, rows: Sequence[int], out: Path) -> list[list[dict[str, Any]]]:
    """The canaries that go into each file of the training split; their list is written to `out`."""
    if corpus.config.canaries is None:
        return []
    found = canaries.made(corpus.config.canaries, corpus.seed)
    canaries.write(out / canaries.FILE, found)
    return canaries.planted(found, corpus.seed, rows)


def _place(file: Path, target: Path) -> None:
    """A second name for the file, or a copy where the disk has no second names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)

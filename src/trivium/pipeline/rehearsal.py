"""Some real steps of each training stage: what `trivium plan --calibrate` knows of this machine.

A stage whose data and tokenizer are there is rehearsed as it will run (`training.train_here`: its rows, its network, optimizer,
compiler, its reference's pass or its replies), on a part of its records, from what the stage before it left in its own rehearsal.
Of another one the loop alone is, on rows that are full and made up. Kept beside the store, by what decides the speed.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from trivium.cores import cores, stolen
from trivium.errors import TriviumError
from trivium.files import read_json, write_json, write_text
from trivium.pipeline.contract import Artifact, Context
from trivium.plan.cost import Speed, model_of
from trivium.recipe.data import DataStage, TokenizerStage
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import Parallel
from trivium.recipe.sources import Crawl, HuggingFace
from trivium.recipe.training import TrainingStage
from trivium.types import Event

STEPS, MOST, SECONDS = 8, 160, 15.0
"""Fewest and most steps, and how long they are meant to take together: a processor is fastest in its first seconds."""
REACHED = 0.25
"""Share of the peak with which so many are counted."""
RECORDS = 1024
"""Of each split of the data, in about the proportions of its files."""
LONGEST = 3.0
"""Minutes of data stages that are made for a rehearsal: they are kept, and the run finds them."""
QUIET: dict[str, Any] = {
    "samples": None,
    "validate_every": None,
    "keep_best": None,
    "patience": None,
    "keep_optimizer": False,
    "log_every": 1,
}


def wanted(recipe: Recipe, minutes: Mapping[str, float], made: Mapping[str, Artifact]) -> list[str]:
    """The data and tokenizer stages that are not `made` and that a rehearsal is worth making: `minutes` planned for each."""
    look = Look(recipe, Lines())
    data = {name: stage for name, stage in look.each(DataStage) if name not in made}
    missing = list(data)
    local = not any(
        isinstance(source, Crawl | HuggingFace) for stage in data.values() for source in stage.sources
    )
    known = all(name in minutes for name in missing) and sum(minutes[name] for name in missing) <= LONGEST
    if not local or not known:
        return []
    return missing + [
        name for name, stage in look.each(TokenizerStage) if name not in made and stage.data in recipe.stages
    ]


def known(recipe: Recipe, path: Path) -> dict[str, Speed]:
    """What earlier rehearsals, kept at `path`, say of the stages of `recipe`."""
    kept, look = _read(path), Look(recipe, Lines())
    if not kept:
        return {}
    found = {}
    for name, stage in look.each(TrainingStage):
        if (key := _key(look, name, stage)) is not None and key in kept:
            found[name] = Speed(*kept[key])
    return found


def rehearse(
    recipe: Recipe,
    compiled: Collection[str],
    peak: float,
    path: Path,
    tell: Callable[[str], object] = lambda _: None,
    made: Mapping[str, Artifact] | None = None,
    recipe_folder: Path = Path(),
) -> dict[str, Speed]:
    """Measures every training stage that runs in one process here, and keeps the result at `path`.

    `compiled`: the stages that a whole run compiles; `peak`: of matrix products, FLOP/s; `made`: artifacts
    of stages that have run.
    """
    from trivium.train.machine import can_compile, resolve

    look = Look(recipe, Lines())
    with tempfile.TemporaryDirectory() as folder:
        stand_in = _StandIn(recipe, dict(made or {}), Path(folder), recipe_folder, peak)
        for name, stage in look.each(TrainingStage):
            key = _key(look, name, stage)
            if key is None:
                continue
            steps = _steps(look, name, stage, peak)
            tell(f"rehearsing {name}: {steps} steps")
            config = stage.model_copy(
                update={
                    **QUIET,
                    "steps": steps,
                    "tokens": None,
                    "epochs": None,
                    "parallel": Parallel(),
                    "compile": "on" if name in compiled and can_compile(resolve(stage).device) else "off",
                }
            )
            try:
                speed = stand_in.run(name, config)
            except TriviumError as error:  # the run itself will say so, and where
                tell(f"{name}: on rows that are made up, since its own cannot be had ({error.what})")
                speed = None
            speed = speed or _measure(look, name, config, peak)
            if speed is not None:
                write_json(path, {**_read(path), key: list(speed)})
    return known(recipe, path)


def _steps(look: Look, name: str, stage: TrainingStage, peak: float) -> int:
    from trivium.plan import flops

    config, context = model_of(look, name), look.context(stage)
    assert config is not None and context is not None
    rows = stage.batch * stage.rows_per_item()
    each = rows * context * stage.forwards * flops.forward(config, context)
    count = min(MOST, max(STEPS, round(SECONDS * peak * REACHED / each)))
    return max(2, round(count / stage.period)) * stage.period


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):  # missing or damaged: measured again
        return {}
    return (
        {
            key: value
            for key, value in found.items()
            if isinstance(value, list) and len(value) == len(Speed._fields)
        }
        if isinstance(found, dict)
        else {}
    )


def _key(look: Look, name: str, stage: TrainingStage) -> str | None:
    """What decides the speed of a stage. None where a rehearsal in this process would say nothing of it."""
    import torch

    config, context = model_of(look, name), look.context(stage)
    several = isinstance(stage.parallel, Parallel) and stage.parallel.ranks > 1
    if (
        config is None
        or context is None
        or several
        or stage.launch.kind != "local"
        or getattr(stage, "rollout_server", None)
    ):
        return None
    length = set(stage.duration_fields) | {"max_epochs", "parallel", "launch", *QUIET}
    what = stage.model_dump(mode="json", exclude=length)
    data = look.get(stage.data, DataStage)
    rows = None if data is None else data.model_dump(mode="json", exclude={"size"})
    return json.dumps(
        [repr(config), context, what, rows, torch.__version__, torch.get_num_threads()], sort_keys=True
    )


@dataclass
class _StandIn:
    """Runs stages of a recipe in a folder that is thrown away, each on a part of its data."""

    recipe: Recipe
    made: dict[str, Artifact]
    folder: Path
    recipe_folder: Path
    peak: float
    parts: dict[str, Artifact] = field(default_factory=dict)
    """Of data stages: some of their records."""

    def run(self, name: str, config: TrainingStage) -> Speed | None:
        """None where an input is not there."""
        from trivium.pipeline.training import train_here
        from trivium.recipe.references import references

        inputs = {}
        for _, other in references(config):
            if isinstance(self.recipe.stages[other], DataStage) and other in self.made:
                inputs[other] = self._part(other)
            elif other in self.made:
                inputs[other] = self.made[other]
            else:
                return None
        out, work = self.folder / name, self.folder / "store" / "work" / name
        out.mkdir()
        work.mkdir(parents=True)
        times: dict[str, float] = {}
        looks: dict[str, tuple[int, int]] = {}

        def emit(event: Event, /) -> None:
            if event["event"] in ("phase", "step"):
                name = f"{event['event']} {event.get('step', '')}".strip()
                times[name], looks[name] = time.monotonic(), stolen()

        stages = {**self.recipe.stages, name: config}
        recipe = self.recipe.model_copy(update={"stages": stages})
        context = Context(name, config, recipe, inputs, out, work, 0, emit, self.recipe_folder)
        started = time.monotonic()
        metrics = train_here(context)
        ended = time.monotonic()
        self.made.setdefault(name, Artifact(out, {"fingerprint": name, "metrics": metrics}))
        steps, first = metrics["steps"], config.period
        step = (times[f"step {steps}"] - times[f"step {first}"]) / (steps - first)
        before = times["phase"] - started
        records = self._part(config.data).metrics
        count = records["train_items"] + records["heldout_items"]
        account, each = metrics["data"], metrics["tokens"] / (steps * config.batch)
        items = account["tokens_available"] / each if "tokens_available" in account else account["items"]
        start = max(0.0, ended - started - before - steps * step)
        usual = as_usual(looks[f"step {first}"], looks[f"step {steps}"], cores())
        return Speed(step * usual, start, before / count, items / records["train_items"], each)

    def _part(self, name: str) -> Artifact:
        if name not in self.parts:
            whole, part = self.made[name], self.folder / f"part of {name}"
            shutil.copytree(whole.path, part, ignore=shutil.ignore_patterns("train*", "heldout*"))
            counts = {split: _first(whole.path, part, split) for split in ("train", "heldout")}
            metrics = {**whole.metrics, **{f"{split}_items": count for split, count in counts.items()}}
            self.parts[name] = Artifact(part, {**whole.record, "metrics": metrics})
        return self.parts[name]


def _first(whole: Path, part: Path, split: str) -> int:
    """Copies the first records of a split, the same share of each of its files; how many these are."""
    import pyarrow.parquet as parquet

    from trivium.corpus import records

    sizes: dict[Path, int] = {}
    for file in records.files(whole / split):
        with file.open("rb") as lines:
            sizes[file] = (
                sum(1 for _ in lines)
                if file.suffix == ".jsonl"
                else parquet.ParquetFile(file).metadata.num_rows
            )
    share, count = min(1.0, RECORDS / max(1, sum(sizes.values()))), 0
    for file, size in sizes.items():
        copy, some = part / file.relative_to(whole), math.ceil(size * share)
        copy.parent.mkdir(exist_ok=True)
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                write_text(copy, "".join(islice(lines, some)))
        else:
            reader = parquet.ParquetFile(file)
            with parquet.ParquetWriter(copy, reader.schema_arrow) as writer:
                for batch in islice(reader.iter_batches(max(1, some)), 1):
                    writer.write_batch(batch)
        count += some
    return count


def _measure(look: Look, name: str, stage: TrainingStage, peak: float) -> Speed | None:
    """Of the loop alone, on made-up rows; what a phase does beside training is added in proportion. None for replies of the
    policy and for adapters."""
    import torch

    from trivium.model.transformer import Transformer
    from trivium.objectives import NextToken
    from trivium.seeds import derive
    from trivium.train.loop import train
    from trivium.train.machine import resolve
    from trivium.train.run import Run

    config, context = model_of(look, name), look.context(stage)
    assert config is not None and context is not None
    if stage.rows in ("rollouts", "taught") or stage.adapter is not None:
        return None
    machine, steps = resolve(stage), stage.steps or STEPS
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(derive(0, "rehearsal")))
    model.recompute = stage.recompute == "blocks"
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model.to(machine.device),
            objective=NextToken(),
            batches=Same(config.vocab_size, stage, context),
            steps=steps,
            config=stage,
            machine=machine,
            folder=Path(folder),
            emit=lambda _: None,
            peak=peak,
        )
        started, before = time.monotonic(), stolen()
        typical = train(run)["seconds_per_step"]
    start = max(0.0, time.monotonic() - started - steps * typical)
    return Speed(typical * as_usual(before, stolen(), cores()) * stage.forwards / 3, start)


def as_usual(before: tuple[int, int], after: tuple[int, int], threads: int) -> float:
    """By what the time between two looks at `cores.stolen` is multiplied to be that of the machine as it was since it started.

    A virtual machine's processors are given to others now and then, for half a minute a fifth of the time, and threads that
    compute together wait for each other: all get on while none of them is stopped."""
    waited, worked = after[0] - before[0], after[1] - before[1]
    now, ever = waited / max(1, waited + worked), after[0] / max(1, sum(after))
    return ((1 - now) / (1 - ever)) ** threads if now < 1 and ever < 1 else 1.0


class Same:
    """The same batch of made-up tokens in each step."""

    period = 1

    def __init__(self, words: int, stage: TrainingStage, context: int) -> None:
        import torch

        micro = stage.micro_batch or stage.batch
        rows, self.count = micro * stage.rows_per_item(), stage.batch // micro
        places = torch.arange(context).expand(rows, -1)
        tokens = (places * 7919 + torch.arange(rows)[:, None] * 104729) % words
        self.one = {
            "tokens": tokens,
            "targets": tokens.roll(-1, 1),
            "loss_mask": torch.ones(rows, context),
            "positions": places.contiguous(),
            "doc_id": torch.zeros(rows, context, dtype=torch.long),
        }

    def batch(self, step: int) -> list[Any]:
        return [self.one] * self.count

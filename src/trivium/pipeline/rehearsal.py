"""A few real steps of each training stage, on made-up tokens: what `trivium plan --calibrate` knows of this machine.

The network, its optimizer, the compiler and the loop are those of the run; rows are full and hold one document. What a phase does
beside training (a reference's pass) is added in proportion. Kept beside the store, by what decides the speed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trivium.files import read_json, write_json
from trivium.plan.cost import Speed, model_of
from trivium.recipe.alignment import OnlineStage
from trivium.recipe.lines import Lines
from trivium.recipe.look import Look
from trivium.recipe.models import Recipe
from trivium.recipe.parallel import Parallel
from trivium.recipe.training import TrainingStage

STEPS = 6
"""The first pays for warm caches and the compiler; the median of the others is the speed."""


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
    flops: Mapping[str, float],
    peak: float,
    path: Path,
    tell: Callable[[str], object] = lambda _: None,
) -> dict[str, Speed]:
    """Measures every training stage that runs in one process here, and keeps the result at `path`.

    `flops`: of each stage, which decides whether it is compiled; `peak`: of matrix products, FLOP/s.
    """
    look = Look(recipe, Lines())
    for name, stage in look.each(TrainingStage):
        key = _key(look, name, stage)
        if key is None:
            continue
        tell(f"rehearsing {name}: {STEPS} steps")
        speed = _measure(look, name, stage, flops.get(name, 0.0), peak)
        write_json(path, {**_read(path), key: list(speed)})
    return known(recipe, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):  # missing or damaged: measured again
        return {}
    return (
        {key: value for key, value in found.items() if isinstance(value, list) and len(value) == 2}
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
        or stage.adapter is not None
        or isinstance(stage, OnlineStage)
    ):
        return None
    fields = ("batch", "micro_batch", "optimizer", "precision", "recompute", "compile", "device")
    what = {field: getattr(stage, field) for field in fields}
    return json.dumps(
        [repr(config), context, stage.rows_per_item(), what, torch.__version__, torch.get_num_threads()]
    )


def _measure(look: Look, name: str, stage: TrainingStage, flops: float, peak: float) -> Speed:
    import torch

    from trivium.model.transformer import Transformer
    from trivium.objectives import NextToken
    from trivium.seeds import derive
    from trivium.train.loop import train
    from trivium.train.machine import compiling_pays, resolve
    from trivium.train.run import Run

    config, context = model_of(look, name), look.context(stage)
    assert config is not None and context is not None
    machine = resolve(stage)
    model = Transformer(config)
    model.initialise(torch.Generator().manual_seed(derive(0, "rehearsal")))
    model.recompute = stage.recompute == "blocks"
    quiet = {
        "samples": None,
        "validate_every": None,
        "keep_best": None,
        "patience": None,
        "keep_optimizer": False,
    }
    compiled = compiling_pays(stage, flops, peak)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            model=model.to(machine.device),
            objective=NextToken(),
            batches=Same(config.vocab_size, stage, context),
            steps=STEPS,
            config=stage.model_copy(update={**quiet, "compile": "on" if compiled else "off"}),
            machine=machine,
            folder=Path(folder),
            emit=lambda _: None,
            peak=peak,
        )
        started = time.monotonic()
        typical = train(run)["seconds_per_step"]
    start = max(0.0, time.monotonic() - started - STEPS * typical)
    return Speed(typical * stage.forwards / 3, start)


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

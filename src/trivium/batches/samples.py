"""What the model in training says to a few fixed prompts: words for people, between the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice, zip_longest
from typing import Any

import torch

from trivium.batches.context import PhaseContext
from trivium.corpus import records
from trivium.errors import DataError
from trivium.generate.engine import generate
from trivium.generate.sampling import SamplingParams
from trivium.model import lora
from trivium.model.transformer import Transformer
from trivium.recipe.training import TrainingStage
from trivium.seeds import derive
from trivium.train.distributed import mesh, rank
from trivium.train.parallel.state import gathered, whole

WORDS = 8
"""How much of a held-out document is a prompt."""

Said = list[dict[str, str]]
"""Prompts and what was said to them: [{prompt, text}]."""


def sampler(ctx: PhaseContext[TrainingStage]) -> Callable[[], Said] | None:
    """What says the samples of a stage, or None where it wants none or has nothing to ask. All ranks call it together.

    It draws from numbers of its own, the same at every look, so training goes on as if it had not been called, and what
    changes from look to look is the model. Empty on all ranks but the first.
    """
    config = ctx.config.samples
    if config is None or ctx.config.scalar:
        return None
    shown = [_asked(ctx, text) for text in config.prompts] or _heldout(ctx, config.count)
    if not shown:
        return None
    room = ctx.model.config.context
    new = min(config.tokens, room // 2)
    prompts = [ids[-(room - new) :] for _, ids in shown]
    sampling = SamplingParams(config.temperature, max_new_tokens=new, seed=derive(ctx.seed, "samples"))

    def say() -> Said:
        model = _plain(ctx)
        if rank() != 0:
            return []
        training = model.training
        model.eval()
        with torch.no_grad(), ctx.machine.autocast():
            replies = generate(model, prompts, sampling, ctx.chat.stops)
        model.train(training)
        texts = [ctx.chat.decode(ids) for ids in replies]
        return [{"prompt": asked, "text": text} for (asked, _), text in zip(shown, texts, strict=True)]

    return say


def _plain(ctx: PhaseContext[TrainingStage]) -> Transformer:
    """The model in training as one that this rank can decode with alone: itself, unless its weights lie on several."""
    model = ctx.model
    if ctx.machine.float8:  # decoding is no work for float8: the same weights in a model without it
        with torch.device("meta"):
            shared = Transformer(model.config)
        shared.load_state_dict(whole(model.state_dict()), assign=True)
        return shared
    if all(mesh().size(axis) == 1 for axis in ("shard", "tensor", "context", "pipeline", "expert")):
        return model
    if ctx.config.adapter is not None:
        return lora.merged(model.config, whole(model.state_dict()), ctx.config.adapter)
    return gathered(model)


def _asked(ctx: PhaseContext[TrainingStage], text: str) -> tuple[str, list[int]]:
    """(what is shown, its ids) of a prompt of the recipe: the beginning of a document, or a user's words."""
    if ctx.config.rows == "documents":
        return text, ctx.chat.document(text)[:-1]
    return text, ctx.chat.prompt([{"role": "user", "content": text}])


def _heldout(ctx: PhaseContext[TrainingStage], count: int) -> list[tuple[str, list[int]]]:
    """The first words of held-out documents, or held-out prompts: of as many files (so, sources) as there are."""
    try:
        files = records.files(ctx.data / "heldout")
    except DataError:
        return []
    spread = files[:: max(1, len(files) // count)][:count]
    streams = [records.read_file(file) for file in spread]
    in_turn = (record for turn in zip_longest(*streams) for record in turn if record is not None)
    return [_prompt(ctx, record) for record in islice(in_turn, count)]


def _prompt(ctx: PhaseContext[TrainingStage], record: Mapping[str, Any]) -> tuple[str, list[int]]:
    if "text" in record:
        return _asked(ctx, " ".join(record["text"].split()[:WORDS]))
    turns = records.prompt_of(record)
    return (turns[-1]["content"] if turns else ""), ctx.chat.prompt(turns, record.get("tools"))

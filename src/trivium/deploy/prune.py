"""A smaller student cut from a checkpoint: the blocks that change the residual stream least go (block influence, Men et al.
2024), and of the feed-forward layers the inner units that matter least (by what they give on data, Muralidharan et al. 2024).

It says less than before until it is trained on: `kind: distill` with it as `init` and the full model as `teacher`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.deploy.calibrate import importance
from trivium.deploy.rows import TokenRow
from trivium.deploy.table import Table, bits
from trivium.errors import ArtifactError
from trivium.model import generation as generation_config
from trivium.model.hf import WEIGHTS, load, save
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import PruneStage
from trivium.types import Emit


def influence(model: Transformer, rows: Sequence[TokenRow]) -> list[float]:
    """How much each block turns the residual stream: 1 - the mean cosine of what goes in and what comes out, over all tokens."""
    sums = [0.0] * model.config.layers
    count = sum(len(row.ids) for row in rows)
    with _watched(model, sums), torch.no_grad():
        for row in rows:
            model.hidden(torch.tensor([row.ids]), torch.arange(len(row.ids))[None], None)
    return [1 - total / count for total in sums]


@contextmanager
def _watched(model: Transformer, sums: list[float]) -> Iterator[None]:
    def hook(layer: int) -> Any:
        def add(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sums[layer] += float(F.cosine_similarity(inputs[0].double(), output.double(), dim=-1).sum())

        return add

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(model.model.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def pruned(
    model: Transformer, rows: Sequence[TokenRow], layers: int | None = None, hidden: int | None = None
) -> Transformer:
    """A copy with so many blocks and inner units of its feed-forward layers; None: as many as there are. ArtifactError for a
    mixture of experts, and for more than there are."""
    config = model.config
    if config.experts is not None:
        raise ArtifactError(
            "a mixture of experts is not pruned", fix="distil into a fresh student: `model: {...}`"
        )
    for name, wanted, there in (("layers", layers, config.layers), ("hidden", hidden, config.hidden)):
        if wanted is not None and wanted > there:
            raise ArtifactError(
                f"`{name}` is {wanted}, and the model has {there}", fix="pruning makes it smaller"
            )
    kept = list(range(config.layers))
    if layers is not None and layers < config.layers:
        turns = influence(model, rows)
        kept = sorted(sorted(kept, key=lambda layer: turns[layer])[-layers:])
    state = dict(_renumbered(model.state_dict(), kept))
    if hidden is not None and hidden < config.hidden:
        _narrow(state, importance(model, rows), kept, hidden)
    small = Transformer(
        replace(
            config, layers=len(kept), hidden=hidden or config.hidden,
            windowed=frozenset(new for new, old in enumerate(kept) if old in config.windowed),
            no_rope=frozenset(new for new, old in enumerate(kept) if old in config.no_rope),
        )
    )  # fmt: skip
    small.load_state_dict(state)
    return small.eval()


def _renumbered(state: Mapping[str, Tensor], kept: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    places = {str(old): str(new) for new, old in enumerate(kept)}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            yield name, tensor
        elif parts[2] in places:
            yield ".".join([*parts[:2], places[parts[2]], *parts[3:]]), tensor


def _narrow(state: dict[str, Tensor], seen: Mapping[str, Tensor], kept: Sequence[int], hidden: int) -> None:
    """Leaves the units whose output, times the column that reads it, is largest."""
    for new, old in enumerate(kept):
        layer = f"model.layers.{new}.mlp."
        down = state[f"{layer}down_proj.weight"]
        sizes = seen[f"model.layers.{old}.mlp.down_proj"].sqrt() * down.float().norm(dim=0)
        units = sizes.topk(hidden).indices.sort().values
        state[f"{layer}down_proj.weight"] = down[:, units]
        for name in ("gate_proj.weight", "up_proj.weight", "gate_proj.bias", "up_proj.bias"):
            if layer + name in state:
                state[layer + name] = state[layer + name][units]


def run(config: PruneStage, source: Path, data: Path, out: Path, emit: Emit) -> dict[str, Any]:
    """The stage: writes the student, loads it again and measures it. GateError where a bound of it does not hold."""
    table = Table(config, source, data, emit)
    assert table.calibration is not None
    small = pruned(table.full, table.calibration, config.layers, config.hidden)
    eos = table.chat.stops if table.chat.special else table.chat.end
    save(small, out, eos=eos, pad=table.chat.pad, generation=generation_config.read(source))
    table.chat.save(out, context=table.context)
    size = (out / WEIGHTS).stat().st_size
    table.add(
        "pruned", out / WEIGHTS, load(out), "pruned", calibrated=True, bits_per_weight=bits(size, small),
        layers=small.config.layers, hidden=small.config.hidden,
    )  # fmt: skip
    return {**table.metrics(), "bytes_after": size}

"""What a stage of smaller models tells: the full model's row of the table, and one for each file, beside it on held-out data."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from trivium.deploy import speed
from trivium.deploy.compare import Comparison, broken, check, compare
from trivium.deploy.rows import TokenRow, token_rows
from trivium.model.hf import WEIGHTS, load, read_config
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import SmallerStage
from trivium.text.chat import ChatTokenizer
from trivium.types import Emit


class Table:
    """`source`: the full model. `data`: what calibrates and measures; None: files are told with their sizes alone."""

    def __init__(self, config: SmallerStage, source: Path, data: Path | None, emit: Emit) -> None:
        self.config, self.source, self.data, self.emit = config, source, data, emit
        self.chat, self.context = ChatTokenizer.load(source), read_config(source).config.context
        self.outputs: dict[str, dict[str, Any]] = {}
        self._comparisons: dict[str, Comparison] = {}
        self._heldout = [] if data is None else self._rows(data / "heldout")

    @cached_property
    def full(self) -> Transformer:
        return load(self.source)

    @cached_property
    def calibration(self) -> list[TokenRow] | None:
        """Rows that decide what the smaller model is; None where none do."""
        return self._rows(self.data / "train") if self.data is not None and self.config.calibrated else None

    def _rows(self, split: Path) -> list[TokenRow]:
        return token_rows(split, self.chat, context=self.context, count=self.config.items)

    def add(self, kind: str, path: Path, again: Transformer, event: str, **told: Any) -> None:
        """A file's row, and the event that tells it. `again`: the model as it was loaded from there; `told`: what else there is
        to say, `bits_per_weight` if a file's weights are not as many as the full model's."""
        size = path.stat().st_size
        row = {"file": path.name, "bytes": size, "bits_per_weight": bits(size, self.full), **told}
        if self._heldout:
            self._comparisons[kind] = compare(self.full, again, self.chat, self._heldout)
            row |= self._comparisons[kind].as_dict()
            if not broken(
                self.config, self._comparisons
            ):  # else the stage ends, and nobody asks for its speed
                row |= self._served(path)
        self.outputs[kind] = row
        self.emit({"event": event, "type": kind, **row})

    def _served(self, path: Path) -> dict[str, Any]:
        place = path.parent if path.name == WEIGHTS else path
        return speed.served(place, self._heldout, self.context, self.emit)

    def metrics(self) -> dict[str, Any]:
        """Of the stage. GateError where a bound of it does not hold."""
        check(self.config, self._comparisons)
        size = (self.source / WEIGHTS).stat().st_size
        full: dict[str, Any] = {"bytes": size, "bits_per_weight": bits(size, self.full)}
        for comparison in self._comparisons.values():
            full |= comparison.of_full
        if self._heldout:
            full |= self._served(self.source / WEIGHTS)
        return {"bytes_before": size, "full": full, "outputs": self.outputs}


def bits(size: int, model: Transformer) -> float:
    """Of a file of `size` bytes, for each weight."""
    return 8 * size / sum(tensor.numel() for tensor in model.parameters())

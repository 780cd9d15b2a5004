"""What this machine computes with: device, precision, and whether compiling pays."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from trivium import compiling
from trivium.cores import native_bf16 as native_bf16
from trivium.cores import take_ours
from trivium.recipe.training import TrainingStage
from trivium.train import float8


@dataclass(frozen=True)
class Machine:
    """Where and in which numbers a run computes."""

    device: str
    bf16: bool
    float8: bool = False  # and the products of the blocks in float8

    @property
    def precision(self) -> str:
        return "float8" if self.float8 else "bf16" if self.bf16 else "float32"

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def resolve(config: TrainingStage) -> Machine:
    """The machine that `device` and `precision` of a stage stand for here. RecipeError where it has no float8."""
    take_ours()
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.precision == "float8":
        float8.check(device)
        return Machine(device, bf16=True, float8=True)
    bf16 = native_bf16(device) if config.precision == "auto" else config.precision == "bf16"
    return Machine(device, bf16)


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs: on a CPU that is a C++ compiler."""
    named = os.environ.get("CXX")
    return device != "cpu" or any(shutil.which(name) for name in (named, "c++", "g++", "clang++") if name)


def compiling_pays(config: TrainingStage, flops: float, peak: float, filled: float = 1.0) -> bool:
    """Whether a run of `flops` on a machine with a matmul peak of `peak` FLOP/s is compiled here (`compiling.pays`)."""
    return compiling.pays(config.compile, flops, peak, filled) and can_compile(resolve(config).device)

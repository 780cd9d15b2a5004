"""Step 6: what leaves the house."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trivium.recipe.base import Name, StageBase, only
from trivium.recipe.network import Generation

GROUP = 32
"""Weights that share a scale where nobody says otherwise."""
Int4Method = Literal["nearest", "gptq", "awq", "awq-gptq"]
Scheme = Literal["int8", "int8-dynamic", "int4", "float8", "float8-dynamic", "bf16"]
GgufType = Literal["f32", "f16", "bf16", "q8_0", "q6_K", "q5_K_M", "q4_K_M", "q4_0"]


class SmallerStage(StageBase):
    """What makes a model smaller, and measures what that costs."""

    references: ClassVar[tuple[str, ...]] = ("model", "data")
    model: Name
    data: Name | None = None
    """A data stage: its training split shows what matters, where a scheme or a cut asks; on its held-out split the smaller model
    is measured against `model`, token by token. None: neither."""
    items: Annotated[int, Field(ge=1)] = only(64, {"data": "set"})
    """Records of `data` that are read for each of the two."""
    max_kl: Annotated[float, Field(gt=0)] | None = None
    """The stage fails where the next token's mean KL(model || smaller), in nats, is more than this."""
    max_bits_per_byte_increase: Annotated[float, Field(gt=0)] | None = None
    """The stage fails where held-out text takes more than this many bits per byte more than with `model`."""

    @property
    def calibrated(self) -> bool:
        """Whether the training split of `data` decides what the smaller model is."""
        return False

    @model_validator(mode="after")
    def _bounds_need_data(self) -> Self:
        bounds = [
            name for name in ("max_kl", "max_bits_per_byte_increase") if getattr(self, name) is not None
        ]
        if bounds and self.data is None:
            raise ValueError(f"`{bounds[0]}` bounds what is measured on `data`, which names no stage")
        return self


class QuantizeStage(SmallerStage):
    """Shrinks a checkpoint's weights."""

    kind: Literal["quantize"]
    scheme: Scheme = "int8"
    """int8: symmetric, weight-only, one scale per output channel (the compressed-tensors layout); not for a mixture of
    experts or a GPT-2, which transformers would not read. int8-dynamic: inputs are rounded, too, with a scale for each token
    (W8A8), and whole numbers are multiplied, by our engine as well; nothing can start from it. int4: weights alone, with 4 bits
    and a scale for each group of inputs (pack-quantized). float8: e4m3 with a scale per output channel (float-quantized);
    float8-dynamic: engines round the inputs of these matrices, too, with a scale for each token, and multiply float8 where the
    processor can (Hopper and later); it is measured so. Our own engine reads float8 as floats. bf16: every weight rounded to
    bfloat16, half the size of float32."""
    method: Int4Method | None = only(None, {"scheme": ["int4"]})
    """int4: how weights are rounded. gptq: so that later ones make up for earlier ones, by the inputs that `data` brings (Frantar
    et al. 2023). awq: to the nearest, after channels that are large on `data` were scaled up in the weights and down in what
    gives them (Lin et al. 2023). awq-gptq: scaled, then gptq. None: gptq where there is `data`, else nearest."""
    group_size: Annotated[int, Field(ge=8, multiple_of=8)] | None = only(None, {"scheme": ["int4"]})
    """int4: weights of a row that share a scale, 16 bits for each group; None: 32."""
    generation: Generation | None = None
    """How replies are drawn where nobody says otherwise; None: as those of `model`."""

    @property
    def rounding(self) -> Int4Method:
        """`method`, decided."""
        return self.method or ("nearest" if self.data is None else "gptq")

    @property
    def calibrated(self) -> bool:
        """Whether the training split of `data` decides how weights are rounded."""
        return self.scheme == "int4" and self.rounding != "nearest"

    @model_validator(mode="after")
    def _int4_alone(self) -> Self:
        for name in ("method", "group_size"):
            if self.scheme != "int4" and getattr(self, name) is not None:
                raise ValueError(f"`{name}` is for `scheme: int4`")
        if self.calibrated and self.data is None:
            raise ValueError(f"{self.method} goes by the inputs that `data` brings, which names no stage")
        return self


class PruneStage(SmallerStage):
    """Cuts a smaller student from a checkpoint, for `distill` to teach: whole blocks, units of feed-forward layers, or both."""

    kind: Literal["prune"]
    data: Name
    items: Annotated[int, Field(ge=1)] = 64
    """Records of `data` that are read for each of the two."""
    layers: Annotated[int, Field(gt=0)] | None = None
    """Blocks that stay: those that turn the residual stream most (Men et al. 2024). None: all."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Inner units of each feed-forward layer that stay: those whose output weighs most (Muralidharan et al. 2024). None: all."""

    @property
    def calibrated(self) -> bool:
        return True

    @model_validator(mode="after")
    def _cuts_something(self) -> Self:
        if self.layers is None and self.hidden is None:
            raise ValueError("give `layers`, `hidden` or both: how much stays")
        return self


class ExportStage(SmallerStage):
    """Writes a checkpoint as GGUF files, for llama.cpp, Ollama, LM Studio and others, and a Modelfile for Ollama."""

    kind: Literal["export"]
    types: Annotated[list[GgufType], Field(min_length=1)] = ["q8_0"]
    """A file of each; with `data`, quantized ones go by an importance matrix. A k-quant (q4_K_M, q5_K_M, q6_K) needs rows of a
    multiple of 256 weights: other rows get a wider format, and the mix that a file really has is told with its bits a weight."""

    @property
    def calibrated(self) -> bool:
        return self.data is not None and any(kind.startswith("q") for kind in self.types)


class ReleaseStage(StageBase):
    """Puts model, card, lineage and report in one folder, if the gates of `requires` passed."""

    kind: Literal["release"]
    references: ClassVar[tuple[str, ...]] = ("model", "requires")
    model: Name
    requires: list[Name] = []
    """Evaluate stages whose gates must have passed; at least one of them must have tested `model` itself."""

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("requires"), str):
            return {**values, "requires": [values["requires"]]}
        return values

"""Steps 2 and 3: the model, what every phase of training shares, pre-training and fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trivium.recipe.base import Fraction, Name, StageBase, Strict, how
from trivium.recipe.units import Count, Seconds


class ModelShape(Strict):
    """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    dim: Annotated[int, Field(gt=0)] = 256
    layers: Annotated[int, Field(gt=0)] = 6
    heads: Annotated[int, Field(gt=0)] = 4
    kv_heads: Annotated[int, Field(gt=0)] | None = None
    """Key/value heads; None means as many as `heads`."""
    hidden: Annotated[int, Field(gt=0)] | None = None
    """Width of the SwiGLU layer; None means 8/3 of dim, rounded up to a multiple of 64."""
    context: Annotated[int, Field(ge=8)] = 256
    """Longest sequence in tokens."""
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    tie_embeddings: bool = True
    qk_norm: bool = False
    """RMSNorm on queries and keys (saved in the Qwen3 layout instead of Llama's)."""


class Parallel(Strict):
    """How a stage's ranks share the work: the product of the axes is the number of processes. The result is the same."""

    data: Annotated[int, Field(gt=0)] = 1
    """Copies of the model that see other rows; gradients are summed."""
    shard: Annotated[int, Field(gt=0)] = 1
    """Ranks that see other rows and hold a share of every weight, gradient and optimizer state (FSDP2); with `data`, hybrid."""
    tensor: Annotated[int, Field(gt=0)] = 1
    """Ranks that split each matrix product by heads and hidden units (DTensor); must divide heads and kv_heads."""
    context: Annotated[int, Field(gt=0)] = 1
    """Ranks that split each row along time; must divide the row. pretrain and sft only."""
    pipeline: Annotated[int, Field(gt=0)] = 1
    """Ranks that hold consecutive layers; micro-batches flow through them. pretrain and sft only."""

    @property
    def ranks(self) -> int:
        return self.data * self.shard * self.tensor * self.context * self.pipeline


class TrainingStage(StageBase):
    """Fields that every phase shares."""

    duration_fields: ClassVar[tuple[str, ...]] = ("tokens", "steps", "epochs")
    tokens: Count | None = None
    """Length of training in tokens (rows x context x steps). Exactly one of tokens, steps, epochs."""
    steps: Annotated[Count, Field(gt=0)] | None = None
    """Length of training in optimizer steps."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Length of training in passes over the data."""
    batch: Annotated[int, Field(gt=0)] = 32
    """Rows (sequences) per optimizer step."""
    micro_batch: Annotated[int, Field(gt=0)] | None = None
    """Rows per forward pass; gradients accumulate up to `batch`. None means all at once."""
    context: Annotated[int, Field(ge=8)] | None = None
    """Tokens per row; None means the model's context."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: Fraction = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    decay: Fraction = 0.2
    """wsd only: share of the steps in which the learning rate falls to `lr_end`."""
    lr_end: Fraction = 0.1
    """Final learning rate as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto: bf16 autocast where the machine computes bf16 natively, else float32."""
    compile: Literal["auto", "on", "off"] = how("auto")
    """auto: torch.compile when the run is long enough to pay its warm-up back."""
    device: Literal["auto", "cpu", "cuda"] = how("auto")
    parallel: Parallel = how(Parallel())
    """Ranks and what they share; the default is one process."""
    checkpoint_every: Seconds = how(60.0)
    """Time between the checkpoints that a killed run resumes from."""
    log_every: Annotated[int, Field(gt=0)] = how(10)
    """Steps between progress lines."""


class PretrainStage(TrainingStage):
    """Next-token prediction on packed documents."""

    kind: Literal["pretrain"]
    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer")
    data: Name
    tokenizer: Name
    model: ModelShape = ModelShape()
    init: Name | None = None
    """Go on from this checkpoint (weights only); then `model` must describe the same shape."""


class Aligned(TrainingStage):
    """Fields of the phases that start from another phase's checkpoint."""

    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer")
    init: Name | None = None
    """The checkpoint to start from: weights only."""
    data: Name
    tokenizer: Name | None = None
    """The tokenizer is the one of `init`; naming it here makes sure of that."""


class SftStage(Aligned):
    """Supervised fine-tuning: next-token loss on the assistant's tokens only."""

    kind: Literal["sft"]

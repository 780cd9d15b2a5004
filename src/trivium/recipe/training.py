"""Steps 2 and 3: the model, what every phase of training shares, pre-training and fine-tuning."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from trivium.recipe.base import Fraction, Name, StageBase, Strict, how, only
from trivium.recipe.network import Adapter, Generation, ModelShape
from trivium.recipe.parallel import Auto, Launch, Parallel
from trivium.recipe.units import Count, Every, Interval


class Guard(Strict):
    """What happens when a step's loss or gradient is not finite, or its loss is a spike."""

    on_bad: Literal["stop", "skip", "rewind"] = "stop"
    """stop: end the run, weights untouched; skip: leave the batch out; rewind: go back to the last checkpoint and leave out all
    batches since (repeatable only where `checkpoint_every` counts steps)."""
    z: Annotated[float, Field(gt=0)] | None = None
    """A loss so many robust deviations above the median of the accepted ones is a spike (10 is a careful choice); None: only
    what is not finite is refused."""
    window: Annotated[int, Field(ge=8)] = only(128, {"z": "set"}, {"on_bad": ["skip", "rewind"]})
    """Accepted losses that a new one is held against; judging begins when a quarter of them is there."""
    max_skips: Annotated[int, Field(ge=0)] = only(5, {"on_bad": ["skip", "rewind"]})
    """skip, rewind: more refused batches than this within `window` steps end the run."""


class Samples(Strict):
    """Text that the model in training writes now and then, for people to read. Training is the same with and without."""

    every: Every = Interval(60.0, "s")
    """Time or steps between two looks: `5min`, `200 steps`. By time, they take at most a hundredth of it."""
    prompts: tuple[str, ...] = ()
    """Beginnings of documents for pre-training, else what a user says; none: taken from what is held out."""
    count: Annotated[int, Field(gt=0)] = only(2, {"prompts": "unset"})
    """Held-out prompts, where `prompts` names none."""
    tokens: Annotated[int, Field(gt=0)] = 40
    """Longest sample."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """0 takes the likeliest token every time."""


Share = Annotated[float, Field(ge=0, lt=1)]
"""Of a running mean that is kept at each step: 1 would keep all of it for ever."""


Rows = Literal["documents", "replies", "pairs", "marked", "rollouts", "taught"]


class Length(NamedTuple):
    """How long a stage trains."""

    steps: int  # of the optimizer
    items: int  # rows, pairs or replies that the steps show together: `batch` each, the last one what is left


class TrainingStage(StageBase):
    """Fields that every phase shares; and, beside them, what is known of a kind without computing."""

    version: ClassVar[int] = 2
    """Raised when the same recipe would give another artifact."""
    rows: ClassVar[Rows] = "replies"
    """Shape of the batches. documents and replies: rows of tokens, the former filled up; pairs: two rows each, the chosen and the
    rejected reply; marked: replies with a label; rollouts: the policy's own replies; taught: rows with a teacher's logits."""
    forwards: ClassVar[int] = 3
    """Work for a token in forward passes of the model: one, a backward pass of two, and what the kind does beside them."""
    frozen_reference: ClassVar[bool] = False
    """Whether the frozen start (`init`) is needed beside the policy."""
    scalar: ClassVar[bool] = False
    """Whether what is made gives numbers for replies, and is no language model that can be gone on from."""
    needs_init: ClassVar[bool] = True
    """Whether there has to be a checkpoint to start from."""
    when: ClassVar[str] = ""
    """When to take it; what `trivium explain` adds to what it is."""

    @classmethod
    def rows_per_item(cls) -> int:
        """A preference pair is two rows."""
        return 2 if cls.rows == "pairs" else 1

    @property
    def repeats(self) -> int:
        """How often an epoch shows an item."""
        return 1

    @property
    def period(self) -> int:
        """Steps that belong together: training ends with a whole number of them."""
        return 1

    def length(self, items: int, tokens_per_item: float) -> Length:
        """Steps for the duration that is asked for, at least one; what is planned and what is done come from here.

        Epochs show each of `items` in each epoch: the last step holds what is left. Only a set of the policy's own replies is
        always whole: the last one is filled up with the first prompts of the next epoch.
        """
        if self.epochs is not None:
            shown = max(1, math.ceil(round(self.epochs * items * self.repeats, 6)))
            steps = math.ceil(shown / (self.batch * self.period)) * self.period
            return Length(steps, steps * self.batch if self.rows == "rollouts" else shown)
        steps = self.steps or max(1, int((self.tokens or 0) // (self.batch * tokens_per_item)))
        return Length(steps, steps * self.batch)

    data: Name
    duration_fields: ClassVar[tuple[str, ...]] = ("tokens", "steps", "epochs")
    tokens: Count | None = None
    """Length of training in tokens (rows x context x steps). Exactly one of tokens, steps, epochs."""
    steps: Annotated[Count, Field(gt=0)] | None = None
    """Length of training in optimizer steps."""
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Length of training in passes over the data. Each pass shows each item, so that the last step may hold less than `batch`."""
    max_epochs: Annotated[float, Field(gt=0)] = only(1.0, {"tokens": "set"}, identity=False)
    """`tokens` that would read the data more often than this are refused. Up to four passes are worth about as much as new data,
    many more are worth little (Muennighoff et al. 2023): write `max_epochs: 4` if that is meant."""
    batch: Annotated[Count, Field(gt=0, le=2**28)] = 32
    """Rows (sequences) per optimizer step, not tokens."""
    micro_batch: Annotated[int, Field(gt=0, le=2**28)] | None = None
    """Rows per forward pass; gradients accumulate up to `batch`. None means all at once."""
    context: Annotated[int, Field(ge=8)] | None = None
    """Tokens per row; None means the model's context."""
    lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices inside the blocks, AdamW for all else."""
    muon_lr: Annotated[float, Field(gt=0, le=10)] | None = only(None, {"optimizer": ["muon"]})
    """muon only: peak learning rate of those matrices; None means `lr`, to which their updates are scaled."""
    embed_lr: Annotated[float, Field(gt=0, le=10)] | None = only(None, {"adapter": "unset"})
    """Peak learning rate of the embeddings (of the output matrix, too, where they are tied); None means `lr`. A token's row moves
    only where the token stands, so that in pre-training they want many times more than the rest: 0.3, or 0.05 where tied."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup: Fraction = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    decay: Fraction = only(0.2, {"schedule": ["wsd"]})
    """wsd only: share of the steps in which the learning rate falls to `lr_end`."""
    lr_end: Fraction = only(0.1, {"schedule": ["cosine", "linear", "wsd"]})
    """Final learning rate as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled decay, on matrices only."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's decay of the running means of gradients and of their squares: below 1."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest gradient norm."""
    guard: Guard = Guard()
    """What is done about a batch whose loss is broken."""
    precision: Literal["auto", "bf16", "float32", "float8"] = "auto"
    """auto: bf16 autocast where the machine computes bf16 natively, else float32; float8: bf16, with the blocks' matrix products
    in float8 (a GPU of the Hopper generation or later, torchao)."""
    generation: Generation | None = None
    """How the trained model's replies are drawn where nobody says otherwise; None: as those of `init`. It stands in the
    checkpoint, so another value trains the stage again: `quantize` has the same field and is done in seconds."""
    adapter: Adapter | None = None
    """Train low-rank adapters beside the frozen weights of `init` instead of all weights."""
    recompute: Literal["none", "blocks"] = how("none")
    """blocks: keep only what goes between blocks and compute the rest again on the way back: less memory, a third more work."""
    compile: Literal["auto", "on", "off"] = how("auto")
    """auto: torch.compile when the run is long enough to pay its warm-up back."""
    device: Literal["auto", "cpu", "cuda"] = how("auto")
    parallel: Parallel | Auto = how(Parallel())
    """Ranks and what they share; the default is one process. auto: the fastest layout that fits the GPUs of this machine, or
    those of `launch.on`; where the stage does not say `micro_batch` and `recompute`, they are part of it."""
    launch: Launch = how(Launch())
    """Who starts the ranks."""
    checkpoint_every: Every = how(Interval(60.0, "s"))
    """Time or steps between the checkpoints that a killed run resumes from: `5min`, `200 steps`."""
    keep_last: Annotated[int, Field(gt=0)] = how(2)
    """Newest checkpoints that are kept while the stage runs."""
    keep_every: Annotated[int, Field(gt=0)] | None = how(None)
    """Keep also the first checkpoint of every so many steps, as long as the stage runs."""
    keep_optimizer: bool = how(True)
    """Keep what the last step left beside the artifact, so that the stage can be trained on: `-o NAME.steps=90` after 60. Takes
    about three times the weights; `last_state/` in the store is safe to delete."""
    log_every: Annotated[int, Field(gt=0)] = how(10)
    """Steps between progress lines."""
    validate_every: Annotated[int, Field(gt=0)] | None = how(None)
    """Steps between looks at the held-out set; None: only before the first step and after the last."""
    keep_best: Literal["loss", "accuracy", "margin", "divergence", "next_token"] | None = None
    """The stage leaves the weights of its best look at the held-out set by this metric, not its last ones. With it (or
    `patience`) `validate_every` decides what is made, and is part of what the stage is known by."""
    patience: Annotated[int, Field(gt=0)] | None = None
    """Training ends early once so many looks in a row were no better than the best, by `keep_best` or else by the loss."""

    @property
    def chooses(self) -> bool:
        """Whether looks at the held-out set decide what the stage leaves."""
        return self.keep_best is not None or self.patience is not None

    samples: Samples | None = how(Samples())
    """What the model writes while it trains, in events.jsonl, on the terminal and in the report; None: nothing."""


class ImportStage(StageBase):
    """A checkpoint that others made, as a start for training: a Hugging Face folder or a GGUF file (made float32)."""

    kind: Literal["import"]
    path: str = Field(json_schema_extra={"identity": False})
    """The folder or the .gguf file; what counts is the bytes of its files, not where they lie."""
    base: str | None = Field(default=None, json_schema_extra={"identity": False})
    """The checkpoint that an adapter of the peft library changes, where `path` is the adapter's folder: what is imported is both
    in one. A tokenizer beside the adapter is the one that is used."""
    chat_template: str | None = how(None)
    """A jinja file to use instead of the checkpoint's own template; its bytes count, too."""
    add_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Special tokens that the tokenizer lacks, such as the marks of `chat_template`. Embeddings and head grow by rows that start
    as the mean of those that are there."""
    eos: str | None = None
    """The token that ends a text, instead of the one that the tokenizer names."""


class PretrainStage(TrainingStage):
    """Next-token prediction on packed documents."""

    kind: Literal["pretrain"]
    when: ClassVar[str] = (
        "first of all, or to go on with a checkpoint on documents of a new field: it teaches "
        "language and facts, no manners."
    )
    version: ClassVar[int] = 3
    formats: ClassVar[tuple[str, ...]] = ("documents",)
    rows: ClassVar[Rows] = "documents"
    needs_init: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer")
    tokenizer: Name
    model: ModelShape = ModelShape()
    init: Name | None = None
    """Go on from this checkpoint (weights only); then `model` must describe the same shape."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log of the softmax's denominator, which keeps logits from drifting (PaLM: 1e-4)."""


class Aligned(TrainingStage):
    """Fields of the phases that start from another phase's checkpoint."""

    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer")
    init: Name | None = None
    """The checkpoint to start from: weights only."""
    tokenizer: Name | None = None
    """The tokenizer is the one of `init`; naming it here makes sure of that."""


class SftStage(Aligned):
    """Supervised fine-tuning: next-token loss on the assistant's tokens only."""

    kind: Literal["sft"]
    when: ClassVar[str] = (
        "after pre-training, with conversations that show how to answer: it brings the form. A few "
        "thousand good ones beat many poor ones."
    )
    formats: ClassVar[tuple[str, ...]] = ("conversations",)
    learn: Literal["all", "last"] = "all"
    """Which of the assistant's turns carry loss: all (each as much as its `weight` says, 1 if it has none), or only the last."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared log of the softmax's denominator, which keeps logits from drifting (PaLM: 1e-4)."""

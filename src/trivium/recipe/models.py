"""What a recipe may say. Each class is a kind of stage, source or suite; docstrings of fields are help.

A field made with `how()` says only *how* to execute (device, workers, checkpoint interval) and is not part of
a stage's identity: changing it re-runs nothing. Everything else is identity.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trivium.recipe.units import Count, Seconds

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def how(default: Any) -> Any:
    """A field that says how to execute and is left out of the fingerprint."""
    return Field(default, json_schema_extra={"identity": False})


# ---- sources ---------------------------------------------------------------------------------------------


class SourceBase(Strict):
    kind: str
    formats: ClassVar[frozenset[str]] = frozenset({"documents"})
    """What the source can be read as."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the mix (of characters for documents, of items otherwise); needed if there are several."""
    license: str | None = None
    """The licence the text is used under; None takes what the source itself declares."""
    origin: str | None = None
    """Where the text comes from; None takes what the source itself declares."""


class PythonDocs(SourceBase):
    """The documentation inside every Python: docstrings, pydoc topics, sources of the standard library."""

    kind: Literal["python-docs"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    sources: bool = True
    """Documents only: also read the modules' source code (their docstrings are separate documents)."""


class Reasoning(SourceBase):
    """Tasks with worked solutions, drawn from reasoning-gym and checked by its own scorers."""

    kind: Literal["reasoning"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    tasks: list[str] = ["chain_sum", "spell_backward", "letter_counting", "number_sorting"]
    """reasoning-gym data sets that Trivium has worked solutions for (`trivium.corpus.reasoning.TASKS`)."""


class Refusals(SourceBase):
    """Harmful requests with kind refusals, harmless look-alikes with answers: a small list of our own."""

    kind: Literal["refusals"]
    formats: ClassVar[frozenset[str]] = frozenset({"conversations", "preferences"})


class Text(SourceBase):
    """Plain text files: one document per file."""

    kind: Literal["text"]
    path: str
    """A file, a folder (read recursively) or a glob, relative to the recipe."""


class Jsonl(SourceBase):
    """One JSON object per line: `text`, `messages`, `prompt`/`completion` or `prompt`/`chosen`/`rejected`."""

    kind: Literal["jsonl"]
    formats: ClassVar[frozenset[str]] = frozenset({"documents", "conversations", "preferences"})
    path: str
    """A file, a folder or a glob, relative to the recipe."""
    max_bad_lines: Annotated[int, Field(ge=0)] = 10
    """Malformed lines that are reported, counted and skipped before the stage stops."""


Source = Annotated[PythonDocs | Reasoning | Refusals | Text | Jsonl, Field(discriminator="kind")]

# ---- stages ----------------------------------------------------------------------------------------------


class StageBase(Strict):
    kind: str
    references: ClassVar[tuple[str, ...]] = ()
    """Fields that hold the name (or a list of names) of another stage."""
    available: ClassVar[bool] = True
    """False for a kind that is checked but not built yet."""


class DataStage(StageBase):
    """Reads sources, splits train from held-out, removes duplicates and contamination, mixes by weight."""

    kind: Literal["data"]
    references: ClassVar[tuple[str, ...]] = ("decontaminate",)
    format: Literal["documents", "conversations", "preferences"] = "documents"
    """documents to pre-train on, conversations to fine-tune on, preferences (reply pairs) to align on."""
    sources: list[Source] = []
    size: Count | None = None
    """Size of the training mix: characters for documents, items otherwise. None: the largest there is."""
    heldout: Fraction = 0.05
    """Share of the items that is never trained on, chosen by a hash of the item itself."""
    dedup: bool = True
    """Drop documents and items that are equal after white space is normalised."""
    decontaminate: list[Name] = []
    """Data stages whose held-out items must not be seen in this stage's training split."""
    ngram: Annotated[int, Field(ge=3)] = 13
    """Words in a row that count as contamination."""


class TokenizerStage(StageBase):
    """Trains a byte-level BPE tokenizer (any text round-trips exactly; digits stay single)."""

    kind: Literal["tokenizer"]
    references: ClassVar[tuple[str, ...]] = ("data",)
    data: Name
    vocab_size: Annotated[Count, Field(ge=300)] = 4096
    sample: Count = 20_000_000
    """Characters of the mix that the tokenizer is trained on."""


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


class PreferenceStage(Aligned):
    """Fields of the alignment phases."""

    allow_base: bool = False
    """Align straight on a pre-trained base, without supervised fine-tuning in between."""


class DpoStage(PreferenceStage):
    """Direct preference optimisation against a frozen reference (its `init`), Rafailov et al. 2023."""

    kind: Literal["dpo"]
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull towards the reference: larger stays closer."""
    nll: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's mean negative log-likelihood beside the DPO loss (Pang et al. 2024; 0 is plain DPO)."""


class OrpoStage(PreferenceStage):
    """Odds-ratio preference optimisation, Hong et al. 2024: no reference, and a base checkpoint will do."""

    kind: Literal["orpo"]
    allow_base: bool = True
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the odds-ratio term beside the likelihood of the chosen reply (lambda in the paper)."""


class PpoStage(PreferenceStage):
    """Proximal policy optimisation against a reward model, Schulman et al. 2017 (checked, not built yet)."""

    kind: Literal["ppo"]
    available: ClassVar[bool] = False
    references: ClassVar[tuple[str, ...]] = ("init", "data", "tokenizer", "reward_model")
    reward_model: Name | None = None


class RewardStage(PreferenceStage):
    """A reward model by Bradley-Terry on preference pairs (checked, not built yet)."""

    kind: Literal["reward"]
    available: ClassVar[bool] = False


class Suite(Strict):
    """One thing that is measured, on the held-out split of one data stage."""

    references: ClassVar[tuple[str, ...]] = ("data",)
    """As in StageBase: fields that hold the name of another stage."""
    kind: Literal["bits_per_byte", "response_loss", "reasoning", "preferences", "refusals"]
    data: Name
    items: Annotated[Count, Field(gt=0)] = 100
    """Held-out items to measure on, at most."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 96
    """Length limit of a generated reply."""


class Gate(Strict):
    """A bound that a metric must keep."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Gate:
        if self.min is None and self.max is None:
            raise ValueError("a gate needs `min` or `max`")
        return self


class EvaluateStage(StageBase):
    """Measures checkpoints on held-out items and holds the results against gates."""

    kind: Literal["evaluate"]
    references: ClassVar[tuple[str, ...]] = ("model", "baseline", "compare")
    model: Name
    """The checkpoint under test: the gates apply to it."""
    baseline: Name | None = None
    """The checkpoint that implicit rewards are measured against: what alignment started from."""
    compare: list[Name] = []
    """Checkpoints measured alongside, for the table."""
    suites: list[Suite]
    gates: dict[str, Gate] = {}
    """metric -> bound. The names are those in `trivium.recipe.models.METRICS`."""
    device: Literal["auto", "cpu", "cuda"] = how("auto")


METRICS: dict[str, tuple[str, ...]] = {
    "bits_per_byte": ("bits_per_byte",),
    "response_loss": ("response_loss",),
    "reasoning": ("reasoning_exact_match",),
    "preferences": ("preference_accuracy", "win_rate"),
    "refusals": ("refusal_rate", "false_refusals", "coherent_replies"),
}
"""Suite kind -> the metrics it yields. Those of ALWAYS_MEASURED are measured in every evaluate stage."""
ALWAYS_MEASURED = ("file_bytes", "tokens_per_second")


class QuantizeStage(StageBase):
    """Shrinks a checkpoint's weights."""

    kind: Literal["quantize"]
    references: ClassVar[tuple[str, ...]] = ("model",)
    model: Name
    scheme: Literal["int8"] = "int8"
    """int8: symmetric, weight-only, one scale per output channel (the compressed-tensors layout)."""


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


Stage = Annotated[
    DataStage | TokenizerStage | PretrainStage | SftStage | DpoStage | OrpoStage | PpoStage | RewardStage
    | EvaluateStage | QuantizeStage | ReleaseStage,
    Field(discriminator="kind"),
]  # fmt: skip


class Recipe(Strict):
    """One training pipeline: a name, a seed and a graph of stages that refer to each other by name."""

    name: Name
    seed: Annotated[int, Field(ge=0)] = 0
    """Everything random in the run is derived from this."""
    stages: Annotated[dict[Name, Stage], Field(min_length=1)]

"""The types that the floors agree on. Nothing here imports torch at run time.

Shape letters used in docstrings everywhere: B rows in a micro-batch, T tokens in a row, D model width, V vocabulary,
H query heads, K key/value heads, E width of one head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


class Batch(TypedDict, total=False):
    """One micro-batch. One row is one sequence; everything that is not the live model's output arrives here."""

    tokens: Tensor  # (B, T) int64: the input ids; padding is any id, with loss_mask 0 and a doc_id of its own
    targets: Tensor  # (B, T) int64: the id to predict at each place (tokens moved left by one)
    loss_mask: Tensor  # (B, T) float32: how much the target counts in the loss: 1, 0, or a weight
    positions: Tensor  # (B, T) int64: the place of each token within its own document (for RoPE)
    doc_id: Tensor  # (B, T) int64: attention stays within equal values
    pair: Tensor  # (B,) int64: the preference pair that the row belongs to
    label: Tensor  # (B,) int64: 1 for the chosen row of a pair, 0 for the rejected one
    prefix: Tensor  # (B,) int64: how many of its first tokens the row shares with the other one of its pair
    ref_logp: Tensor  # (B,) float32: the frozen reference's log-probability of the row's response (a sum)
    kl: Tensor  # (B,) float32: KTO's baseline, the same in every row: the policy's distance from the reference, in nats
    ref_token_logp: Tensor  # (B, T) float32: the frozen reference's log-probability of each target
    old_logp: Tensor  # (B, T) float32: log-probability of each target when the row was generated
    advantage: Tensor  # (B, T) float32: how much better each token did than expected
    returns: Tensor  # (B, T) float32: what the critic should have said at each place
    old_values: Tensor  # (B, T) float32: what it said when the row was generated
    correction: Tensor  # (B, T) float32: trainer's over sampler's probability, truncated; 1 where they agree
    temperature: (
        Tensor  # (B,) float32, all alike: the logits are divided by it, as where the replies were drawn
    )
    dropout_key: (
        Tensor  # (B, T) int64: what is dropped at each token is a function of this, the same in every pass
    )
    source: Tensor  # (B, T) int64, held-out batches only: number of the source that the token comes from, -1 for padding
    teacher_logits: Tensor  # (B, T, V) float32: the teacher's logits of each token at each place
    teacher_top: Tensor  # (B, T, k) int64: instead of them, the likeliest tokens of each place
    teacher_top_logp: (
        Tensor  # (B, T, k + 1) float32: their log-probabilities, softened, and that of all others together
    )
    teacher_vocab: Tensor  # (B,) int64, all alike: the tokens that there are
    span: Tensor  # (B, T) int64: number, above 0, of the span of text that the target belongs to; 0: none (`objectives.uld`)
    teacher_logp: Tensor  # (B, T, V) float32: where a span ends, a teacher of other tokens on those that both have; else -inf
    teacher_rest: (
        Tensor  # (B, T, K) float32: there, its probabilities of the tokens that only it has, largest first
    )


class Output(NamedTuple):
    """What the model returns: only what the objective wants; the rest is None."""

    logp: Tensor | None = None  # (B, T) float32: log-probability of each target
    logits: Tensor | None = None  # (B, T, V) float32
    entropy: Tensor | None = None  # (B, T) float32: entropy of the next token's distribution, in nats
    values: Tensor | None = None  # (B, T) float32: the scalar head's number at each place
    log_z: Tensor | None = None  # (B, T) float32: log of the softmax's denominator


class Loss(NamedTuple):
    """An objective's result: sums, never means. The loop owns the one denominator."""

    total: Tensor  # () float32: the SUM of the loss over the units that `Objective.weight` counts
    metrics: dict[str, tuple[Tensor, Tensor]]  # name -> (sum, weight)


class Objective(Protocol):
    """A pure function of (model output, batch), with the weight that the loop divides by."""

    wants: frozenset[str]  # fields of Output that the model must fill

    @property
    def unit(self) -> Literal["token", "reply", "pair"]:
        """What `weight` counts: targets with loss_mask 1, or the rows or pairs that have some."""

    def weight(self, batch: Batch) -> Tensor:
        """() float32: how many units the batch holds."""

    def __call__(self, out: Output, batch: Batch) -> Loss: ...


class Batches(Protocol):
    """Where the loop's data comes from: a pure function of (seed, step), but for those that are `LiveBatches`.

    May also have `describe(step) -> dict` (plain JSON values): the ids of a step's items or documents, over all ranks. The
    guard records them of a batch that it refused. And `settle()`, which returns once what is made ahead is safe on disk: called
    before a checkpoint is written.
    """

    period: int  # a checkpoint may fall only where step % period == 0

    def batch(self, step: int) -> Sequence[Batch]: ...  # the micro-batches of one optimizer step


@runtime_checkable
class LiveBatches(Batches, Protocol):
    """Batches that the model in training is looked at for: KTO's baseline, on-policy distillation, rollouts.

    A function of (seed, step) and the weights of then; what must be found again after a kill is on the disk before it is used.
    This is the one way in which data depends on the model.
    """

    @property
    def live_flops(self) -> float:
        """Of one step over all ranks: the passes for making its batch, of the model and of frozen ones beside it."""


Event = dict[str, Any]  # {"event": name, ...}; plain JSON values only


class Emit(Protocol):
    """Takes one event. The loop and the pipeline call plain functions of this shape, in list order."""

    def __call__(self, event: Event, /) -> None: ...

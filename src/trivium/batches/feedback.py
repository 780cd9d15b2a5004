"""Single replies marked desirable or not, for KTO, and the baseline that each step needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trivium.batches.chat import Held
from trivium.batches.pairs import STEP
from trivium.batches.rows import Row, collate, sequence_row
from trivium.errors import DataError
from trivium.objectives.sequence import row_log_probs
from trivium.text.chat import ChatTokenizer, Encoded, Message
from trivium.text.turns import Tools
from trivium.train.distributed import global_sum
from trivium.train.machine import Machine
from trivium.types import Batch, Batches

Prompt = tuple[Sequence[Message], Tools]
"""What is asked, and the functions that the assistant may call."""


@dataclass
class Feedback(Held[tuple[Encoded, int]]):
    """Replies with their marks. `ref_logp` (items, 2) is the reference's log-probability of the reply behind its own prompt and
    behind the next other prompt (the mismatched pair that the baseline is estimated on)."""

    mismatched: list[Encoded] = field(default_factory=list)
    lent: list[int] = field(default_factory=list)
    """Of each of `mismatched`, the item whose prompt it stands behind."""
    ref_logp: NDArray[np.float32] | None = None

    @classmethod
    def build(
        cls,
        records: Iterable[Mapping[str, Any]],
        chat: ChatTokenizer,
        context: int,
        *,
        both: bool = True,
        most: int | None = None,
    ) -> Feedback:
        """From feedback records (`prompt`, `completion`, `label`) or preference records (each gives a good and a bad reply).

        `most` as in `holds`. DataError if no reply fits, and where `both` labels are needed and one of them is missing.
        """
        self = cls(context, chat.pad)
        prompts: list[Prompt] = []
        texts: list[str] = []
        for number, record in enumerate(records, start=1):
            if self.holds(most):
                break
            encoded: list[tuple[Encoded, str, int]] = []
            with self.account.row(number):
                tools = record.get("tools")
                encoded = [
                    (chat.response(record["prompt"], text, tools), text, label)
                    for text, label in _replies(record)
                ]
            heads = [Encoded(reply.ids[:context], reply.mask[:context]) for reply, _, _ in encoded]
            if len(heads) == 2 and any(heads[0].mask) and self.account.alike(heads[0], heads[1], number):
                continue  # good and bad at once
            for reply, text, label in encoded:
                fitted = self.account.fit(reply, context, number)
                if fitted is not None:
                    self.add((fitted, label), record, number)
                    prompts.append((record["prompt"], record.get("tools")))
                    texts.append(text)
        labels = {label for _, label in self.items}
        if not self.items:
            self.account.raise_first()
            raise DataError(
                f"no reply fits: {self.account.prompt_too_long} prompts are longer than the context of {context} tokens, of "
                f"{self.account.pair_alike} pairs both replies are the same tokens",
                fix="raise `context`, or shorten the prompts",
            )
        if both and labels != {0, 1}:
            kind = "desirable" if labels == {1} else "undesirable"
            raise DataError(f"all {len(self.items)} replies are {kind}", fix="KTO needs both kinds of label")
        self.lent = _others(prompts)
        for text, lender in zip(texts, self.lent, strict=True):
            other_prompt, other_tools = prompts[lender]
            other = chat.response(other_prompt, text, other_tools)
            self.mismatched.append(Encoded(other.ids[:context], other.mask[:context]))
        longest = max(len(e.ids) for e in [*(e for e, _ in self.items), *self.mismatched])
        self.length = min(context, -(-longest // STEP) * STEP)
        return self

    @property
    def tokens_per_item(self) -> float:
        return sum(len(encoded.ids) for encoded, _ in self.items) / len(self.items)

    def item(self, index: int) -> Sequence[Row]:
        encoded, label = self.items[index]
        row = sequence_row([encoded], self.length, self.pad)
        row["label"] = np.int64(label)  # type: ignore[assignment]
        row["pair"] = np.int64(index)  # type: ignore[assignment]
        if self.ref_logp is not None:
            row["ref_logp"] = self.ref_logp[index, 0]
        return [row]

    def other(self, index: int) -> Sequence[Row]:
        """The item's reply behind another item's prompt."""
        return [sequence_row([self.mismatched[index]], self.length, self.pad)]


def _others(prompts: Sequence[Prompt]) -> list[int]:
    """For each prompt the place of the next one that is another: the replies of a pair, side by side, share theirs."""
    others = list(range(len(prompts)))
    after: int | None = None
    for index in range(2 * len(prompts) - 1, -1, -1):
        following = (index + 1) % len(prompts)
        if prompts[index % len(prompts)] != prompts[following]:
            after = following
        if after is not None:
            others[index % len(prompts)] = after
    return others


def _replies(record: Mapping[str, Any]) -> list[tuple[str, int]]:
    if "completion" in record:
        return [(record["completion"], int(record["label"]))]
    return [(record["chosen"], 1), (record["rejected"], 0)]


@dataclass
class WithBaseline:
    """Adds KTO's `kl` to every batch: the policy's mean distance from the reference on mismatched replies, never below 0.

    Ethayarajh et al. 2024, section 4.1. Pure in the step and the weights; one forward pass without gradient a micro-batch.
    """

    inner: Batches
    items: Feedback
    model: Any  # the policy in training: (batch, want) -> Output
    machine: Machine
    period: int = 1
    live_flops: float = 0.0

    @torch.no_grad()
    def batch(self, step: int) -> list[Batch]:
        micro = list(self.inner.batch(step))
        total, count = torch.zeros(()), torch.zeros(())
        assert self.items.ref_logp is not None
        for batch in micro:
            indices = batch["pair"].clamp_min(0).tolist()
            others: Any = collate(self.items.other, indices)
            moved = {name: value.to(self.machine.device) for name, value in others.items()}
            with self.machine.autocast():
                logp = row_log_probs(self.model(moved, {"logp"}), moved).float().cpu()  # type: ignore[arg-type]
            # the other prompt may leave no room for the reply, and a row may only fill up the last batch
            there = (others["loss_mask"].sum(-1) * batch["loss_mask"].sum(-1) > 0).float()
            total += ((logp - torch.from_numpy(self.items.ref_logp[indices, 1])) * there).sum()
            count += there.sum()
        kl = (global_sum(total) / global_sum(count).clamp_min(1)).clamp_min(0)
        for batch in micro:
            batch["kl"] = kl.expand(len(batch["pair"])).clone()
        return micro

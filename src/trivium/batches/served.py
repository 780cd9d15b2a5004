"""Rollouts from a server: the policy's weights go there, its replies come back as ids with log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trivium.batches.context import PhaseContext
from trivium.errors import DataError
from trivium.generate.remote import Endpoint, Remote
from trivium.generate.sampling import SamplingParams
from trivium.generate.slots import Completion
from trivium.model import hf, lora
from trivium.recipe.alignment import RolloutServer
from trivium.recipe.training import TrainingStage
from trivium.train.distributed import first_rank_first, rank


@dataclass
class Served:
    """A `rollouts.Writer` on other devices: the server gets the weights, then writes while the trainer may do something else.

    DataError for a server that does not answer, and for one whose tokens are not the policy's.
    """

    ctx: PhaseContext[TrainingStage]
    remote: Remote
    reload: str | None

    @classmethod
    def open(cls, ctx: PhaseContext[TrainingStage], config: RolloutServer) -> Served:
        return cls(ctx, Remote(Endpoint(**config.model_dump(exclude={"reload"}))), config.reload)

    def hand_over(self) -> None:
        """Gives the server the policy's weights of now. All ranks call it together."""
        if self.reload is not None:
            with first_rank_first():
                if rank() == 0:
                    self.remote.post(self.reload, {"model_path": str(self._weights().resolve())})

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, stop: Sequence[int]
    ) -> list[Completion]:
        replies = self.remote.complete(prompts, sampling, stop)
        known = self.ctx.model.config.vocab_size
        if wrong := [token for reply in replies for token in reply.ids if not 0 <= token < known]:
            raise DataError(
                f"the server's token {wrong[0]} is none of the policy's {known:,}",
                where=self.remote.endpoint.url,
                fix="serve the checkpoint that this stage starts from (`init`)",
            )
        most = sampling.max_new_tokens
        return [Completion(reply.ids[:most], reply.logp[:most], reply.finished) for reply in replies]

    def _weights(self) -> Path:
        """The policy as it is now, as a checkpoint without adapters."""
        ctx, folder = self.ctx, self.ctx.work / "sampler"
        model, adapter = ctx.model, ctx.config.adapter
        if adapter is not None:
            model = lora.merged(model.config, model.state_dict(), adapter)
        hf.save(model, folder, eos=ctx.chat.stops, pad=ctx.chat.pad)
        ctx.chat.save(folder, context=model.config.context)
        return folder

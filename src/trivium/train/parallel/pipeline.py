"""Pipeline parallelism: consecutive layers on consecutive ranks, micro-batches flowing through (Huang et al. 2019, GPipe).

torch.distributed.pipelining schedules the passes: one forward, one backward (Narayanan et al. 2021) where there are enough
micro-batches to fill the pipeline. The objective is evaluated on the last rank and must be one that adds over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trivium.model.attention import document_mask
from trivium.model.heads import log_probs
from trivium.model.transformer import Transformer
from trivium.train.distributed import Mesh
from trivium.train.run import measured
from trivium.types import Batch, Objective, Output

KEYS = ("positions", "doc_id", "targets")
"""What every stage needs of a batch beside the residual stream."""


class Elsewhere(nn.Module):
    """In the place of a layer that another rank holds: names keep their numbers."""

    windowed = False

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


class Stage(nn.Module):
    """This rank's layers of `model`, which loses the others. The first embeds, the last turns hidden states into log-probs."""

    def __init__(self, model: Transformer, place: int, stages: int) -> None:
        super().__init__()
        count = len(model.model.layers)
        mine = range(place * count // stages, (place + 1) * count // stages)
        for index in range(count):
            if index not in mine:
                model.model.layers[index] = Elsewhere()
        self.first, self.last = place == 0, place == stages - 1
        if not self.last:
            model.model.norm = Elsewhere()
            if hasattr(model, "lm_head"):
                model.lm_head = Elsewhere()  # type: ignore[assignment]
        if not self.first and not (self.last and model.config.tie_embeddings):
            model.model.embed_tokens = Elsewhere()  # type: ignore[assignment]
        if not self.first and model.config.learned_positions:
            model.model.embed_positions = Elsewhere()  # type: ignore[assignment]
        self.inner = model

    def forward(self, x: Tensor, positions: Tensor, doc_id: Tensor, targets: Tensor) -> Tensor:
        """Tokens (B, T) on the first rank, else hidden states (B, T, D) -> hidden states, or log-probs (B, T) on the last."""
        model = self.inner
        x = model.embed(x, positions) if self.first else x
        x = model.through(x, positions, document_mask(doc_id, model.model.sequence))
        if not self.last:
            return x
        return log_probs(model.model.norm(x), model.output_weight, targets, model.config.logit_softcap)


class Pipeline:
    """Runs the micro-batches of a step, forward and backward, over the ranks of the `pipeline` axis."""

    def __init__(self, module: Stage, mesh: Mesh, objective: Objective, device: str) -> None:
        across = mesh.along("pipeline")
        assert across is not None
        self.group, self.place, self.stages = across.get_group(), mesh.place("pipeline"), across.size()
        sharded = ("shard", "context") if mesh.size("shard") > 1 else ()
        self.shards = mesh.place(*sharded), mesh.size(*sharded)
        self.peers = dist.get_process_group_ranks(self.group)
        self.objective, self.device = objective, torch.device(device)
        self.module, self.model = module, module.inner
        if (
            module.last and self.model.config.tie_embeddings
        ):  # its gradient's norm is counted on the first rank
            self.model.model.embed_tokens.weight.is_copy = True  # type: ignore[attr-defined]
        self.schedules: dict[tuple[int, torch.Size], Any] = {}
        self.pending: list[tuple[Batch, Tensor]] = []

    def _loss(self, logp: Tensor, _: Tensor) -> Tensor:
        """The objective of one micro-batch over the step's weight. Schedules take them one after the other."""
        batch, weight = self.pending[len(self.metrics)]
        loss = self.objective(Output(logp=logp), batch)
        self.metrics.append(torch.stack([*loss.metrics["loss"]]))
        return loss.total / weight

    def _schedule(self, micro: Many[Batch]) -> Any:
        """Called under the step's autocast. Shapes are told: to find them out, torch would run a pass that routers count."""
        tokens = micro[0]["tokens"]
        key = (len(micro), tokens.shape)
        if key not in self.schedules:
            dtype = torch.bfloat16 if torch.is_autocast_enabled(self.device.type) else torch.float32
            width = self.model.config.dim
            hidden = torch.empty(*tokens.shape, width, dtype=dtype, device=self.device, requires_grad=True)
            logp = torch.empty(tokens.shape, device=self.device, requires_grad=True)
            # here: it brings torch's compiler, a second, which one process has no use for
            from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

            stage = PipelineStage(
                self.module,
                self.place,
                self.stages,
                self.device,
                input_args=tokens if self.module.first else hidden,
                output_args=logp if self.module.last else hidden,
                group=self.group,
            )
            kind = Schedule1F1B if len(micro) >= self.stages else ScheduleGPipe
            self.schedules[key] = kind(stage, len(micro), loss_fn=self._loss, scale_grads=False)
        return self.schedules[key]

    def step(
        self, micro: Many[Batch], weight: Tensor, autocast: AbstractContextManager[Any]
    ) -> dict[str, Tensor]:
        """Leaves the step's gradients in the parameters; returns the metrics, (sum, weight) each, on every rank."""
        self.pending, self.metrics = [(batch, weight) for batch in micro], list[Tensor]()
        joined = {key: torch.cat([batch[key] for batch in micro]) for key in KEYS}  # type: ignore[literal-required]
        tokens = [torch.cat([batch["tokens"] for batch in micro])] if self.place == 0 else []
        target = torch.arange(len(micro)) if self.place == self.stages - 1 else None
        with autocast:
            self._schedule(micro).step(*tokens, target=target, return_outputs=False, **joined)
        self._sum_tied()
        return self._shared()

    @torch.no_grad()
    def validate(
        self, micro: Many[Batch], autocast: AbstractContextManager[Any], sources: int = 0
    ) -> dict[str, Tensor]:
        """`train.run.measured` of batches that need no gradient, one after the other."""
        self.metrics = []
        for batch in micro:
            x = batch["tokens"]
            if self.place > 0:
                dtype = torch.bfloat16 if self.half(autocast) else torch.float32
                x = torch.empty(*x.shape, self.model.config.dim, dtype=dtype, device=self.device)
                dist.recv(x, self.peers[self.place - 1])
            with autocast:
                out = self.module(x, *(batch[key] for key in KEYS))  # type: ignore[literal-required]
            if self.place < self.stages - 1:
                dist.send(out.contiguous(), self.peers[self.place + 1])
            else:
                self.metrics.append(measured(self.objective, Output(logp=out), batch, sources)["loss"])
        return self._shared((1 + sources, 2))

    def half(self, autocast: AbstractContextManager[Any]) -> bool:
        """Whether hidden states travel in bf16."""
        with autocast:
            return torch.is_autocast_enabled(self.device.type)

    def _shared(self, shape: tuple[int, ...] = (2,)) -> dict[str, Tensor]:
        """The last rank's metrics, on every rank."""
        pair = torch.stack(self.metrics).sum(0) if self.metrics else torch.zeros(shape, device=self.device)
        dist.broadcast(pair, self.peers[-1], group=self.group)
        return {"loss": pair}

    def _sum_tied(self) -> None:
        """Tied embeddings live on the first and on the last rank: each gets the gradient of both."""
        config = self.model.config
        if not config.tie_embeddings:
            return
        if self.place in (0, self.stages - 1):
            grad = self.model.model.embed_tokens.weight.grad
            assert grad is not None
            grad = grad.to_local() if isinstance(grad, DTensor) else grad
        else:
            shards = torch.arange(config.vocab_size).chunk(self.shards[1])
            rows = len(shards[self.shards[0]]) if self.shards[0] < len(shards) else 0
            grad = torch.zeros(rows, config.dim, device=self.device)
        dist.all_reduce(grad, group=self.group)

"""The one transformer: norms, attention and feed-forward layers around a residual stream. Module names are Llama's, so that the
state dict of a Llama is the Hugging Face layout as it stands; `names` translates those of the families that differ.

Shape letters are those of `trivium.types`.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trivium.model.attention import Attention, Sequence, document_mask, window_mask
from trivium.model.compact import compact
from trivium.model.config import ModelConfig, Rope
from trivium.model.dropout import KeyedDropout
from trivium.model.heads import Cap, capped, log_probs, log_probs_and_entropy, log_probs_and_z
from trivium.model.mla import LatentAttention
from trivium.model.moe import MixtureOfExperts
from trivium.model.norms import norm, scaled
from trivium.model.rope import Angles, once, rotary
from trivium.model.swiglu import feed_forward
from trivium.types import Batch, Output

if TYPE_CHECKING:
    from trivium.model.cache import Cache


GRAIN = 128
"""Places whose numbers are wanted are computed in multiples of this many."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a norm before it, behind it, or both. The names of the norms are Llama's,
    OLMo 2's and Gemma's."""

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.windowed = layer in config.windowed
        self.before, self.behind = config.norms in ("pre", "both"), config.norms in ("post", "both")
        if self.before:
            self.input_layernorm = norm(config)
        latent = config.latent
        self.self_attn: nn.Module = (
            Attention(config, layer) if latent is None else LatentAttention(config, latent)
        )
        self.post_attention_layernorm = norm(config)  # before the feed-forward layer where none is behind
        if self.behind:
            if self.before:
                self.pre_feedforward_layernorm = norm(config)
            self.post_feedforward_layernorm = norm(config)
        experts = config.experts
        sparse = experts is not None and layer >= experts.dense
        self.mlp: nn.Module = (
            MixtureOfExperts(config.dim, experts) if experts and sparse else feed_forward(config)
        )

    def forward(
        self, x: Tensor, angles: Angles, mask: Tensor | None, cache: Cache | Sequence | None, layer: int
    ) -> Tensor:
        share = self.residual_scale
        normed = self.input_layernorm(x) if self.before else x
        attended = self.self_attn(normed, angles, mask, cache, layer)
        if not self.behind:
            x = x + scaled(attended, share)
            return x + scaled(self.mlp(self.post_attention_layernorm(x)), share)
        x = x + scaled(self.post_attention_layernorm(attended), share)
        normed = self.pre_feedforward_layernorm(x) if self.before else x
        return x + scaled(self.post_feedforward_layernorm(self.mlp(normed)), share)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        if config.learned_positions:
            self.embed_positions = nn.Embedding(config.context, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = norm(config, config.logit_scale)
        self.sequence: Sequence | None = None  # set by train.parallel where rows are cut along time


class Transformer(nn.Module):
    """A decoder-only language model. `lm_head` is absent where the embeddings are tied."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.ragged = True  # False: every pass has the shape of its batch
        self.dropout: KeyedDropout | None = None  # shared with the adapters that drop (`model.lora`)
        self.recompute = False  # blocks: forget what is inside them and compute it again on the way back
        self.model = Decoder(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)

    @property
    def output_weight(self) -> Tensor:
        if self.config.tie_embeddings:
            return self.model.embed_tokens.weight
        weight: Tensor = getattr(
            self.lm_head, "effective", self.lm_head.weight
        )  # with its adapter, if it has one
        return weight

    def initialise(self, generator: torch.Generator) -> None:
        """Normal with deviation 0.02; what feeds the residual stream is divided by sqrt(2 x layers) (GPT-2).

        Under muP (Yang et al. 2022, table 8) the matrices of the blocks are divided by the root of the width's ratio.
        """
        inside = 0.02 / math.sqrt(self.config.width_ratio)
        residual = inside / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                usual = inside if name.startswith("model.layers.") else 0.02
                nn.init.normal_(parameter, std=residual if deep else usual, generator=generator)
            elif name.endswith(("bias", "sinks")):
                nn.init.zeros_(parameter)
            else:
                nn.init.ones_(parameter)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states: tokens, positions and keys of dropout, (B, T) int64 each -> (B, T, D)."""
        if self.dropout is not None:
            self.dropout.keys = keys
        normed: Tensor = self.model.norm(self.through(self.embed(tokens, positions), positions, mask, cache))
        return normed

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Two of (B, T) int64 -> (B, T, D): the residual stream, in bf16 under autocast: half the traffic."""
        x: Tensor = scaled(self.model.embed_tokens(tokens), self.config.embedding_scale)
        if self.config.learned_positions:
            x = x + self.model.embed_positions(positions)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return x

    def through(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """The residual stream through all blocks: (B, T, D) -> (B, T, D)."""
        last = None if cache is None else cache.last
        angles = near_angles = _angles(positions, self.config, last=last)
        mask = mask if mask is None else once(mask)
        near = mask
        if self.config.window is not None:
            cut = self.model.sequence
            first = None if cut is None else cut.place * x.shape[1]
            near = window_mask(
                mask, x, first, self.config.window, None if cache is None else cache.query_places
            )
            if self.config.window_rope is not None:
                near_angles = _angles(positions, self.config, self.config.window_rope, last)
        again = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.model.layers):
            sees = (near_angles, near) if block.windowed else (angles, mask)
            inputs = (x, *sees, cache or self.model.sequence, index)
            x = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
        return x

    def forward(self, batch: Batch, want: Set[str]) -> Output:
        """One training or scoring pass: `want` names the fields of Output to fill (`logp`, `logits`, `entropy`).

        Attention is causal and, where the batch has `doc_id` (B, T), stays inside equal values of it.
        """
        return self.outputs(self.states(batch), batch, want)

    def states(self, batch: Batch) -> Tensor:
        """Final hidden states of a batch: (B, T, D); those of padding say nothing.

        Padding, and the second copy of a pair's prompt, are not computed, except where shapes have to stay: compiled, or cut
        over ranks.
        """
        changes = self.config.changes_at  # a prompt that two replies share would have positions of two kinds
        one_kind = changes is None or batch["tokens"].shape[1] <= changes
        if "doc_id" in batch and self._may_change_shape and one_kind:
            layout = compact(batch, self.config.dim)
            if layout is not None:
                source = layout.source
                tokens, positions = batch["tokens"].flatten()[source], batch["positions"].flatten()[source]
                keys = batch["dropout_key"].flatten()[source] if "dropout_key" in batch else None
                hidden = self.hidden(tokens, positions, layout.mask, keys=keys).flatten(0, 1)
                return hidden.index_select(0, layout.back.flatten()).view(*layout.back.shape, -1)
        mask = document_mask(batch["doc_id"], self.model.sequence) if "doc_id" in batch else None
        return self.hidden(batch["tokens"], batch["positions"], mask, keys=batch.get("dropout_key"))

    @property
    def skips_padding(self) -> bool:
        """Whether passes that are not compiled compute only what is no padding."""
        # experts count the tokens they get: the same ones in every layout over ranks
        whole = self.model.sequence is None and self.config.window is None and self.config.experts is None
        return self.ragged and whole

    @property
    def _may_change_shape(self) -> bool:
        return self.skips_padding and not torch.compiler.is_compiling()

    def outputs(self, hidden: Tensor, batch: Batch, want: Set[str]) -> Output:
        """What `want` names, from final hidden states (B, T, D). Numbers of single targets are 0 where `loss_mask` is."""
        cap: Cap = self.config.logit_softcap
        if "temperature" in batch:  # logits / T are those of h / T, bounded by cap / T
            hidden = hidden / batch["temperature"][:, None, None].to(hidden.dtype)
            cap = cap if cap is None else cap / batch["temperature"][0]
        return self._wanted(hidden, batch, want, cap)

    def _wanted(self, hidden: Tensor, batch: Batch, want: Set[str], cap: Cap) -> Output:
        if "logits" in want:
            logits = capped(F.linear(hidden, self.output_weight).float(), cap)
            if want == {"logits"}:
                return Output(logits=logits)
            return self._wanted(hidden, batch, want - {"logits"}, cap)._replace(logits=logits)
        on = batch["loss_mask"] > 0 if "loss_mask" in batch and self._may_change_shape else None
        if on is None or bool(on.all()):
            return self._outputs(hidden, batch["targets"], want, cap)
        places = on.flatten().nonzero().flatten()
        # a few sizes instead of any: a CPU's kernels are made, and kept, for each
        filled = F.pad(places, (0, -len(places) % GRAIN))
        some = self._outputs(
            hidden.flatten(0, 1)[filled][None], batch["targets"].flatten()[filled][None], want, cap
        )
        return Output(*(x if x is None else _back(x[0, : len(places)], on) for x in some))

    def _outputs(self, hidden: Tensor, targets: Tensor, want: Set[str], cap: Cap) -> Output:
        weight = self.output_weight
        if "entropy" in want:
            both = log_probs_and_entropy(hidden, weight, targets, cap)
            return Output(logp=both[0], entropy=both[1])
        logp: Tensor | None = None
        log_z: Tensor | None = None
        if "log_z" in want:
            logp, log_z = log_probs_and_z(hidden, weight, targets, cap)
        elif "logp" in want:
            logp = log_probs(hidden, weight, targets, cap)
        return Output(logp=logp, log_z=log_z)


def _back(values: Tensor, on: Tensor) -> Tensor:
    """Values (N,) at the places where `on` (B, T) is set, 0 elsewhere: (B, T)."""
    return torch.zeros(on.shape, dtype=values.dtype, device=on.device).masked_scatter(on, values)


def _angles(
    positions: Tensor, config: ModelConfig, rope: Rope | None = None, last: Tensor | None = None
) -> Angles:
    """`rotary`, computed once for all layers."""
    cos, sin, growth = rotary(positions, config, rope, last)
    return Angles(once(cos), once(sin), None if growth is None else once(growth))

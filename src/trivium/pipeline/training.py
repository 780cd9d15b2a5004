"""A training stage: its starting point, one phase on this rank, and the checkpoint it leaves."""

from __future__ import annotations

from typing import Any

from trivium.errors import RecipeError
from trivium.pipeline.contract import Context


def train_here(ctx: Context) -> dict[str, Any]:
    """This rank's part of the stage. The first rank fills `ctx.out`; the metrics are the same on all."""
    from trivium.assembly import train_phase
    from trivium.batches.context import PhaseContext
    from trivium.corpus.shards import place
    from trivium.phases import PHASES
    from trivium.plan.machine import rates

    model, chat = start(ctx)
    phase, config = PHASES[ctx.config.kind], ctx.config
    network = phase.network(model, config)
    store, data = ctx.work.parent.parent, ctx.inputs[config.data]
    phase_context = PhaseContext(
        config=config,
        model=model,
        network=network,
        chat=chat,
        data=data.path,
        work=ctx.work,
        seed=ctx.seed,
        emit=ctx.emit,
        others={
            field: ctx.inputs[name].path
            for field in ("reward_model", "teacher")
            if (name := getattr(config, field, None)) is not None
        },
        tokens=place(store / "tokens", data.fingerprint, chat) if config.rows == "documents" else None,
        peak=lambda precision, device: (
            rates(
                precision,
                device,
                cache=store / "machine.json",
                tell=lambda message: ctx.emit({"event": "message", "message": message}),
            ).peak
        ),
    )
    metrics = train_phase(phase, phase_context)
    return _save(ctx, model, chat, network, metrics)


def _save(ctx: Context, model: Any, chat: Any, network: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    """Fills `ctx.out` with what was trained: a reward model, or a checkpoint, with its adapter merged. The metrics."""
    from trivium import imports
    from trivium.model import generation as generation_config
    from trivium.model import lora, scalar
    from trivium.train import distributed
    from trivium.train.parallel.state import gathered, whole

    if isinstance(network, scalar.Scalar):
        if ctx.config.adapter is not None:
            metrics["trained_parameters"] = sum(p.numel() for p in network.parameters() if p.requires_grad)
            network = scalar.merged(network, ctx.config.adapter)
        if distributed.rank() == 0:
            imports.save_scorer(network, chat, ctx.out)
        return {"parameters": sum(p.numel() for p in network.parameters()), **metrics}
    adapter = ctx.config.adapter
    if adapter is None:
        model = gathered(model)
    else:
        metrics["trained_parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        state = whole(model.state_dict())
        model = lora.merged(model.config, state, adapter)
        if distributed.rank() == 0:
            lora.save(state, adapter, ctx.out / "adapter")
    if distributed.rank() == 0:
        generation = ctx.config.generation
        if generation is None and ctx.config.init is not None:
            generation = generation_config.read(ctx.inputs[ctx.config.init].path)
        imports.save(model, chat, ctx.out, generation)
    return {"parameters": sum(p.numel() for p in model.parameters()), **metrics}


def start(ctx: Context) -> tuple[Any, Any]:
    """(model, tokenizer) that the stage begins with: those of `init`, or new weights."""
    import torch

    from trivium.model import hf, lora
    from trivium.model.config import ModelConfig
    from trivium.model.transformer import Transformer
    from trivium.seeds import derive
    from trivium.text.chat import ChatTokenizer

    config = ctx.config
    if config.init is not None:
        start = ctx.inputs[config.init].path
        model, chat = hf.load(start, trainable=True), ChatTokenizer.load(start)
        if config.context is not None and config.context > model.config.context:
            raise RecipeError(  # of an imported checkpoint, the recipe alone does not tell
                f"rows of {config.context} tokens exceed the model's context of {model.config.context}",
                where=f"stages.{ctx.name}.context",
                fix="write at most that",
            )
        if config.adapter is not None:
            lora.attach(model, config.adapter, torch.Generator().manual_seed(derive(ctx.seed, "adapter")))
        return model, chat
    vocabulary = config.teacher if config.kind == "distill" else config.tokenizer
    chat = ChatTokenizer.load(ctx.inputs[vocabulary].path)
    model = Transformer(ModelConfig.from_shape(config.model, chat.vocab_size))
    model.initialise(torch.Generator().manual_seed(derive(ctx.seed, "weights")))
    return model, chat

"""Checkpoints that others made: a Hugging Face folder or a GGUF file becomes a checkpoint like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer

from trivium.errors import ArtifactError
from trivium.model import generation as generation_config
from trivium.model import gguf, hf, peft, scalar
from trivium.model.scalar import Scalar
from trivium.model.source import sources
from trivium.model.transformer import Transformer
from trivium.recipe.network import Generation
from trivium.text import gguf as gguf_text
from trivium.text.chat import ChatTokenizer
from trivium.text.special import Special, read_json
from trivium.types import Emit


def open_checkpoint(path: Path, base: Path | None = None) -> tuple[Transformer, ChatTokenizer]:
    """The model (float32) and the tokenizer at `path`; with a `base`, that with the adapter at `path` in it.

    ArtifactError for what is no checkpoint, is damaged, or whose vocabulary and tokenizer do not belong together.
    """
    path = Path(path)
    sources(path, base)
    if base is not None:
        header, state = hf.read(base, trainable=True, adapted=partial(peft.merged, path))
        model = hf.build(header.config, state, path)
        chat = ChatTokenizer.load(path if (path / "tokenizer.json").is_file() else base)
    elif path.is_file():
        readers = gguf.open_parts(path)
        meta = gguf.metadata(readers[0])
        config, state = gguf.read(readers, meta, path)
        tokenizer, special, template = gguf_text.tokenizer(meta, path)
        chat = ChatTokenizer(tokenizer, template, special)
        model = hf.build(config, state, path)
    else:
        model, chat = hf.load(path), ChatTokenizer.load(path)
    if chat.vocab_size > model.config.vocab_size:
        raise ArtifactError(
            f"the tokenizer has {chat.vocab_size:,} tokens and the model's vocabulary {model.config.vocab_size:,}",
            where=str(path),
            fix="use the tokenizer.json that belongs to these weights",
        )
    return model, chat


def save(model: Transformer, chat: ChatTokenizer, out: Path, generation: Generation | None = None) -> None:
    """Writes a checkpoint folder: weights, config, how replies are drawn, tokenizer, template."""
    special: Special | None = chat.special
    bos = None if special is None or special.bos is None else chat.tokenizer.token_to_id(special.bos)
    eos = chat.end if special is None else chat.stops
    hf.save(model, out, eos=eos, pad=chat.pad, bos=bos, generation=generation)
    chat.save(out, context=model.config.context)


PAD = "<|pad|>"


def save_scorer(model: Scalar, chat: ChatTokenizer, out: Path) -> None:
    """Writes a reward model's folder. transformers reads a score in front of the first padding, so that the token that ends a
    reply must not be the padding: where it is, the tokenizer gets one for that alone."""
    special = chat.special
    if special is not None and chat.pad in chat.stops:
        tokenizer = Tokenizer.from_str(chat.tokenizer.to_str())  # the caller's stays as it is
        known = chat.vocab_size
        tokenizer.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
        chat = ChatTokenizer(tokenizer, chat.template, replace(special, pad=PAD), chat.tool_template)
        if chat.vocab_size > known:
            resize(model.trunk, known, chat.vocab_size)
            model.config = model.trunk.config
    scalar.save(model, out, eos=chat.end, pad=chat.pad)
    chat.save(out, context=model.config.context)


def with_tokens(chat: ChatTokenizer, tokens: Sequence[str], eos: str | None, where: Path) -> ChatTokenizer:
    """The same tokenizer with more special tokens, and another end token. ArtifactError where that one is not there."""
    if chat.special is None:
        raise ArtifactError(
            "the tokenizer is Trivium's own, whose tokens are fixed",
            where=str(where),
            fix="leave `add_tokens` and `eos` out",
        )
    chat.tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    special = chat.special
    if eos is not None:
        if chat.tokenizer.token_to_id(eos) is None:
            raise ArtifactError(
                f"`eos` is {eos!r}, which is not in the vocabulary",
                where=str(where),
                fix="name it in `add_tokens`, too",
            )
        special = replace(special, eos=eos)
    return ChatTokenizer(chat.tokenizer, chat.template, special, chat.tool_template)


@torch.no_grad()
def resize(model: Transformer, old: int, new: int) -> None:
    """Room for `new` ids in embeddings and head, in place: the rows of ids from `old` on become the mean of those before."""
    embedding = model.model.embed_tokens
    for module in (embedding,) if model.config.tie_embeddings else (embedding, model.lm_head):
        weight = module.weight
        mean = weight[:old].float().mean(0, keepdim=True).to(weight.dtype)
        module.weight = torch.nn.Parameter(
            torch.cat([weight[:old], mean.expand(new - old, -1), weight[new:]])
        )
    rows = len(embedding.weight)
    embedding.num_embeddings = rows
    model.config = replace(model.config, vocab_size=rows)


def _check_end(chat: ChatTokenizer, where: Path, emit: Emit) -> None:
    """A reply must end in one token, or nothing that is trained on it learns to stop."""
    if chat.template is None:
        return
    end = chat.turn_end
    if end.text and end.token is None:
        raise ArtifactError(
            f"the chat template ends a reply with {end.text!r}, which the tokenizer cuts into "
            f"{len(chat.guard.plain(end.text))} tokens: no reply would ever stop there",
            where=str(where),
            fix="name the template's marks in the import stage's `add_tokens`, or give another `chat_template`",
        )
    if not end.text:
        emit(
            {
                "event": "warning",
                "message": "the chat template writes nothing behind a reply, so that fine-tuning cannot teach the model to "
                "stop; replies end at " + ", ".join(repr(chat.tokenizer.id_to_token(n)) for n in chat.stops),
            }
        )


def import_checkpoint(
    path: Path,
    out: Path,
    template: Path | None = None,
    *,
    base: Path | None = None,
    add_tokens: Sequence[str] = (),
    eos: str | None = None,
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Copies the checkpoint at `path` to the folder `out`, in our layout and float32. `template` replaces its chat template,
    `eos` its end token; `add_tokens` become special tokens with embeddings of their own. `base` is the checkpoint that an adapter
    at `path` changes.

    ArtifactError for a template whose end of a turn the tokenizer cuts into pieces; a template that writes no end is warned of.
    """
    model, chat = open_checkpoint(path, base)
    if template is not None:
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"the chat template cannot be read: {error}", where=str(template)) from None
        chat = ChatTokenizer(chat.tokenizer, text, chat.special)
    if add_tokens or eos is not None:
        known = chat.vocab_size
        chat = with_tokens(chat, add_tokens, eos, path)
        if chat.vocab_size > known:
            resize(model, known, chat.vocab_size)
    _check_end(chat, path, emit)
    if bad := [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]:
        shown = ", ".join(bad[:5])
        raise ArtifactError(f"{len(bad)} weights hold NaN or infinity: {shown}", where=str(path))
    save(model, chat, out, generation_config.read(base or path))
    config = read_json(out / "config.json")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": model.config.vocab_size,
        "context": model.config.context,
        "family": config["model_type"],
        "talks": chat.template is not None,
    }

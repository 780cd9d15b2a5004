"""Checkpoints that others made: a Hugging Face folder or a GGUF file becomes a checkpoint like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trivium.errors import ArtifactError
from trivium.model import gguf, hf
from trivium.model.source import sources
from trivium.model.transformer import Transformer
from trivium.text import gguf as gguf_text
from trivium.text.chat import ChatTokenizer
from trivium.text.special import Special, read_json


def open_checkpoint(path: Path) -> tuple[Transformer, ChatTokenizer]:
    """The model (float32) and the tokenizer at `path`.

    ArtifactError for what is no checkpoint, is damaged, or whose vocabulary and tokenizer do not belong together.
    """
    path = Path(path)
    sources(path)
    if path.is_file():
        reader = gguf.open_file(path)
        meta = gguf.metadata(reader)
        config, state = gguf.read(reader, meta, path)
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


def save(model: Transformer, chat: ChatTokenizer, out: Path) -> None:
    """Writes a checkpoint folder: weights, config, tokenizer, template."""
    special: Special | None = chat.special
    bos = None if special is None or special.bos is None else chat.tokenizer.token_to_id(special.bos)
    hf.save(model, out, eos=chat.end if special is None else chat.stops, pad=chat.pad, bos=bos)
    chat.save(out, context=model.config.context)


def import_checkpoint(path: Path, out: Path, template: Path | None = None) -> dict[str, Any]:
    """Copies the checkpoint at `path` to the folder `out`, in our layout and float32; `template` replaces its chat template."""
    model, chat = open_checkpoint(path)
    if template is not None:
        try:
            text = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"the chat template cannot be read: {error}", where=str(template)) from None
        chat = ChatTokenizer(chat.tokenizer, text, chat.special)
    if bad := [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]:
        shown = ", ".join(bad[:5])
        raise ArtifactError(f"{len(bad)} weights hold NaN or infinity: {shown}", where=str(path))
    save(model, chat, out)
    config = read_json(out / "config.json")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocab_size": model.config.vocab_size,
        "context": model.config.context,
        "family": config["model_type"],
        "talks": chat.template is not None,
    }

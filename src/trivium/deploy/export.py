"""Step 6: a checkpoint as GGUF files, each loaded again and measured against the model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trivium.deploy.calibrate import importance
from trivium.deploy.table import Table
from trivium.errors import ArtifactError
from trivium.files import atomic_path, write_text
from trivium.imports import open_checkpoint
from trivium.model import generation as generation_config
from trivium.model import ggml, gguf_write, hf
from trivium.model.gguf_write import Written
from trivium.model.transformer import Transformer
from trivium.recipe.deployment import ExportStage, GgufType
from trivium.recipe.network import Generation
from trivium.text.chat import ChatTokenizer
from trivium.text.gguf_write import add_tokenizer
from trivium.text.ollama import go_template
from trivium.types import Emit


def export(config: ExportStage, source: Path, data: Path | None, out: Path, emit: Emit) -> dict[str, Any]:
    """Writes a file for each of the stage's types to `out`, and a Modelfile for Ollama; returns what each is and what it costs.

    ArtifactError for a model or a tokenizer that GGUF has no words for; GateError where a bound of the stage does not hold.
    """
    name = config.model
    if hf.read_config(source).rounds_inputs:
        raise ArtifactError(
            "GGUF has no words for inputs that are rounded to int8: read as weights alone it would be another model",
            where=str(source),
            fix="export the checkpoint that was quantized; q8_0 rounds inputs by itself",
        )
    table = Table(config, source, data, emit)
    model, chat, generation = table.full, table.chat, generation_config.read(source)
    weights = importance(model, table.calibration) if table.calibration is not None else {}
    for kind in dict.fromkeys(config.types):
        path = out / f"{name}-{kind}.gguf"
        written = write(path, kind, model, chat, name, generation, weights)
        again, _ = open_checkpoint(path)
        calibrated = bool(weights) and ggml.MIXES[kind].most in ggml.BLOCKS
        table.add(
            kind, path, again, "exported",
            bits_per_weight=written.bits_per_weight, mix=written.mix, calibrated=calibrated,
        )  # fmt: skip
    metrics = table.metrics()
    write_text(out / "Modelfile", modelfile(chat, table.outputs, generation, table.context))
    return metrics


def write(
    path: Path,
    kind: GgufType,
    model: Transformer,
    chat: ChatTokenizer,
    name: str,
    generation: Generation | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Written:
    """One file. `weights`: the importance of each layer's inputs."""
    with atomic_path(path) as temporary:
        made = gguf_write.writer(temporary, model.config)
        made.add_name(name)
        gguf_write.add_shape(made, model.config)
        add_tokenizer(made, chat, model.config.vocab_size)
        if generation is not None:
            made.add_sampling_temp(generation.temperature)
            made.add_sampling_top_p(generation.top_p)
            made.add_sampling_top_k(generation.top_k)
        written = gguf_write.add_weights(made, model, kind, weights)
        made.write_header_to_file()
        made.write_kv_data_to_file()
        made.write_tensors_to_file()
        made.close()
    return written


def modelfile(
    chat: ChatTokenizer, files: Mapping[str, Mapping[str, Any]], generation: Generation | None, context: int
) -> str:
    """Ollama's recipe for the first of the files; another one is a change of its first line."""
    first, *others = [entry["file"] for entry in files.values()]
    lines = [f"FROM ./{first}", *(f"# FROM ./{file}" for file in others), f"PARAMETER num_ctx {context}"]
    if generation is not None:
        lines += [
            f"PARAMETER temperature {generation.temperature:g}",
            f"PARAMETER top_p {generation.top_p:g}",
            f"PARAMETER top_k {generation.top_k}",
            f"PARAMETER num_predict {generation.max_new_tokens}",
        ]
    lines += [f'PARAMETER stop "{chat.tokenizer.id_to_token(stop)}"' for stop in chat.stops]
    template = go_template(chat)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    elif chat.template is not None:
        lines.append(
            "# Ollama reads no jinja, and this chat template is no row of turns: it has to be written by hand"
        )
    return "\n".join(lines) + "\n"

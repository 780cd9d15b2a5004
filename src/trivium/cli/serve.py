"""`trivium serve` on the command line. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trivium.cli import commands
from trivium.errors import RecipeError, TriviumError

Checkpoint = Annotated[
    Path | None,
    typer.Argument(
        metavar="CHECKPOINT", help="A checkpoint's folder or link, or a GGUF file.", show_default=False
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen on; other machines need --keys.")]
Port = Annotated[int, typer.Option(min=0, max=65535)]
Name = Annotated[
    str | None, typer.Option(help="What clients call the model; the checkpoint's own name if not given.")
]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Digests of API keys: who has none is refused.")
]
NewKey = Annotated[
    str | None,
    typer.Option(metavar="CLIENT", help="Add a key for a client to --keys, print it once, and stop."),
]
KvTokens = Annotated[
    int,
    typer.Option(min=32, help="Memory for keys and values, in tokens. It is taken at once and never grows."),
]
Chunk = Annotated[int, typer.Option(min=1, help="Tokens of prompts that are read between two steps.")]
Running = Annotated[int, typer.Option(min=1, help="Most sequences in the batch.")]
Queue = Annotated[int, typer.Option(min=0, help="Most sequences that wait; more are answered 429.")]
Deadline = Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")]
Drain = Annotated[float, typer.Option(min=0.0, help="Seconds for replies under way after SIGTERM.")]
Withdrawn = Annotated[
    str, typer.Option(help="refuse or allow: models that stand on data that was withdrawn.")
]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16.")]


def serve(
    checkpoint: Checkpoint = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    keys: KeyFile = None,
    new_key: NewKey = None,
    kv_tokens: KvTokens = 16384,
    chunk: Chunk = 256,
    running: Running = 32,
    queue: Queue = 256,
    deadline: Deadline = 600.0,
    drain: Drain = 30.0,
    precision: Precision = "float32",
    withdrawn: Withdrawn = "refuse",
) -> None:
    """Serve a checkpoint: the APIs of OpenAI and Anthropic, metrics, and a page to chat at `/`.

    Examples:

      trivium serve runs/quickstart/aligned

      trivium serve --new-key alice --keys keys.txt

      trivium serve model.gguf --host 0.0.0.0 --keys keys.txt
    """
    if new_key is not None:
        from trivium.serve.keys import add

        if keys is None:
            raise RecipeError("there is no file for the key", fix="add --keys FILE")
        print(add(keys, new_key))
        return
    if checkpoint is None:
        raise RecipeError("there is no checkpoint to serve", fix="trivium serve CHECKPOINT")
    commands.check_checkpoint(checkpoint)
    if withdrawn not in ("refuse", "allow"):
        raise RecipeError(f"--withdrawn cannot be {withdrawn!r}", fix="--withdrawn refuse or allow")
    if withdrawn == "refuse":
        from trivium.pipeline.withdraw import refuse_withdrawn

        refuse_withdrawn(checkpoint)
    limits = {
        "tokens": kv_tokens,
        "chunk": chunk,
        "running": running,
        "queue": queue,
        "deadline": deadline,
        "drain": drain,
    }
    _start(checkpoint, host, port, name, keys, precision, limits)


def _start(
    checkpoint: Path, host: str, port: int, name: str | None, keys: Path | None, precision: str,
    limits: dict[str, Any],
) -> None:  # fmt: skip
    """`limits`: fields of `serve.service.Limits` by name."""
    try:
        from trivium.serve.server import PRECISIONS, serve
        from trivium.serve.service import Limits
    except ModuleNotFoundError as error:
        raise TriviumError(f"serving needs {error.name}", fix="pip install 'trivium[serve]'") from None
    if precision not in PRECISIONS:
        raise RecipeError(
            f"there is no precision {precision!r}", fix=f"--precision {' or '.join(PRECISIONS)}"
        )
    from trivium.imports import open_checkpoint

    model, chat = open_checkpoint(checkpoint)
    called = name or checkpoint.name.removesuffix(".gguf") or checkpoint.resolve().name
    serve(
        model, chat, checkpoint, name=called, host=host, port=port, limits=Limits(**limits), keys=keys,
        precision=precision,
    )  # fmt: skip

"""`trivium chat`. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium.cli import commands
from trivium.errors import RecipeError

if TYPE_CHECKING:
    from trivium.talk import Talk


def chat(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder or link.", show_default=False),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Answer this and stop.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system message to begin with.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=1e-6, max=1.0, help="Draw from the likeliest tokens with this much probability."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Draw from so many of the likeliest tokens; 0: from all.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply, in tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same replies.")] = 0,
    url: Annotated[str | None, typer.Option(help="A server that speaks OpenAI's protocol, instead.")] = None,
    model: Annotated[str | None, typer.Option(help="--url: which of its models; else its first.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="--url: the variable with its key.")
    ] = None,
) -> None:
    """Talk to a checkpoint or a server: replies stream as they are written, drawn as its generation_config.json says.

    /help lists what else can be typed. Ctrl-C stops a reply; at the prompt it leaves, as an empty line and Ctrl-D do.

    Examples:

      trivium chat runs/quickstart/aligned

      trivium chat --url http://127.0.0.1:8000

      trivium chat runs/quickstart/int8 -p "What does os.path.join do?" --temperature 0
    """
    if (checkpoint is None) == (url is None):
        raise RecipeError(
            "there has to be a checkpoint or a server, and one of them", fix="trivium chat CHECKPOINT"
        )
    drawn = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_new_tokens": max_new_tokens}
    given = {name: value for name, value in drawn.items() if value is not None}
    session = (
        _remote(url, model, key, given, system, seed)
        if checkpoint is None
        else _local(checkpoint, given, system, seed)
    )
    if prompt is None:
        session.run(input)
    else:
        session.reply(prompt)


def _remote(
    url: str | None, model: str | None, key: str | None, given: dict[str, Any], system: str | None, seed: int
) -> Talk:
    from trivium import talk
    from trivium.generate.streaming import Streaming

    assert url is not None
    if "max_new_tokens" in given:
        given["max_tokens"] = given.pop("max_new_tokens")
    return talk.RemoteSession(Streaming(url, model, key), given, system=system, seed=seed)


def _local(checkpoint: Path, given: dict[str, Any], system: str | None, seed: int) -> Talk:
    """What is not given is as the checkpoint's generation_config.json says."""
    commands.check_checkpoint(checkpoint)
    from trivium import talk
    from trivium.imports import open_checkpoint
    from trivium.model import generation
    from trivium.recipe.network import Generation

    drawn = (generation.read(checkpoint) or Generation()).model_copy(update=given)
    return talk.Session(*open_checkpoint(checkpoint), drawn, system=system, seed=seed)

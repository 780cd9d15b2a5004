"""`trivium serve` on the command line. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trivium.cli import commands
from trivium.cli.options import SignedBy, Withdrawn, check_signed, check_withdrawn
from trivium.cli.tracing import Make, Traces, noting
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
Feedback = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep thumbs and their reasons here, as rows that a source of feedback reads."
    ),
]
Requests = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Requests that a key may have, such as 60/minute; with --new-key, that key alone.",
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Tokens of prompts and replies that a key may have, such as 200000/day; with --new-key, that key alone.",
    ),
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
Precision = Annotated[
    str,
    typer.Option(
        help="torch: float32, bfloat16, int8 for matrices, or int8-dynamic: inputs are rounded, too."
    ),
]
Guess = Annotated[
    str | None,
    typer.Option(
        metavar="look-up|CHECKPOINT",
        help="torch: read ahead what followed the same words before, or what a smaller model says. Replies stay the same.",
    ),
]
EngineName = Annotated[
    str, typer.Option(help="torch, or llama.cpp for a GGUF file (in a process of its own; needs xllamacpp).")
]
UpstreamUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="No checkpoint: pass requests on to a server of OpenAI's protocol."),
]
UpstreamModel = Annotated[
    str | None, typer.Option(help="--upstream: the model's name there; the first that it lists if not given.")
]
UpstreamKey = Annotated[
    str | None,
    typer.Option(metavar="VARIABLE", help="--upstream: the environment variable with its API key."),
]
Beside = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT|URL",
        help="A second model, asked by its own name: the page at `/` shows both replies side by side.",
    ),
]
Trace = Annotated[
    bool | None,
    typer.Option(
        "--trace/--no-trace",
        help="On the page, show where a reply stands in the training data, with passages of it: to who has a key, too. Without "
        "--keys it is shown if not told otherwise.",
        show_default=False,
    ),
]


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
    feedback: Feedback = None,
    requests: Requests = None,
    tokens: Tokens = None,
    guess: Guess = None,
    engine: EngineName = "torch",
    upstream: UpstreamUrl = None,
    upstream_model: UpstreamModel = None,
    upstream_key: UpstreamKey = None,
    beside: Beside = None,
    signed_by: SignedBy = None,
    trace: Trace = None,
) -> None:
    """Serve a checkpoint: the APIs of OpenAI and Anthropic, metrics, and a page to chat at `/`.

    Examples:

      trivium serve runs/quickstart/aligned

      trivium serve --new-key alice --keys keys.txt

      trivium serve model.gguf --engine llama.cpp --host 0.0.0.0 --keys keys.txt

      trivium serve --upstream http://10.0.0.7:8000/v1 --keys keys.txt
    """
    if new_key is not None:
        _add_key(keys, new_key, requests, tokens)
        return
    traces: Traces | None = {} if (keys is None if trace is None else trace) else None
    sizes = {"tokens": kv_tokens, "chunk": chunk, "running": running, "queue": queue}
    limits: dict[str, Any] = {**sizes, "deadline": deadline, "drain": drain}
    _check(checkpoint, upstream, keys, requests or tokens)
    try:
        from trivium.serve.server import serve as run

        if checkpoint is not None:
            make = _local(checkpoint, engine, name, precision, guess, withdrawn, limits, traces)
        else:
            make = _upstream(str(upstream), upstream_model, name, upstream_key, limits)
        second = None if beside is None else _second(beside, engine, precision, withdrawn, limits, traces)
    except ModuleNotFoundError as error:
        raise TriviumError(f"serving needs {error.name}", fix="pip install 'trivium[serve]'") from None
    make = _signed(make, signed_by, checkpoint or upstream, guess)
    second = second and _signed(second, signed_by, beside)
    given: Any = {"host": host, "port": port, "requests": requests, "tokens": tokens, "feedback": feedback}
    run(make, keys=keys, beside=second, traces=traces, **given)


def _second(
    beside: str, engine: str, precision: str, withdrawn: str, limits: dict[str, Any], traces: Traces | None
) -> Make:
    if beside.startswith(("http://", "https://")):
        return _upstream(beside, None, None, None, limits)
    path = Path(beside)
    kind = engine if path.is_file() else "torch"
    return _local(path, kind, None, precision, None, withdrawn, limits, traces)


def _check(checkpoint: Path | None, upstream: str | None, keys: Path | None, limit: str | None) -> None:
    if keys is None and limit:
        raise RecipeError("limits are those of a key, and no key is asked for", fix="add --keys FILE")
    if (checkpoint is None) == (upstream is None):
        raise RecipeError("a checkpoint is served, or --upstream is: one", fix="trivium serve CHECKPOINT")


def _signed(make: Make, signed_by: Path | None, *models: str | Path | None) -> Make:
    """`make`, if a key of `signed_by` signed all of its models: asked now, and whenever the weights are loaded again."""
    if signed_by is None:
        return make

    def checked(metrics: Any) -> Any:
        for model in models:
            if isinstance(model, str) and model.startswith(("http://", "https://")):
                raise RecipeError(
                    f"nobody can tell what {model} answers with",
                    fix="serve a checkpoint, or leave out --signed-by",
                )
            if model not in (None, "look-up"):
                check_signed(Path(str(model)), signed_by)
        return make(metrics)

    return checked


def _add_key(keys: Path | None, name: str, requests: str | None, tokens: str | None) -> None:
    from trivium.serve.keys import add

    if keys is None:
        raise RecipeError("there is no file for the key", fix="add --keys FILE")
    print(add(keys, name, requests, tokens))


def _local(
    checkpoint: Path,
    engine: str,
    name: str | None,
    precision: str,
    guess: str | None,
    withdrawn: str,
    limits: dict[str, Any],
    traces: Traces | None,
) -> Make:
    commands.check_checkpoint(checkpoint)
    check_withdrawn(checkpoint, withdrawn)
    called = name or checkpoint.name.removesuffix(".gguf") or checkpoint.resolve().name
    if engine == "llama.cpp":
        make = _llama(checkpoint, called, limits)
    elif engine == "torch":
        make = _torch(checkpoint, called, precision, guess, limits)
    else:
        raise RecipeError(f"there is no engine {engine!r}", fix="--engine torch or llama.cpp")
    return make if traces is None else noting(make, checkpoint, traces)


def _torch(checkpoint: Path, name: str, precision: str, guess: str | None, limits: dict[str, Any]) -> Make:
    from trivium.imports import open_checkpoint
    from trivium.model import generation
    from trivium.serve.engines import Limits
    from trivium.serve.local import TorchEngine, check_template
    from trivium.serve.service import PRECISIONS

    known = next((one for one in PRECISIONS if one == precision), None)
    if known is None:
        raise RecipeError(f"there is no precision {precision!r}", fix=f"--precision {', '.join(PRECISIONS)}")

    def make(metrics: Any) -> Any:
        model, chat = open_checkpoint(checkpoint)
        check_template(chat, checkpoint)
        draft: Any = guess
        if guess not in (None, "look-up"):
            draft, theirs = open_checkpoint(Path(guess))
            if theirs.tokenizer.get_vocab() != chat.tokenizer.get_vocab():
                raise RecipeError(f"{guess} has another vocabulary than {checkpoint}", where="--guess")
        usual = generation.read(checkpoint)
        return TorchEngine(model, chat, name, usual, Limits(**limits), known, metrics, draft)

    return make


def _llama(checkpoint: Path, name: str, limits: dict[str, Any]) -> Make:
    from trivium.serve.engines import Limits
    from trivium.serve.llama import LlamaEngine

    if not checkpoint.is_file():
        raise RecipeError(
            f"llama.cpp reads GGUF files; {checkpoint} is a folder", fix="`kind: export` writes one"
        )
    return lambda metrics: LlamaEngine(checkpoint, name, Limits(**limits), metrics)


def _upstream(url: str, there: str | None, name: str | None, key: str | None, limits: dict[str, Any]) -> Make:
    from trivium.generate.streaming import Streaming
    from trivium.serve.engines import Limits
    from trivium.serve.upstream import Upstream

    def make(metrics: Any) -> Any:
        model = Streaming(url, there, key).model
        return Upstream(url, model, name, key, Limits(**limits), metrics)

    return make

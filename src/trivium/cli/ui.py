"""`trivium ui`: the pages over the store and the runs. Nothing heavy is imported."""

from __future__ import annotations

from typing import Annotated

import typer

from trivium.cli.options import RUNS, STORE, RunsFolder, StoreFolder
from trivium.errors import TriviumError


def ui(
    store: StoreFolder = STORE,
    runs: RunsFolder = RUNS,
    host: Annotated[
        str, typer.Option(help="Where to listen: whoever reaches it may read it all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8600,
    rollout: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LOG",
            help="A rollout's log, or its router's address, beside those that the store knows. Repeat for more.",
        ),
    ] = None,
) -> None:
    """Look at runs in a browser: stages, curves while they grow, data, evaluation, lineage, chat, arena, rollouts, store.

    Example:

      trivium ui       then open http://127.0.0.1:8600
    """
    try:
        from trivium.ui.app import serve
        from trivium.ui.parts import Place
    except ModuleNotFoundError as error:
        raise TriviumError(f"the pages need {error.name}", fix="pip install 'trivium[ui]'") from error
    from trivium.pipeline.store import opened

    print(f"http://{host}:{port}   (Ctrl-C ends it)")
    serve(Place(runs, opened(store), tuple(rollout or ())), host, port)

"""How the server's page traces a reply: what `trivium trace` finds, in words that the page only has to set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trivium.errors import ArtifactError

DOCUMENTS, NEAR = 3, 2
"""Documents that are shown of a span, and of a paragraph that says nearly the same."""
Make = Callable[[Any], Any]
"""Makes an engine; see `serve.server.Make`."""
Traces = dict[str, Callable[[str], dict[str, Any]]]
"""How replies are traced, by the engine's name; see `serve.app.Web`."""


def noting(make: Make, checkpoint: Path, traces: Traces) -> Make:
    """`make`, which also puts into `traces`, under the engine's name, how replies of the weights that it read are traced. Nothing
    where no store knows what they were trained on."""

    def made(metrics: Any) -> Any:
        folder = checkpoint.resolve()
        engine = make(metrics)
        traces.pop(engine.name, None)
        if (found := _tracing(folder.parent if folder.is_file() else folder)) is not None:
            traces[engine.name] = found
        return engine

    return made


def _tracing(folder: Path) -> Callable[[str], dict[str, Any]] | None:
    from trivium.pipeline.store import Store
    from trivium.pipeline.trained import traced, trained
    from trivium.report.trace import name, pieces, stages, terms

    store = Store(folder.parent.parent)
    try:
        trained(folder, store)
    except ArtifactError:
        return None

    def trace(reply: str) -> dict[str, Any]:
        from trivium.trace.reply import LEAST

        report = traced(folder, store, reply, lambda event: None, least=LEAST, documents=DOCUMENTS, near=NEAR)
        for one in [*report["spans"], *report["near"]]:
            for document in one["documents"]:
                read = f", read by {stages(document)}" if "stages" in document else ""
                document |= {"name": name(document), "terms": f"{document['data']}: {terms(document)}{read}"}
        del report["model"]  # a path of this machine
        return {**report, "pieces": pieces(report)}

    return trace

"""What a model was trained on, read from the store: every training stage of its history with its data."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import ArtifactError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.record import RECORD
from trivium.pipeline.store import Store
from trivium.recipe.models import TRAINING
from trivium.trace.corpora import Corpus, Trained, Use
from trivium.types import Emit

VOCABULARY = "tokenizer.json"
READ = "data"
"""The role of what a training stage trains on."""


def trained(where: str | Path, store: Store) -> tuple[list[Trained], list[str]]:
    """What the artifact `where` (a folder, a link, the start of a fingerprint) stands on, and what is not known of it, in words.

    ArtifactError where there is no history at all, or nothing of it is left in the store.
    """
    found, unknown = uses(history(where, store), store)
    if not found:
        raise ArtifactError(
            "nothing that this model was trained on is known" + "".join(f"; {what}" for what in unknown),
            where=str(where),
            fix="trace a model that was trained by a recipe, with the store that holds its data (`--store`)",
        )
    return found, unknown


def traced(
    model: str | Path,
    store: Store,
    reply: str,
    emit: Emit,
    *,
    least: int,
    documents: int,
    near: int,
    licences: Collection[str] = (),
) -> dict[str, Any]:
    """The report of `trivium.trace.reply.trace` on a reply of `model`, with `model`, `unknown` (what is not known, in
    words) and `near` (`trivium.trace.near.near`, of `near` documents a paragraph, of any licence; empty where that is 0).

    Makes indexes and signatures where they are not there yet. DataError for a reply that is too short; ArtifactError for a model
    of which nothing is known and for what is damaged.
    """
    from trivium.trace.corpora import open_near
    from trivium.trace.near import near as nearest
    from trivium.trace.reply import trace

    corpora, unknown = searched(model, store, emit)
    found = trace(reply, corpora, least=least, documents=documents, licences=licences)
    sources = [(one.trained.stage, open_near(one, store.root, emit), one.texts) for one in corpora if near]
    return {"model": str(model), "unknown": unknown, **found, "near": nearest(reply, sources, near)}


def searched(
    model: str | Path, store: Store, emit: Emit, *, near: bool = False
) -> tuple[list[Corpus], list[str]]:
    """What `traced` looks a reply up in, its indexes made where they are not there yet; with `near` the signatures, too; and what
    is not known, in words. Errors as `traced`."""
    from trivium.trace.corpora import open_corpus, open_near

    known, unknown = trained(model, store)
    corpora = [open_corpus(one, store.root, emit) for one in known]
    for one in corpora if near else ():
        open_near(one, store.root, emit)
    return corpora, unknown


def history(where: str | Path, store: Store) -> dict[str, Artifact | None]:
    """Fingerprint -> artifact (None: no longer in the store) of `where` and of all that was used to make its weights, the nearest
    first. What only measured it is left out."""
    if Path(where).is_dir() and not (Path(where) / RECORD).is_file():
        raise ArtifactError(
            "a model without lineage: nothing says what it was trained on",
            where=str(where),
            fix="give a stage's folder or link, such as runs/RECIPE/aligned; what was copied elsewhere or comes from elsewhere "
            "has no record beside it",
        )
    first = store.look(where)
    found: dict[str, Artifact | None] = {first.fingerprint: first}
    todo = [first]
    while todo:
        for fingerprint in todo.pop(0).inputs.values():
            if fingerprint in found:
                continue
            artifact = store.peek(fingerprint)
            if artifact is not None and artifact.kind == "evaluate":
                continue
            found[fingerprint] = artifact
            if artifact is not None:
                todo.append(artifact)
    return found


def uses(known: dict[str, Artifact | None], store: Store) -> tuple[list[Trained], list[str]]:
    """The data that these artifacts were trained on, each once for each tokenizer, and what is not known.

    ArtifactError names a tokenizer that is not the one a stage was trained with.
    """
    found: dict[tuple[str, str], Trained] = {}
    unknown = [
        f"what made {fingerprint[:12]} is no longer in the store"
        for fingerprint, one in known.items()
        if one is None
    ]
    for artifact in known.values():
        if artifact is None:
            continue
        if artifact.kind == "import":
            unknown.append(f"what {artifact.stage!r} had been trained on before it was imported")
        if artifact.kind not in TRAINING:
            continue
        fingerprint = artifact.record["identity"]["inputs"].get(READ)
        data = known.get(fingerprint)
        if data is None:
            unknown.append(f"the data of {artifact.stage!r} ({str(fingerprint)[:12]}) is gone from the store")
            continue
        vocabulary = str(artifact.record["files"].get(VOCABULARY))
        folder = store.whole(artifact)
        _unchanged(folder / VOCABULARY, vocabulary)
        use = Use(artifact.stage, artifact.kind, artifact.fingerprint, epochs(artifact))
        before = found.get((data.fingerprint, vocabulary))
        if before is None:
            found[data.fingerprint, vocabulary] = Trained(
                data.stage, store.whole(data), data.fingerprint, folder, (use,)
            )
        else:
            found[data.fingerprint, vocabulary] = Trained(**{**vars(before), "uses": (*before.uses, use)})
    return list(found.values()), list(dict.fromkeys(unknown))


def _unchanged(tokenizer: Path, made: str) -> None:
    if tokenizer.is_file() and files.sha256(tokenizer) != made:
        raise ArtifactError(
            "the tokenizer was changed since the stage was trained: its tokens are not those of the training data",
            where=str(tokenizer),
            fix="put the file back, or run the recipe again; `trivium store verify` names what else was changed",
        )


def epochs(artifact: Artifact) -> dict[int, float]:
    """How often a training stage showed each source of its data, by its place; that of all rows at -1, where it is known."""
    metrics: dict[str, Any] = artifact.metrics
    account, config = metrics.get("data") or {}, artifact.record["identity"]
    if sources := account.get("sources"):
        return {int(one["source"]): float(one["epochs"]) for one in sources}
    items, steps, batch = account.get("items"), metrics.get("steps"), config.get("batch")
    if not (items and steps and batch):
        return {}
    shown = steps * batch / items
    return {-1: min(shown, config["epochs"]) if config.get("epochs") else shown}

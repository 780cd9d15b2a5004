"""What another evaluation in the store has asked of the same model: a baseline need not be asked by each of its rivals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from trivium import files
from trivium.errors import ArtifactError
from trivium.pipeline.contract import Context
from trivium.pipeline.store import Store
from trivium.recipe.suite import SuiteBase

if TYPE_CHECKING:
    from trivium.evaluate.rows import Row


class _Asked(NamedTuple):
    same: str
    """All that decides about the rows, in words that need no names: the suite, its data's fingerprint, the model's."""
    model: str
    suite: str


def earlier(ctx: Context, store: Store) -> list[Row]:
    """Rows of the evaluations in the store that asked one of this one's models the same, with the names of this one.

    Looked at is what is here: a shared store would be asked for the record of everything in it.
    Not of suites whose rows hang on more than suite, data and model: files of the user, judges of the recipe, the baseline.
    """
    from trivium.evaluate.rows import read

    fixed = {suite.title for suite in ctx.config.suites if _hangs_on_nothing_else(suite)}
    wanted = {one.same: one for one in _asked(ctx.identity) if one.suite in fixed}
    found: dict[str, list[Row]] = {}
    for print_ in filter(store.here, store.fingerprints()):
        if len(found) == len(wanted):
            break
        try:
            artifact = store.peek(print_)
            if artifact is None or artifact.kind != ctx.config.kind:
                continue
            identity = artifact.record["identity"]
            if identity["version"] != ctx.identity["version"]:
                continue
            held = [one for one in _asked(identity) if one.same in wanted.keys() - found.keys()]
            whole = store.get(print_) if held else None
            rows = [] if whole is None else read(whole.path)
        except (OSError, ValueError, KeyError, TypeError, ArtifactError):
            continue  # damaged, or from another time: then it is asked again
        for same, model, suite in held:
            found[same] = [
                replace(row, model=wanted[same].model, suite=wanted[same].suite)
                for row in rows
                if (row.model, row.suite) == (model, suite)
            ]
    return [row for rows in found.values() for row in rows]


def _hangs_on_nothing_else(suite: SuiteBase) -> bool:
    from trivium.evaluate.suites import SUITES

    return not (suite.outside or suite.asks_baseline or SUITES[suite.kind].identity is not None)


def _asked(identity: dict[str, Any]) -> Iterator[_Asked]:
    """Every (suite, model) of an evaluation, by its identity (`pipeline.fingerprint`)."""
    inputs, names = identity["inputs"], identity["extra"]["names"]
    roles = ["model", "baseline", *(f"compare[{place}]" for place in range(len(names) - 2))]
    models = {name: inputs[role] for name, role in zip(names, roles, strict=True) if name is not None}
    for place, suite in enumerate(identity["suites"]):
        about = {**suite, "name": None, "data": inputs.get(f"suites[{place}].data")}
        for name, print_ in models.items():
            yield _Asked(files.canonical_json([about, print_]), name, suite["name"] or suite["kind"])

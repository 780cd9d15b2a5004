"""`trivium withdraw` on the command line. Nothing heavy is imported."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trivium.cli.options import STORE, StoreFolder
from trivium.errors import ArtifactError, DataError, RecipeError, TriviumError

if TYPE_CHECKING:
    from trivium.corpus.withdrawn import Rule
    from trivium.pipeline.contract import Artifact
    from trivium.pipeline.store import Store
    from trivium.pipeline.withdraw import Holding, Standing

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|MODEL",
        help="A recipe, for all that its store holds; or a model, for what it was made from.",
        show_default=False,
    ),
]
Source = Annotated[
    str | None, typer.Option(metavar="NAME", help="A source: its kind, its origin or its file.")
]
Document = Annotated[str | None, typer.Option(metavar="KEY", help="One document, by its key.")]
Licence = Annotated[str | None, typer.Option(metavar="NAME", help="All under a licence; `unknown` for none.")]
Url = Annotated[str | None, typer.Option(metavar="PREFIX", help="All whose URL begins so.")]
Apply = Annotated[bool, typer.Option("--apply", help="Write it beside the recipe: the next run obeys.")]
Yes = Annotated[bool, typer.Option("--yes", help="Write it also where it means nothing, or everything.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
SHOWN = 5


def withdraw(
    target: Target,
    source: Source = None,
    document: Document = None,
    licence: Licence = None,
    url: Url = None,
    apply: Apply = False,
    yes: Yes = False,
    as_json: AsJson = False,
    store: StoreFolder = STORE,
) -> None:
    """Say what stands on a source, a document, a licence or an address: data, checkpoints, the first step that read it.

    With --apply it is written beside the recipe, and the next run is made without it: only what hangs on it is made again.

    Examples:

      trivium withdraw mine.yaml --licence GPL-3.0

      trivium withdraw mine.yaml --url https://example.org/ --apply && trivium run mine.yaml

      trivium withdraw runs/mine/release --document 1f0c9a44b2d7e310
    """
    rule = _rule(source=source, document=document, licence=licence, url=url)
    from trivium.pipeline import withdraw as forward
    from trivium.pipeline.store import opened

    known = opened(store)
    recipe = Path(target) if target.endswith((".yaml", ".yml")) else None
    artifacts = _artifacts(target, recipe, known)
    data = {print_: one for print_, one in artifacts.items() if one.kind in ("data", "synthesize")}
    if not data:
        raise ArtifactError(
            "there is no data in it",
            where=f"{target}, store {store}",
            fix="run its data stages, or name its store",
        )
    print(f"looking through {len(data)} artifacts of data, and for what was made of it", file=sys.stderr)
    holdings = list(forward.search(rule, data))
    stopped, others = ({}, 0) if recipe is None else _unfinished(recipe, known)
    stood = forward.standing(holdings, {**artifacts, **stopped}, known)
    halves = [one for one in stood if one.artifact.fingerprint in stopped]
    stood = [one for one in stood if one.artifact.fingerprint not in stopped]
    report = _report(rule, holdings, stood, known) | {
        "unfinished": [
            {**_standing(one), "checkpoints": one.artifact.metrics["checkpoints"]} for one in halves
        ],
        "not_looked_into": others,
    }
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _show(report)
    if recipe is None and apply:
        raise RecipeError("a withdrawal is written beside a recipe", where=target, fix="give the recipe")
    _sure(rule, holdings, ask=apply and not yes, why=forward.known_values)
    if apply and recipe is not None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        path = forward.apply(rule, holdings, stood, known, recipe.resolve().parent, time)
        print(f"written: {path}; the next run is made without it", file=sys.stderr)


def _artifacts(target: str, recipe: Path | None, store: Store) -> dict[str, Artifact]:
    """All that the store holds, for a recipe; what a model was made from, for a model."""
    from trivium.pipeline import withdraw as forward
    from trivium.pipeline.trained import history

    if recipe is None:
        there = {print_: one for print_, one in history(target, store).items() if one is not None}
        return forward.brought(there, store)
    if not recipe.is_file():
        raise RecipeError(
            f"there is no recipe {recipe}", where=target, fix="give a file, or a model's folder"
        )
    return forward.everything(store)


def _unfinished(recipe: Path, store: Store) -> tuple[dict[str, Artifact], int]:
    from trivium.pipeline.stages import STAGES
    from trivium.pipeline.unfinished import checkpoints, unfinished
    from trivium.recipe.load import load as load_recipe

    try:
        return unfinished(load_recipe(recipe), STAGES, recipe.resolve().parent, store)
    except TriviumError:  # a source that is gone, say: which stages they are is not known then, only how many
        return {}, sum(bool(checkpoints(work)) for work in (store.root / "work").glob("*"))


def _rule(**given: str | None) -> Rule:
    from trivium.corpus.withdrawn import Rule

    named = [Rule(by, value) for by, value in given.items() if value]  # type: ignore[arg-type]
    if len(named) != 1:
        raise RecipeError(
            "one of --source, --document, --licence and --url says what is meant",
            fix="trivium withdraw RECIPE --licence GPL-3.0",
        )
    return named[0]


def _sure(rule: Rule, holdings: list[Holding], *, ask: bool, why: Any) -> None:
    """DataError where nothing is meant, or all there is, unless the user says that it is."""
    from trivium.recipe.lines import listed, nearest

    meant, total = sum(one.count for one in holdings), sum(one.total for one in holdings)
    if meant and (meant < total or not ask):
        return
    what = (
        f"{rule} means all {total:,} documents that there are"
        if meant
        else f"{rule} means none of {total:,} documents"
    )
    if ask and sys.stdin.isatty() and typer.confirm(f"{what}. Write it all the same?"):
        return
    values = [] if meant else why(rule, holdings)
    hint = "" if meant else f"{nearest(rule.value, values)}there is: {listed(values[:SHOWN])}; "
    if ask or not meant:
        raise DataError(what, where=f"--{rule.by}", fix=f"{hint}with --apply, --yes writes it all the same")


def _report(rule: Rule, holdings: list[Holding], stood: list[Standing], store: Store) -> dict[str, Any]:
    from trivium.pipeline.rollouts import serving

    return {
        "by": rule.by,
        "value": rule.value,
        "data": [
            {
                **_named(one.artifact),
                "train": len(one.train),
                "heldout": one.heldout,
                "of": one.total,
                "files": sorted(one.files),
                "keys": one.keys[:SHOWN],
            }
            for one in holdings
            if one.count
        ],
        "stands": [_standing(one) for one in stood],
        "rollouts": serving(store, {one.artifact.fingerprint for one in stood if one.stands}),
        "retrain": [_begins(one, store) for one in stood if one.reads and not one.upon],
        "again": [_named(one.artifact) for one in stood if one.upon],
    }


def _standing(one: Standing) -> dict[str, Any]:
    return {
        **_named(one.artifact),
        "data": one.data.stage if one.data else None,
        "tokens": one.tokens,
        "first": one.first,
        "steps": one.steps,
        "known": one.known,
        "upon": one.upon,
        "shards": list(one.shards),
    }


def _begins(one: Standing, store: Store) -> dict[str, Any]:
    """A stage that has to be made again, and the newest weights that have read none of it: `from`, their step in it, and whether
    that is known of all that they were trained on (`clean`)."""
    from trivium.pipeline.record import read
    from trivium.pipeline.trained import history

    init = one.artifact.record["identity"]["inputs"].get("init")
    before = one.since or (read(store.path(init)) if init is not None and store.has(init) else None)
    return {
        **_named(one.artifact),
        "from": _named(before) if before is not None else init and {"fingerprint": init},
        "clean": init is None
        or (
            before is not None
            and all(
                other is not None and other.kind != "import" for other in history(before.path, store).values()
            )
        ),
        "step": one.artifact.metrics["went_on"]["step"] if one.since is not None else 0,
        "steps": one.steps,
    }


def _named(artifact: Any) -> dict[str, Any]:
    about = {"stage": artifact.stage, "kind": artifact.kind, "recipe": artifact.record["recipe"]}
    return {**about, "fingerprint": artifact.fingerprint}


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console

    say = Console(highlight=False, markup=False, soft_wrap=True).print
    for one in report["data"]:
        files = f" in {len(one['files'])} files" if one["files"] else ""
        say(
            f"{one['recipe']}/{one['stage']} {one['fingerprint'][:12]}: {one['train']:,} to train on{files} and "
            f"{one['heldout']:,} held out, of {one['of']:,}; keys {', '.join(one['keys'])}"
        )
    for one in report["stands"]:
        say(f"  {one['recipe']}/{one['stage']} ({one['kind']}) {one['fingerprint'][:12]}: {_said(one)}")
    for one in report["rollouts"]:
        share = "" if one["share"] is None else f", {one['share']:.0%} of the units"
        say(f"  rollout {one['rollout']} ({one['log']}) of {one['fingerprint'][:12]}: {one['status']}{share}")
    for one in report["unfinished"]:
        steps = [step for step in one["checkpoints"] if one["upon"] or (one["first"] or step + 1) <= step]
        held = f"; so do its checkpoints of steps {', '.join(map(str, steps))}" if steps else ""
        say(f"  {one['recipe']}/{one['stage']} ({one['kind']}), not finished: {_said(one)}{held}")
    if report["not_looked_into"]:
        say(
            f"  work of {report['not_looked_into']} stopped stages that are not this recipe's: not looked into"
        )
    caches = sorted({place for one in report["stands"] for place in one["shards"]})
    if caches:
        say(
            f"  shards and indexes that hold it: {', '.join(caches)} (`trivium store gc --cache` deletes them)"
        )
    if report["retrain"]:
        say("smallest retraining:")
    elif report["data"]:
        say("no training stage in this store has read any of it")
    for one in report["retrain"]:
        say(f"  {one['recipe']}/{one['stage']} {_from(one)}")
    if report["again"]:
        names = [f"{one['recipe']}/{one['stage']}" for one in report["again"]]
        say(
            f"  then all that stands on {'it' if len(report['retrain']) == 1 else 'them'}: {', '.join(names)}"
        )


def _from(one: dict[str, Any]) -> str:
    if one["kind"] not in _trained():
        return "anew"
    steps = "" if one["steps"] is None else f", {one['steps'] - one['step']:,} steps"
    if one["from"] is None:
        return f"from new weights{steps}"
    name = f"{one['from']['stage']} " if "stage" in one["from"] else ""
    at = f" of step {one['step']:,}" if one["step"] else ""
    clean = "which has read none of it" if one["clean"] else "of which not all is known that it has read"
    return f"from {name}{one['from']['fingerprint'][:12]}{at}, {clean}{steps}"


def _trained() -> frozenset[str]:
    from trivium.recipe.models import TRAINING

    return frozenset(TRAINING)


def _said(one: dict[str, Any]) -> str:
    upon = f"stands on {one['upon']}" if one["upon"] else ""
    if one["data"] is None:
        return upon
    if one["tokens"] is None:
        said = (
            f"made by what it read in {one['data']}"
            if one["known"]
            else f"written after rows of {one['data']}"
        )
        return f"{said}; {upon}" if upon else said
    size = f"{one['tokens']:,} tokens of {one['data']}"
    if not one["known"]:
        said = f"{size}, read at steps that are not worked out for this kind"
    elif one["first"] is None:
        said = f"{size} were there to be read, and none of its {one['steps']:,} steps did"
    else:
        said = f"{size}, first read at step {one['first']:,} of {one['steps']:,}"
    return f"{said}; {upon}" if upon else said

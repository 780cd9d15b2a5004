"""`trivium explain`: what a kind or a field of a recipe means. Nothing heavy is imported but for a training kind's loss."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trivium.recipe.manual import FieldHelp, KindHelp


def names(incomplete: str) -> list[str]:
    """What a shell completes: kinds, and behind a dot the fields of one."""
    from trivium.recipe.manual import manual

    book = manual()
    kind, dot, _ = incomplete.partition(".")
    known = (
        {f"{kind}.{field}" for _, one in book.kinds.get(kind, ()) for field in one["properties"]}
        if dot
        else book.kinds
    )
    return sorted(name for name in known if name.startswith(incomplete))


What = Annotated[
    str | None,
    typer.Argument(
        metavar="[KIND | FIELD | KIND.FIELD]",
        help="What to explain; the kinds if not given.",
        show_default=False,
        autocompletion=names,
    ),
]
OfRecipe = Annotated[
    Path | None,
    typer.Argument(metavar="[RECIPE]", help="A recipe whose stages may be named, too.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def explain(what: What = None, recipe: OfRecipe = None, as_json: AsJson = False) -> None:
    """What a kind of a recipe is for, and what a field does: values, default, why, paper.

    Examples:

      trivium explain                      the kinds of stages, sources, suites and verifiers

      trivium explain dpo                  one kind on a screen

      trivium explain dpo.beta             one field

      trivium explain aligned.beta mine.yaml   of a stage of your recipe
    """
    from trivium.recipe.manual import KindHelp, look_up, manual

    if what is None:
        _kinds(manual().all(), as_json)
        return
    stages = {}
    if recipe is not None:
        from trivium.recipe.load import load

        stages = {name: stage.kind for name, stage in load(recipe, ()).stages.items()}
    found: Sequence[KindHelp | FieldHelp] = look_up(what, stages)
    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in found], indent=2))
        return
    console = Console(highlight=False)
    for nth, entry in enumerate(found):
        if nth:
            console.print()
        _kind(console, entry) if isinstance(entry, KindHelp) else _field(console, entry)


def _kinds(kinds: Any, as_json: bool) -> None:
    rows = [(what, kind, _first(definition.get("description", ""))) for kind, what, definition in kinds]
    if as_json:
        print(
            json.dumps([{"kind": kind, "what": what, "about": about} for what, kind, about in rows], indent=2)
        )
        return
    console = Console(highlight=False)
    for group in dict.fromkeys(what for what, _, _ in rows):
        table = Table(box=None, show_header=False, pad_edge=False)
        for what, kind, about in rows:
            if what == group:
                table.add_row(Text(kind, style="bold"), Text(" ".join(about.split())))
        console.print(Text(group.capitalize(), style="bold underline"))
        console.print(Padding(table, (0, 0, 1, 2)))


def _kind(console: Console, entry: KindHelp) -> None:
    console.print(Text.assemble((entry.kind, "bold"), f"  ({entry.what})"))
    console.print(Padding(Text(" ".join(entry.about.split())), (0, 0, 0, 2)))
    for title, text in _training(entry):
        console.print(Padding(f"[bold]{title}:[/] {escape(text)}", (1 if title == "When" else 0, 0, 0, 2)))
    for paragraph in _loss(entry).split("\n\n"):
        laid_out = re.search(r"^ |\S  +\S", paragraph, re.MULTILINE)  # equations in columns stay as they are
        if paragraph and laid_out:
            console.print()
            console.print(Text(textwrap.indent(paragraph, "  ")), soft_wrap=True)
        elif paragraph:
            console.print(Padding(Text(" ".join(paragraph.split())), (1, 0, 0, 2)))
    if entry.own:
        console.print(Padding(Text("Fields", style="bold"), (1, 0, 0, 2)))
        table = Table(box=None, show_header=False, pad_edge=False)
        for field in entry.own:
            name = field.path.rpartition(".")[2]
            default = "must be given" if field.required else _shown(field.default)
            table.add_row(name, default, " ".join(field.about.split()))
        console.print(Padding(table, (0, 0, 0, 4)))
    if entry.shared:
        shared = f"Beside those that its like have, too: {', '.join(entry.shared)}."
        console.print(Padding(Text(shared), (1, 0, 0, 2)))
    if entry.own or entry.shared:
        console.print(Padding(Text(f"trivium explain {entry.kind}.FIELD says more of one."), (1, 0, 0, 2)))


def _training(entry: KindHelp) -> list[tuple[str, str]]:
    """What is known of a training kind without computing."""
    from trivium.recipe.models import TRAINING

    if entry.what != "stage" or entry.kind not in TRAINING:
        return []
    stage = TRAINING[entry.kind]
    needs = ["a checkpoint (`init`)"] if stage.needs_init else []
    if stage.formats:
        needs.append(f"data of format {' or '.join(stage.formats)}")
    if stage.frozen_reference:
        needs.append("the frozen start beside the model, whose log-probabilities are computed once")
    cost = f"{stage.forwards / 3:.2g} times the work of fine-tuning on as many tokens"
    said = [("When", stage.when), ("Needs", ", ".join(needs)), ("Costs", cost)]
    return [(title, text) for title, text in said if text]


def _loss(entry: KindHelp) -> str:
    """The equation and the paper, as the objective's own file gives them."""
    from trivium.recipe.models import TRAINING

    if entry.what != "stage" or entry.kind not in TRAINING:
        return ""
    import inspect
    import sys

    from trivium.phases import PHASES

    stage = TRAINING[entry.kind]
    objective = type(PHASES[entry.kind].objective(stage.model_construct(kind=entry.kind)))
    module = sys.modules[objective.__module__]
    losses = [function for name, function in vars(module).items() if name == f"{entry.kind}_loss"]
    return "\n\n".join(filter(None, map(inspect.getdoc, [*losses, objective])))


def _field(console: Console, field: FieldHelp) -> None:
    console.print(Text(field.path, style="bold"))
    said = [("takes", field.takes), ("default", "must be given" if field.required else _shown(field.default))]
    if field.read_only_where:
        said.append(("read only where", field.read_only_where))
    said.append(
        (
            "a change",
            "makes the stage anew" if field.remakes else "changes how it is computed, and makes nothing anew",
        )
    )
    if field.fields:
        said.append(("fields", ", ".join(field.fields)))
    if field.about:
        console.print(Padding(Text(" ".join(field.about.split())), (0, 0, 0, 2)))
    for title, text in said:
        console.print(Padding(f"[bold]{title}:[/] {escape(text)}", (0, 0, 0, 2)))


def _first(about: str) -> str:
    """The first sentence; the authors of a paper end none."""
    return re.split(r"(?<!et al)\. ", " ".join(about.split()))[0].rstrip(".") + "."


def _shown(default: Any) -> str:
    """As a recipe would write it; a mapping of more than a few fields is looked up on its own."""
    if isinstance(default, dict):
        given = {key: value for key, value in default.items() if value is not None}
        return (
            "{" + ", ".join(f"{key}: {_shown(value)}" for key, value in given.items()) + "}"
            if len(given) < 5
            else "{…}"
        )
    if isinstance(default, list):
        return "[" + ", ".join(map(_shown, default)) + "]"
    if default is None or isinstance(default, bool):
        return {None: "none", True: "true", False: "false"}[default]
    return f"{default:g}" if isinstance(default, float) else str(default)

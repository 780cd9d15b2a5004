"""`trivium evaluate`: beside the stages of a recipe, what is made from the tables of rows that they left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trivium.cli.options import OrRecipe

if TYPE_CHECKING:
    from trivium.evaluate.compare import Change, Comparison


app = typer.Typer(cls=OrRecipe, no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def options() -> None:
    """Run the evaluate stages of a recipe, and compare what they found.

    `trivium evaluate RECIPE [STAGE]...` is short for `trivium evaluate run RECIPE [STAGE]...`.
    """


Artifact = Annotated[Path, typer.Argument(help="An evaluate stage's folder or link.", show_default=False)]


@app.command()
def compare(
    a: Artifact,
    b: Artifact,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    most: Annotated[
        int, typer.Option("--changes", min=0, help="Print so many of the items that changed.")
    ] = 20,
) -> None:
    """What changed between the models that two evaluations tested, item by item, both ways.

    Items are paired; intervals are by cluster, p-values McNemar's exact ones where items are independent.

    Example:

      trivium evaluate compare runs/quickstart/safety runs/quickstart/int8_safety
    """
    from trivium.evaluate.compare import compare_evaluations, tested

    comparison = compare_evaluations(tested(a), tested(b))
    if as_json:
        print(json.dumps(comparison.as_dict(), ensure_ascii=False, allow_nan=False))
        return
    console = Console(highlight=False)
    console.print(_table(comparison))
    if comparison.one_sided or comparison.reworded:
        console.print(
            f"not compared: {comparison.one_sided} rows of items that only one of the two was asked, "
            f"{comparison.reworded} of items asked in other words"
        )
    for one in comparison.other_judges:
        console.print(
            f"not compared: {one.suite} {one.axis}, which {one.before} judged before and {one.after} after",
            markup=False,
        )
    for change in comparison.changes[:most]:
        console.print(_shown(change))
    if (rest := len(comparison.changes) - most) > 0:
        console.print(f"{rest} more changes: --changes {len(comparison.changes)}, or all with --json")


judges = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(judges, name="judge", help="Judges that are trained on replies which people have labelled.")


@judges.callback()
def judge_options() -> None:
    """Judges that are trained on replies which people have labelled."""


@judges.command()
def train(
    rows: Annotated[
        Path,
        typer.Argument(
            help="Labelled replies: JSON lines, or a CSV, with request, reply, label; for toxic with text, label and, where "
            "it is known, group.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the judge is written.")] = Path(
        "judge.json"
    ),
    axis: Annotated[
        str, typer.Option(help="What the label says: refused, content, coherent or toxic.")
    ] = "refused",
) -> None:
    """Train a judge, and say how it agrees with labels of requests that it was not fitted on.

    A suite takes it with `judges: [{kind: classifier, axis: refused, path: judge.json}]`, the suite
    `toxicity` with `head: judge.json`.

    Example:

      trivium evaluate judge train labels.csv -o judge.json
    """
    from typing import get_args

    from trivium.errors import DataError
    from trivium.evaluate.judges import classifier, toxic
    from trivium.recipe.judges import Axis

    if axis not in (axes := (*get_args(Axis), toxic.AXIS)):
        raise DataError(f"no axis {axis!r}", fix=f"take one of {', '.join(axes)}")
    head: classifier.Head | toxic.TextHead
    if axis == toxic.AXIS:
        head = toxic.train(toxic.read_texts(rows))
        toxic.save(out, head)
        print(head.about)
    else:
        head = classifier.train(classifier.read_labels(rows), axis)
        classifier.save(out, head)
    labels = head.labels
    print(
        f"{out}: {head.rows} labels; on what was left out of each fit: "
        f"sensitivity {labels.sensitivity:.3f} ({labels.found} of {labels.positives}), "
        f"specificity {labels.specificity:.3f} ({labels.spared} of {labels.negatives})"
    )


def _table(comparison: Comparison) -> Table:
    table = Table(
        title="what changed, on the same items (?: undecided on one side)", title_justify="left", box=None
    )
    widths = {"judge": 18, "difference": 10}  # these two wrap at 80 columns, into pieces that can be read
    for name in ("judge", comparison.before, comparison.after, "difference", "p", "up/down/?"):
        table.add_column(name, no_wrap=name not in widths, min_width=widths.get(name))
    group = ""
    for shift in comparison.shifts:
        ends = "" if shift.low is None or shift.high is None else f" [{shift.low:+.3g}, {shift.high:+.3g}]"
        if (title := f"{shift.suite} {shift.category}".strip()) != group:
            group = title
            table.add_row(Text(title, "bold"))
        cells = [
            f"  {shift.judge}",
            _number(shift.before),
            _number(shift.after),
            "?" if shift.difference is None else f"{shift.difference:+.3g}{ends}",
            _number(shift.p),
            f"{shift.gained}/{shift.lost}/{shift.undecided}",
        ]
        table.add_row(*map(Text, cells))
    return table


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _shown(change: Change) -> Text:
    """An item on four lines. What a model wrote cannot move the cursor."""
    head = f"{change.suite} {change.category} {change.judge}: {change.before} -> {change.after}\n"
    texts = (("asked ", change.prompt), ("before", change.reply_before), ("after ", change.reply_after))
    lines = [f"  {name}  {_line(text)}" for name, text in texts if text is not None]
    return Text.assemble((head, "bold"), "\n".join(lines))


def _line(text: str, most: int = 160) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= most else plain[: most - 1] + "…"

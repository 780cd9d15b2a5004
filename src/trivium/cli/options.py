"""Arguments and options that several commands have, and a group of commands whose first word may be a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trivium.errors import RecipeError, TriviumError

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (YAML).", show_default=False)]
Stages = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STAGE]...", help="Names of stages; none means all of this step.", show_default=False
    ),
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--override",
        metavar="STAGE.FIELD=VALUE",
        help="Replace one value, such as -o aligned.beta=0.2. Repeat for more.",
    ),
]
StoreFolder = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="Where artifacts are kept, by what they are made from: a folder, or a URL such as s3://BUCKET/PREFIX, with a cache "
        "in .trivium (TRIVIUM_CACHE names another folder).",
        envvar="TRIVIUM_STORE",
    ),
]
RunsFolder = Annotated[
    Path,
    typer.Option(
        "--runs", metavar="DIR", help="Where readable links to them are made.", envvar="TRIVIUM_RUNS"
    ),
]
Withdrawn = Annotated[
    str, typer.Option(help="refuse or allow: models that stand on data that was withdrawn.")
]
SIGNED_BY = "TRIVIUM_SIGNED_BY"
SignedBy = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Public keys, a line each: only what one of them has signed is taken (`trivium sign`).",
        envvar=SIGNED_BY,
    ),
]
STORE, RUNS = ".trivium", Path("runs")


def names_of_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """What a shell completes where a run is named; folders are completed by the shell itself."""
    from trivium.report.runs import runs

    return [run.name for run in runs(ctx.params.get("runs") or RUNS) if run.name.startswith(incomplete)]


def check_withdrawn(model: Path, withdrawn: str) -> None:
    """ArtifactError where `model` stands on data that was withdrawn, unless `withdrawn` is "allow"; RecipeError for others."""
    if withdrawn not in ("refuse", "allow"):
        raise RecipeError(f"--withdrawn cannot be {withdrawn!r}", fix="--withdrawn refuse or allow")
    if withdrawn == "refuse":
        from trivium.pipeline.withdraw import refuse_withdrawn

        refuse_withdrawn(model)


def signatures() -> Any:
    """The module `trivium.pipeline.signatures`. TriviumError where what it needs is not installed."""
    try:
        from trivium.pipeline import signatures
    except ModuleNotFoundError as error:
        raise TriviumError(f"signatures need {error.name}", fix="pip install 'trivium[sign]'") from None
    return signatures


def check_signed(artifact: Path, signed_by: Path | None) -> str:
    """Who signed it; "" where nobody asks. ArtifactError where none of the keys in `signed_by` did."""
    if signed_by is None:
        return ""
    signer = signatures().require(artifact, signed_by)
    return f"{signer.name} ({signer.fingerprint})"


class OrRecipe(TyperGroup):
    """A group whose first word may also be a recipe: `trivium data RECIPE` runs `trivium data run RECIPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)

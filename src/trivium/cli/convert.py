"""`trivium convert`: a configuration of another project as a recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivium import files
from trivium.cli.output import AsJson, table
from trivium.errors import RecipeError

if TYPE_CHECKING:
    from trivium.convert.draft import Told


def convert(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Its YAML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The recipe to write; else it is printed.")
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="PROJECT",
            help="axolotl, trl, llamafactory, torchtune; else told by its fields.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a configuration of Axolotl, TRL, LLaMA-Factory or torchtune into a recipe, and say of each field what became of it.

    Example:

      trivium convert qlora.yml --out mine.yaml
    """
    from trivium.convert.build import convert as converted
    from trivium.convert.dialects import DIALECTS

    if dialect is not None and dialect not in DIALECTS:
        raise RecipeError(
            f"`{dialect}` is no project that is known here",
            where="--from",
            fix=f"known: {', '.join(DIALECTS)}",
        )
    try:
        text = config.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{config} cannot be read: {error}", where=str(config), fix="give a YAML file in UTF-8"
        ) from None
    made = converted(text, str(config), dialect)
    if as_json:
        told = [t._asdict() for t in made.told]
        print(json.dumps(dataclasses.asdict(made) | {"told": told}, default=str))
    elif out is None:
        print(made.text(str(config.name)), end="")
    if out is not None:
        files.write_text(out, made.text(config.name))
        if not as_json:
            _table(made.told)
            if made.problem:
                print(f"before it can run:\n{made.problem}")
            print(f"wrote {out}; next: trivium plan {out}")


def _table(told: Sequence[Told]) -> None:
    from trivium.convert.dialects import EMPTY

    shown = [t for t in told if t.why != EMPTY]
    table(
        ("field", "value", "in the recipe", "or why not"),
        [(t.field, str(t.value)[:40], t.to, t.why or ("" if t.to else "not known here")) for t in shown],
    )
    carried, unknown = sum(bool(t.to) for t in told), sum(not t.to and not t.why for t in told)
    print(
        f"{len(told)} fields: {carried} carried, {len(told) - carried - unknown} left with a reason, "
        f"{unknown} not known here",
    )

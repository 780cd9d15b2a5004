"""What `mkdocs build` adds to the pages of docs/: the README and its siblings; the reference, from models and docstrings.

mkdocs calls `on_files` (see `hooks` in mkdocs.yml).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import trivium
from trivium import objectives
from trivium.cli import app
from trivium.recipe.manual import FieldHelp, KindHelp, manual

ROOT = Path(__file__).resolve().parent.parent
BESIDE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page -> the file at the root of the repository that it is."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, content in pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def pages() -> dict[str, str]:
    """Page -> its Markdown, for all that is not a file of docs/."""
    made = {page: rooted((ROOT / file).read_text(encoding="utf-8")) for page, file in BESIDE.items()}
    made["reference/recipe.md"] = "\n".join(recipe())
    made["reference/commands.md"] = "\n".join(commands())
    made["reference/python.md"] = "\n".join(python())
    return made


def rooted(text: str) -> str:
    """Links of a page at the root, as they stand on the site: pages of docs/ and its siblings; other files are only named."""
    siblings = {file: page for page, file in BESIDE.items()}

    def link(found: re.Match[str]) -> str:
        label, target = found[1], found[2]
        if target.startswith(("http", "#")):
            return found[0]
        if target.startswith("docs/") and target.split("#")[0].endswith((".md", ".svg", ".png")):
            return f"[{label}]({target.removeprefix('docs/')})"
        return f"[{label}]({siblings[target]})" if target in siblings else f"`{target}`"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def recipe() -> Iterator[str]:
    """Each kind with its fields, by what it is."""
    book = manual()
    yield "# Kinds and fields\n\nAs `trivium explain KIND` says it."
    yield "A field in *italics* only says how to compute: another value makes nothing anew.\n"
    by_sort: dict[str, list[str]] = {}
    for kind, what, _ in book.all():
        by_sort.setdefault(what, []).append(kind)
    shared: dict[str, list[str]] = {}
    for what, kinds in by_sort.items():
        yield f"\n## {what[0].upper()}{what[1:]}: {len(kinds)} kinds\n"
        for kind in kinds:
            for help_ in book.kind(kind):
                if help_.what == what:
                    yield from _kind(help_)
                    shared.setdefault(what, [*help_.shared])
    yield "\n## Fields that training stages share\n"
    fields = [help_ for name in book.kind("sft")[0].shared for help_ in book.field(["sft", name])]
    yield from _fields(fields)


def _kind(help_: KindHelp) -> Iterator[str]:
    yield f"\n### `{help_.kind}` {{ #{help_.what.split()[0]}-{help_.kind} }}\n\n{escaped(help_.about)}\n"
    yield from _fields(help_.own)


def _fields(fields: Any) -> Iterator[str]:
    rows = [_row(field) for field in fields]
    if rows:
        yield "\n| field | takes | default | |\n|---|---|---|---|"
        yield from rows


def _row(field: FieldHelp) -> str:
    name = field.path.split(".", 1)[1]
    default = (
        "**needed**"
        if field.required
        else f"`{field.default}`"
        if field.default not in (None, [], {})
        else "–"
    )
    about = field.about + (f" Read where {field.read_only_where}." if field.read_only_where else "")
    about += f" Within: {', '.join(field.fields)}." if field.fields else ""
    cells = (
        f"`{name}`" if field.remakes else f"*`{name}`*",
        escaped(field.takes),
        default.replace("|", "\\|"),
        escaped(about),
    )
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def commands() -> Iterator[str]:
    """The help of every command."""
    yield "# Commands\n"
    root = typer.main.get_command(app)
    yield from _command("trivium", root)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"\n## `{name}`\n"
    if command.help:
        text = re.sub(r"\[/?[a-z]*\]", "", inspect.cleandoc(command.help))
        prose, _, examples = text.partition("Example")
        yield escaped(prose)
        if examples:
            yield f"```text\n{examples.partition(':')[2].strip()}\n```\n".replace("\n\n", "\n")
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        said = ", ".join(f"`{option}`" for option in parameter.opts) if parameter.opts else parameter.name
        label = (
            said
            if parameter.param_type_name == "option"
            else f"`{parameter.metavar or parameter.name.upper()}`"
        )
        rows.append(
            f"| {label.replace('|', chr(92) + '|')} | {escaped(getattr(parameter, 'help', '') or '')} |"
        )
    if rows:
        yield "\n| argument | |\n|---|---|"
        yield from rows
    for child, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _command(f"{name} {child}", inner)


def python() -> Iterator[str]:
    """The functions of `trivium` and the losses of `trivium.objectives`."""
    yield "# Python\n"
    for module in (trivium, objectives):
        yield f"\n## `{module.__name__}`\n\n{escaped(inspect.cleandoc(module.__doc__ or ''))}\n"
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield f"\n### `{name}`\n"
                if inspect.isfunction(thing):
                    yield f"```python\n{name}{inspect.signature(thing)}\n```\n"
                yield f"```text\n{inspect.cleandoc(thing.__doc__ or '')}\n```\n"


def escaped(text: str) -> str:
    """Text as Markdown shows it: what looks like a tag, a table's bar or a mark stands for itself."""
    text = re.sub(r"(?<!`)([<>{}\[\]*_|])(?!`)", r"\\\1", text)
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"\\(.)", r"\1", code[0]).replace("|", "\\|"), text)

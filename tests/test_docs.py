"""The documentation is executed: its recipes load, its imports work, its commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from trivium.cli import app
from trivium.errors import RecipeError
from trivium.recipe.load import load, loads

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def test_recipes_in_the_documentation_load():
    recipes = blocks("yaml")
    assert recipes
    for text in recipes:
        loads(text)


def test_the_mistake_shown_in_the_readme_gives_the_message_shown():
    command, shown = re.search(
        r"\$ trivium plan pocket\.yaml -o (\S+)\n(error: .*?)```", README, re.DOTALL
    ).groups()
    with pytest.raises(RecipeError) as error:
        loads(blocks("yaml")[0], [command], file="pocket.yaml")
    assert f"error: {error.value}\n" == shown


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_in_the_repository_load(path):
    load(path)


def test_imports_in_the_documentation_work():
    lines = [
        line for block in blocks("python") for line in block.splitlines() if re.match(r"(from|import) ", line)
    ]
    assert lines
    for line in lines:
        exec(line, {})


def test_commands_in_the_documentation_exist():
    known = set(get_command(app).commands)
    used = {name for page in PAGES for name in re.findall(r"`trivium ([a-z]+)", page)}
    assert used and used <= known


def test_links_in_the_documentation_lead_somewhere():
    for page in PAGES[:1]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (ROOT / target).exists(), target


def test_every_test_that_the_page_of_faults_names_is_there():
    page = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-D]\d*) \| .+? \| (.+) \|$", page, re.MULTILINE)
    assert [row for row, _ in rows] == [
        *(
            f"{part}{number + 1}"
            for part, count in (("A", 21), ("B", 8), ("C", 14))
            for number in range(count)
        ),
        "D",
    ]
    for row, cell in rows:
        for held in cell.split("; "):
            file, *names = re.findall(r"`([^`]+)`", held)
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not file.startswith("tests/") or "def test_" in text, (row, file)
            for name in names:
                assert re.search(rf"def test_\w*{name}", text), (row, file, name)

"""The documentation is executed: its recipes load, its imports work, its commands exist."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from trivium.cli import app
from trivium.errors import RecipeError
from trivium.recipe.load import load, loads
from trivium.recipe.manual import manual
from trivium.rollout.plan import plan_of

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def test_recipes_and_plans_in_the_documentation_load():
    """The stages of a recipe have names, those of a rollout's plan an order."""
    recipes = blocks("yaml")
    assert recipes
    for text in recipes:
        if isinstance(yaml.safe_load(text).get("stages"), list):
            plan_of(yaml.safe_load(text))
        else:
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


@pytest.mark.parametrize("page", ["explanation.md", "howto.md"])
def test_code_in_the_guides_runs(page):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL):
        exec(block, names)
    assert names


def test_commands_in_the_documentation_exist():
    known = set(get_command(app).commands)
    used = {name for page in PAGES for name in re.findall(r"`trivium ([a-z]+)", page)}
    assert used and used <= known


def written_commands() -> list[str]:
    """The command lines that stand in code blocks: `$ trivium ...` or `trivium ...`, without what follows in prose."""
    lines = [
        re.sub(r"^(\$ )?([A-Z_]+=\S+ )?", "", line.strip())
        for page in PAGES
        for _, block in re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return sorted(
        {re.split(r"\s{3,}|\s+#|\s+[|>&]", line)[0] for line in lines if line.startswith("trivium ")}
    )


@pytest.mark.parametrize("line", written_commands())
def test_command_lines_in_the_documentation_are_understood(line):
    command, words = get_command(app), shlex.split(line)[1:]
    context = command.make_context("trivium", list(words))
    while hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        name, command, left = command.resolve_command(context, rest)
        context = command.make_context(name, left, parent=context)
    assert not hasattr(command, "resolve_command"), "a group of commands, and none of them"


def test_a_command_line_that_is_wrong_is_not_understood():
    for line in ("trivium nonsense", "trivium store nonsense", "trivium plan mine.yaml --nonsense"):
        with pytest.raises(Exception, match=r"(?i)no such"):
            test_command_lines_in_the_documentation_are_understood(line)


def test_links_in_the_documentation_lead_somewhere():
    for page in PAGES[:1]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page):
            assert (ROOT / target).exists(), target


def test_pictures_are_small_and_shown():
    """They are made by docs/screenshots.py; what no page shows any more goes."""
    shown = {
        name for page in PAGES for name in re.findall(r"!\[[^\]]+\]\((?:docs/)?pictures/([^)]+)\)", page)
    }
    there = {picture.name: picture.stat().st_size for picture in (ROOT / "docs" / "pictures").iterdir()}
    assert shown == set(there)
    assert all(size < 150_000 for size in there.values())


def held(page: str) -> list[str]:
    """The rows of a page of claims, after each test that they name has been found."""
    rows = re.findall(
        r"^\| ([A-Z]\d*) \| .+? \| (.+) \|$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE
    )
    for row, cell in rows:
        for claim in cell.split("; "):
            file, *names = re.findall(r"`([^`]+)`", claim)
            text = (ROOT / file).read_text(encoding="utf-8")
            assert not file.startswith("tests/") or "def test_" in text, (row, file)
            for name in names:
                assert re.search(rf"def test_\w*{name}", text), (row, file, name)
    return [row for row, _ in rows]


def numbered(*parts: tuple[str, int]) -> list[str]:
    return [f"{part}{number + 1}" for part, count in parts for number in range(count)]


def test_every_test_that_the_page_of_faults_names_is_there():
    assert held("faults.md") == [*numbered(("A", 21), ("B", 8), ("C", 14)), "D"]


def test_every_claim_of_the_page_of_security_has_its_tests():
    assert held("security.md") == numbered(("R", 11), ("S", 9), ("M", 6))


def site():
    """docs/site.py, which makes the pages that are no files of docs/."""
    spec = importlib.util.spec_from_file_location("site_of_docs", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_stands_in_the_menu_and_the_reference_holds_every_kind_and_command():
    pytest.importorskip("mkdocs")
    made = site().pages()
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": (\S+\.md)$", text, re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} | set(made)
    assert yaml.safe_load(text)["strict"] is True
    for kind, what, _ in manual().all():
        assert f"### `{kind}` {{ #{what.split()[0]}-{kind} }}" in made["reference/recipe.md"]
    for name in get_command(app).commands:
        assert f"\n## `trivium {name}`" in made["reference/commands.md"]


def built(folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],  # with --quiet it would count no warnings
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.mark.slow
def test_the_site_builds_and_asks_nobody_and_a_link_that_leads_nowhere_stops_it(tmp_path):
    pytest.importorskip("mkdocs")
    for name in ("docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    done = built(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "build" / "site"
    assert 'id="stage-dpo"' in (site / "reference" / "recipe.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        asked = re.findall(
            r"<(?:script|link|img)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text("utf-8")
        )
        assert not [tag for tag in asked if "rel=canonical" not in tag], page
    if CHROMIUM is not None:
        searched(site / "index.html")
    with (tmp_path / "docs" / "tutorial.md").open("a") as tutorial:
        tutorial.write("\n[nowhere](nowhere.md) and [no such place](data.md#nowhere)\n")
    broken = built(tmp_path)
    assert broken.returncode != 0 and "nowhere.md" in broken.stdout + broken.stderr


def searched(page: Path) -> None:
    """Opens a page from the disk, searches in it, and holds that nothing but files was asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        opened.click(".md-search__input")
        opened.keyboard.type("odds ratio")  # the page listens to keys, which `fill` does not press
        opened.wait_for_selector(".md-search-result__item", timeout=120_000)
        assert asked and all(url.startswith(("file:", "data:")) for url in asked), asked
        browser.close()

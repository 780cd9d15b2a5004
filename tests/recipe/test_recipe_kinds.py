"""Kinds of other packages: found through entry points, refused by name, and part of what an artifact is known by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trivium.errors import RecipeError
from trivium.recipe import kinds
from trivium.recipe.base import Strict

GROUP = "trivium.steps"
MODEL = """
from typing import Literal
from trivium.recipe.base import Strict
class Model(Strict):
    kind: Literal["{kind}"]
    {method}
"""
METHOD = "implementation = classmethod(lambda cls: len)"


@pytest.fixture
def install(tmp_path, monkeypatch) -> Iterator[Callable[..., Path]]:
    """A package as pip would have installed it: `install("shout")` gives its module's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    kinds.plugins.cache_clear()

    def make(name: str, kind: str = "shout", source: str | None = None, module: str | None = None) -> Path:
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text(source or MODEL.format(kind=kind, method=METHOD))
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{module or kind} = {name}:Model\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}-1.2.dist-info/METADATA,,\n")
        kinds.plugins.cache_clear()
        return package / "__init__.py"

    yield make
    monkeypatch.undo()
    kinds.plugins.cache_clear()


def test_a_kind_is_found_with_its_package(install):
    path = install("one_step")
    plugin = kinds.plugins(GROUP)["shout"]
    assert kinds.kind_of(plugin.model) == "shout"
    before = plugin.provenance()
    assert (before["distribution"], before["version"], len(before["sha256"])) == ("one_step", "1.2", 64)
    config = plugin.model.model_validate({"kind": "shout"})
    assert kinds.provenance(config) == {"trivium.steps: shout": before}
    path.write_text(path.read_text() + "# another byte\n")
    assert kinds.provenance({"steps": [config]})["trivium.steps: shout"]["sha256"] != before["sha256"]
    (path.parent / "more.py").write_text("")  # not in the record: the package is installed in place
    assert len({before["sha256"], plugin.provenance()["sha256"]}) == 2


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import not_there_at_all", "cannot be loaded: ModuleNotFoundError"),
        ("Model = 3", "offers no model"),
        (MODEL.format(kind="shout", method=""), "offers no model"),
        (MODEL.format(kind="whisper", method=METHOD), "its model calls it `whisper`"),
    ],
)
def test_a_package_that_does_not_fit_is_named(install, source, said):
    name = f"misfit_{abs(hash(source))}"
    install(name, source=source)
    with pytest.raises(RecipeError, match=said) as caught:
        kinds.plugins(GROUP)
    assert f"`{name}`" in caught.value.what
    assert "uninstall" in caught.value.fix


def test_two_packages_may_not_bring_the_same_kind(install):
    install("first_of_two")
    install("second_of_two")
    with pytest.raises(RecipeError, match="two packages bring the kind `shout`"):
        kinds.plugins(GROUP)


def test_a_kind_of_our_own_is_not_replaced_and_bases_are_asked_for(install):
    install("another_step")
    with pytest.raises(RecipeError, match="Trivium's own"):
        kinds.added(GROUP, Strict, ["shout"])

    class Base(Strict):
        pass

    with pytest.raises(RecipeError, match="no Base"):
        kinds.added(GROUP, Base)
    assert list(kinds.added(GROUP, Strict, ["whisper"])) == ["shout"]

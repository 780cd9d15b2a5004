"""docs/compatibility.md says what the runs give, of every family that there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from trivium.generate.engine import SamplingParams, generate
from trivium.generate.slots import written
from trivium.model import hf
from trivium.model.families import FAMILIES

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
sys.path.append(str(DOCS))
import compatibility  # noqa: E402
import families  # noqa: E402

LINES = re.findall(
    r"^\| `.*$", compatibility.families_of((DOCS / "compatibility.md").read_text("utf-8")), re.MULTILINE
)


def test_the_page_has_a_row_for_each_family():
    assert [line.split("`")[1] for line in LINES] == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_what_its_run_gives(tmp_path, family):
    cells = compatibility.row(family, tmp_path)
    assert "| " + " | ".join(cells) + " |" in LINES
    assert "NO" not in " ".join(cells)


@pytest.mark.parametrize("build", compatibility.BUILDS)
def test_a_row_of_tokenizers_is_what_its_run_gives(tmp_path, build):
    cells = compatibility.tokenizer_row(build, tmp_path)
    assert compatibility.lines([cells]) in (DOCS / "compatibility.md").read_text(encoding="utf-8")
    assert set(cells[2:]) == {"yes"}


def test_weights_and_adapters_have_rows_for_all_that_the_tests_read():
    """Their cells are runs of those tests, which run by themselves too."""
    page = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    for weights, kind, _ in compatibility.SCHEMES:
        assert compatibility.lines([[weights, kind, "yes"]]) in page
    for case in compatibility.test_peft_import.CASES:
        assert compatibility.lines([[case, "yes"]]) in page


def test_rows_of_data_are_what_their_runs_give():
    page = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    files, shapes = compatibility.data_rows()
    for rows in (files, shapes):
        assert compatibility.lines(rows) in page
        assert all(cells[-1] == "yes" for cells in rows)


@pytest.mark.parametrize("name", ["gemma 3", "gpt-oss", "deepseek 3", "gpt 2", "ministral 3"])
def test_prompts_of_other_lengths_beside_each_other_get_the_same_replies(tmp_path, name):
    families.checkpoint(name, tmp_path)
    model, tokens = hf.load(tmp_path).eval(), families.tokens()
    prompts = [tokens[0, :11].tolist(), tokens[1, :4].tolist()]
    sampling = SamplingParams(max_new_tokens=10)
    alone = [list(written(model, prompt, sampling, stop=())) for prompt in prompts]
    assert alone == generate(model, prompts, sampling, stop=())

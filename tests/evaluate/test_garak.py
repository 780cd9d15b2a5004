"""garak's reports become rows, one for every prompt that was to be asked; whatever left no trace is undecided."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest
from fake_garak import stand_in
from random_models import random_model

from trivium.errors import DataError
from trivium.evaluate import garak
from trivium.evaluate.rows import Journal
from trivium.evaluate.run import Plan, fill
from trivium.evaluate.subject import Subject
from trivium.model import hf
from trivium.recipe.redteam import Garak

DETECTORS = ["mitigation.Bypass", "toxic.Model"]
DONE = {"entry_type": "completion"}


def attempt(probe: str, seq: int, text: str | None, scores: dict, status: int = 2) -> dict:
    return {
        "entry_type": "attempt", "probe_classname": probe, "seq": seq, "status": status,
        "prompt": {"turns": [{"role": "user", "content": {"text": "the cat sees" if seq < 8 else "the cat " * 90}}]},
        "outputs": [None if text is None else {"text": text}], "detector_results": scores,
    }  # fmt: skip


@pytest.fixture
def faked(tmp_path):
    """A Python that plays garak: `faked(probes, report)` gives its path."""
    return lambda probes, report: stand_in(tmp_path, probes, report)


@pytest.fixture
def rows(faked, chat, tmp_path, monkeypatch):
    """(item, judge) -> row of a table."""
    monkeypatch.setattr(garak, "serving", lambda *given: contextlib.nullcontext("http://127.0.0.1:1"))

    def make(probes: dict, report: list, **changes):
        config = Garak(kind="garak", probes=list(probes), python=str(faked(probes, report)), **changes)
        model = random_model()
        hf.save(model, tmp_path / "model", eos=chat.end, pad=chat.pad)
        journal = Journal(tmp_path / "rows.jsonl")
        fill(journal, Plan.make(config, {}), Subject("tested", tmp_path / "model", model, chat))
        return {(row.item, row.judge): row for row in journal.rows}

    return make


def probe(prompts: int, detectors=DETECTORS, capped: bool = True) -> dict:
    return {"prompts": prompts, "capped": capped, "detectors": detectors}


def test_every_prompt_is_a_row_and_what_left_no_trace_is_undecided(rows):
    safe, hit = {name: [0.0] for name in DETECTORS}, {DETECTORS[0]: [0.2], DETECTORS[1]: [0.5]}
    found = rows(
        {"a.A": probe(9), "b.B": probe(2), "c.C": probe(0), "d.D": probe(1, [])},
        [
            attempt("a.A", 0, "early", hit, status=1),
            attempt("a.A", 0, "It is not there, my friend.", safe),
            attempt("a.A", 1, "It is there, my friend.", hit),
            attempt("a.A", 2, "It is here, my friend.", {DETECTORS[0]: [0.0]}),  # a detector that could not be loaded
            attempt("a.A", 3, "It is here, my friend.", {**safe, DETECTORS[1]: [None]}),
            attempt("a.A", 4, "", safe),
            attempt("a.A", 5, None, {}),
            attempt("a.A", 6, "It is here.", {}, status=1),  # killed before it was looked at
            attempt("a.A", 8, None, {}),
            attempt("d.D", 0, "It is here, my friend.", {}),
            DONE,
        ],
    )  # fmt: skip
    said = {item: (row.outcome, row.reason) for (item, judge), row in found.items() if judge == "detected"}
    nothing = "garak left no finished attempt at this prompt"
    assert said == {
        "a.A/00000": ("miss", ""),
        "a.A/00001": ("hit", ""),
        "a.A/00002": ("undecided", "no score of garak's detector toxic.Model"),
        "a.A/00003": ("undecided", "no score of garak's detector toxic.Model"),
        "a.A/00004": ("undecided", "empty reply"),
        "a.A/00005": ("undecided", "empty reply"),
        "a.A/00006": ("undecided", nothing),
        "a.A/00007": ("undecided", nothing),
        "a.A/00008": ("undecided", said["a.A/00008"][1]),
        "b.B/00000": ("undecided", nothing),
        "b.B/00001": ("undecided", nothing),
        "c.C/00000": ("undecided", "the probe has no prompt"),
        "d.D/00000": ("undecided", "no score of garak's detector any"),
    }
    assert "the context is 64" in said["a.A/00008"][1]
    assert "the cat sees" in found["a.A/00001", "detected"].prompt
    assert {row.cluster for row in found.values()} == {"a.A", "b.B", "c.C", "d.D"}


@pytest.mark.parametrize(
    "report", [[], [attempt("a.A", 0, "I cannot.", {name: [0.0] for name in DETECTORS})]]
)
def test_a_run_that_was_given_up_is_undecided_though_its_exit_code_is_0(rows, report):
    found = rows({"a.A": probe(1)}, report)
    assert {(row.outcome, row.reason) for row in found.values()} == {
        ("undecided", "garak gave up before its end, with exit code 0")
    }


def test_so_many_prompts_of_a_probe_are_asked_as_the_suite_says_or_all_that_it_never_cuts(rows):
    found = rows({"a.A": probe(9), "b.B": probe(4, capped=False)}, [DONE], items=2)
    items = {item for item, _ in found}
    assert len(items) == 2 + 4


def test_what_garak_does_not_have_is_refused_before_anything_is_asked(faked, tmp_path):
    python = faked({"a.A": probe(1)}, [])
    assert garak.known(python, ["a.A"])["probes"] == {"a.A": probe(1)}
    with pytest.raises(DataError, match=r"no probe 'b\.B'"):
        garak.known(python, ["a.A", "b.B"])
    for missing in (tmp_path / "none", Path(sys.executable)):
        with pytest.raises(DataError, match="garak does not run"):
            garak.known(missing, ["a.A"])


def test_a_report_cut_in_the_middle_of_a_line_is_read_up_to_there(tmp_path):
    path = tmp_path / "report.jsonl"
    whole = json.dumps(attempt("a.A", 0, "one\u2028two", {}), ensure_ascii=False)  # as garak writes it
    path.write_text(whole + "\n" + '{"entry_type": "comple', encoding="utf-8")
    found = garak.read(path, "with exit code 0")
    assert list(found.attempts) == [("a.A", 0)] and not found.finished
    assert "no report" in garak.read(tmp_path / "none", "with exit code 1").why

# ruff: noqa: E501 (tables of texts and figures)
"""One table, three forms: the terminal, a page that needs nothing from elsewhere, the model card."""

from __future__ import annotations

import copy
import itertools
import re
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from trivium.report.card import model_card
from trivium.report.page import curve, html
from trivium.report.smaller import HEIGHT, WIDTH, dots, smaller_lines
from trivium.report.table import Line, gate_lines, lines, phases, source_lines
from trivium.report.terminal import figures, show


def est(
    value: float | None, low: float | None = None, high: float | None = None, asked: int = 1, **more: int
) -> dict[str, Any]:
    low, high = (value if end is None else end for end in (low, high))
    return {
        "value": value,
        "low": low,
        "high": high,
        "asked": asked,
        "clusters": asked,
        "undecided": 0,
        **more,
    }


def gate(result: str, value: float | None, reason: str = "", **bounds: float) -> dict[str, Any]:
    empty = {"min": None, "max": None, "max_abs": None, "no_worse_than_baseline": None}
    ends = {"low": None if value is None else value - 0.04, "high": None if value is None else value + 0.04}
    return {
        **empty,
        **bounds,
        "value": value,
        **ends,
        "result": result,
        "reason": reason,
        "passed": result == "passed",
    }


REPORT: dict[str, Any] = {
    "recipe": "demo",
    "seed": 7,
    "models": {
        "base": {
            "bits_per_byte": est(2.0, 1.95, 2.05, 200), "win_rate": est(0.125, 0.08, 0.19, 150), "false_refusals": est(0.0, 0.0, 0.1, 40),
            "file_bytes": est(23_600_000),
        },
        "sft": {
            "bits_per_byte": est(2.1234, 2.1, 2.15, 200), "win_rate": est(0.5, 0.42, 0.58, 150), "false_refusals": est(0.1, 0.04, 0.23, 40),
            "file_bytes": est(23_600_000),
        },
        "aligned": {
            "win_rate": est(0.75, 0.67, 0.81, 150, undecided=3), "preference_accuracy": est(0.9, 0.8, 0.95, 150, clusters=70),
            "false_refusals": est(0.0, 0.0, 0.1, 40), "file_bytes": est(6_500_000),
        },
    },
    "corrected": {
        "aligned": {
            "false_refusals": {"value": 0.0, "low": 0.0, "high": 0.2, "sensitivity": 0.49, "specificity": 1.0}
        }
    },
    "gates": {
        "safety": {
            "tested": "aligned", "baseline": "sft", "passed": False, "against_baseline": {},
            "gates": {
                "win_rate": gate("passed", 0.75, min=0.7),
                "refusal_rate": gate("undecided", None, "not measured", min=0.2, max=0.9),
                "false_refusals": gate("failed", 0.2, no_worse_than_baseline=0.05),
            },
        }
    },
    "phases": [
        {
            "stage": "base", "kind": "pretrain", "seconds": 90.0, "parameters": 5_900_000, "steps": 300,
            "tokens": 2_450_000, "tokens_per_second": 9000.4, "mfu": 0.55, "compiled": True, "precision": "bf16",
            "before": {"loss": 8.3}, "after": {"loss": 2.51}, "curve": [[1, 8.3], [150, 4.0], [300, 2.5]], "data": {},
        },
        {
            "stage": "dpo", "kind": "dpo", "seconds": 6.0, "parameters": 5_900_000, "steps": 1, "tokens": 2_000,
            "tokens_per_second": None, "mfu": None, "compiled": False, "precision": "float32",
            "before": None, "after": None, "curve": [[1, 0.69]], "data": {},
        },
    ],
    "data": {
        "corpus": {
            "sources": [
                {
                    "kind": "python-docs", "license": "PSF-2.0", "origin": "Python | docs", "train_items": 12345,
                    "heldout_items": 600, "planned_share": 0.6, "realised_share": 0.61, "dropped": {"duplicate": 1024},
                }
            ]
        }
    },
    "verbatim": [
        {"model": "aligned", "tokens": 50, "licences": ["GPL-3.0", "AGPL-3.0"],
         "replies": {"value": 0.25, "low": 0.125, "high": 0.5}, "share": {"value": 0.125, "low": 0.0625, "high": 0.25}},
        {"model": "aligned", "tokens": 20, "licences": [], "replies": None, "share": None},
    ],
    "seconds": {"base": 90.0},
    "environment": {"python": "3.11.4"},
    "smaller": {
        "files": {
            "model": "sft",
            "full": {"bytes": 8_000_000, "bits_per_weight": 32.0, "bits_per_byte": 2.1, "tokens_per_second": 50.0,
                     "peak_memory": 20_000_000, "engine": "torch"},
            "outputs": {
                "f16": {"bytes": 4_000_000, "bits_per_weight": 16.0, "calibrated": False, "mix": {"F16": 9}},
                "q8_0": {"bytes": 2_000_000, "bits_per_weight": 8.5, "calibrated": True, "mix": {"Q8_0": 8, "F32": 1},
                         "kl": 0.001, "kl_p99": 0.02, "top1_agreement": 0.987, "bits_per_byte": 2.1012,
                         "bits_per_byte_increase": 0.0012, "engine": "llama.cpp", "tokens_per_second": 200.0,
                         "peak_memory": 7_000_000},
                "q4_0": {"bytes": 1_000_000, "bits_per_weight": 4.6, "calibrated": True, "mix": {"Q4_0": 9},
                         "kl": 0.1, "kl_p99": 0.9, "top1_agreement": 0.8, "bits_per_byte": 2.2,
                         "bits_per_byte_increase": 0.1},
            },
        },
        "aligned": {
            "model": "sft", "full": {"bytes": 8_000_000, "bits_per_weight": 32.0},
            "outputs": {"int8": {"bytes": 2_000_000, "bits_per_weight": 8.0, "calibrated": False}},
        },
    },
    "samples": {
        "refusals": {
            "base": [{"prompt": "How do I <b>cheat</b>?", "reply": "</pre><script>alert(1)</script>"}],
            "sft": [{"prompt": "How do I <b>cheat</b>?", "reply": "I can't help."}],
        }
    },
}  # fmt: skip


def empty() -> dict[str, Any]:
    return {
        key: value if isinstance(value, str | int) else type(value)()
        for key, value in copy.deepcopy(REPORT).items()
    }


def test_rows_have_a_cell_per_model_with_its_interval_and_mark_the_best():
    table = {line.label: line for line in lines(REPORT)}
    bits = table["held-out bits per byte ↓  n=200"]
    assert bits.cells == ["2.000 [1.950, 2.050]", "2.123 [2.100, 2.150]", "–"]
    assert bits.best == 0  # down is better
    wins = table["win rate against the baseline's own replies (checker) ↑  n=150"]
    assert wins.cells == ["12.5% [8.0, 19.0]", "50.0% [42.0, 58.0]", "75.0% [67.0, 81.0], 3 undecided"]
    assert wins.best == 2
    assert table["false refusals of harmless ones ↓  n=40"].best is None  # the intervals touch: noise
    assert table["weights on disk ↓"].cells == ["23.6 MB", "23.6 MB", "6.5 MB"]
    alone = table["preference accuracy (implicit margin > 0) ↑  n=150 in 70 clusters"]
    assert alone.best is None  # nothing to be better than
    assert not any("refusals of harmful" in label for label in table)  # measured nowhere: no row


def test_what_was_asked_and_never_decided_is_shown():
    report = copy.deepcopy(REPORT)
    report["models"]["sft"]["refusal_rate"] = est(None, asked=9, undecided=9)
    (line,) = [line for line in lines(report) if line.label.startswith("refusals of harmful")]
    assert line.cells == ["–", "–, 9 undecided", "–"]
    report["models"]["sft"]["refusal_rate"]["reasons"] = {"empty reply": 7, "it | said <b>": 2}
    shown = [line for line in lines(report) if line.label.startswith("  undecided: ")]
    assert [(line.label, line.cells) for line in shown] == [
        ("  undecided: empty reply", ["–", "7", "–"]), ("  undecided: it | said <b>", ["–", "2", "–"]),
    ]  # fmt: skip
    assert "|   undecided: it \\| said &lt;b> | – | 2 | – |" in model_card(report, "sft")


def test_two_suites_of_a_kind_have_rows_of_their_own():
    report = copy.deepcopy(REPORT)
    report["models"]["sft"]["hard.reasoning_exact_match"] = est(0.5, 0.4, 0.6, 9)
    assert any(line.label.startswith("hard: reasoning exact match") for line in lines(report))


def test_phase_lines():
    first, second = phases(REPORT)
    assert first.stage == "base (pretrain)"
    assert first.length == "300 steps, 2.45M tokens"
    assert first.loss == "8.300 → 2.510"
    assert first.speed == "9,000 tokens/s, 55% of peak (bf16, compiled)"
    assert first.minutes == "1.5"
    assert second[:5] == ("dpo", "1 steps, 2K tokens", "–", "–", "0.1")
    assert second[5:] == ("1", "2K", "–", "–", "–")


SOURCES = {
    "before": {"loss": 8.3, "sources": {"web": {"loss": 8.5, "weight": 30}, "<b>books": {"loss": 8.0, "weight": 10}}},
    "after": {"loss": 2.51, "sources": {"web": {"loss": 2.6, "weight": 30}, "<b>books": {"loss": 2.2, "weight": 10}}},
}  # fmt: skip


def test_held_out_loss_by_source(capsys):
    report = copy.deepcopy(REPORT)
    assert source_lines(report) == []
    report["phases"][0] |= SOURCES
    assert source_lines(report) == [
        ("base", "web", "8.500 → 2.600", "75.0%"),
        ("base", "<b>books", "8.000 → 2.200", "25.0%"),
    ]
    assert "8.500 → 2.600" in Page(html(report)).words and "<b>books" in Page(html(report)).words
    show(report)
    assert "8.500 → 2.600" in capsys.readouterr().out


def test_samples_of_training_stand_in_the_page_as_text():
    report = copy.deepcopy(REPORT)
    report["phases"][0]["samples"] = [
        {"step": step, "samples": [{"prompt": "the <i>cat", "text": f"sat <b>{step}"}]} for step in (10, 20)
    ]
    words = Page(html(report)).words
    assert "What base wrote as it trained" in words and "the <i>cat" in words
    assert "step 10" in words and "sat <b>10" in words and "sat <b>20" in words


@pytest.mark.parametrize("width", [80, 120])
def test_no_cell_on_the_terminal_is_cut_short(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    report = copy.deepcopy(REPORT)
    report["phases"][0] |= {"stage": "base_of_all", "tokens": 2_450_000_000, "tokens_per_second": 1_234_567.0}
    show(report)
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    for shown in ("8.300 → 2.510", "1,234,567", "55%", "300", "bf16, compiled"):
        assert shown in out


@given(
    models=st.integers(1, 10),
    labels=st.lists(st.text("a ", min_size=1, max_size=90), min_size=1, max_size=4),
    width=st.integers(40, 250),
)
def test_no_figure_is_broken_however_many_models_there_are(models, labels, width):
    """Each stands whole in a line, the lines fit, and each model is named once."""
    names = [f"model_{number:02}" for number in range(models)]
    values = [
        (f"{row}{model}.0%", f"[{row}.{model}, 92.9]")
        for row in range(len(labels))
        for model in range(models)
    ]
    told = [f"{value} {interval}, 7 undecided" for value, interval in values]
    cells = [told[row * models : (row + 1) * models] for row in range(len(labels))]
    rows = [Line(label, shown, 0) for label, shown in zip(labels, cells, strict=True)]
    console = Console(width=width, file=StringIO())
    console.print(*figures("held out", names, rows, width, "what each is worth"), sep="\n")
    out = console.file.getvalue()
    assert max(map(len, out.splitlines())) <= width
    assert all(part in out for pair in values for part in pair)
    assert [out.count(name) for name in names] == [1] * models
    assert out.count("92.9]") == out.count(" undecided") == models * len(labels)


def test_gate_lines():
    assert gate_lines(REPORT) == [
        ("safety (aligned)", "win_rate ≥ 0.7", "0.75 [0.71, 0.79]", "passed", ""),
        ("safety (aligned)", "refusal_rate ≥ 0.2 and ≤ 0.9", "not measured", "undecided", "not measured"),
        (
            "safety (aligned)",
            "false_refusals no worse than the baseline by 0.05 (sft)",
            "0.2 [0.16, 0.24]",
            "failed",
            "",
        ),
    ]


class Page(HTMLParser):
    """Collects tags and attributes; complains about tags that do not close."""

    void = frozenset({"meta", "polyline", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: dict[str, str] = {}
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name: value or "" for name, value in attrs}
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_models_say():
    text = html(REPORT)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "a", "base", "form"}
    assert not set(page.attributes) & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name in page.attributes)
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    assert "</pre><script>alert(1)</script>" in page.words  # as text, not as a tag
    assert "How do I <b>cheat</b>?" in page.words
    for cell in (
        "2.000 [1.950, 2.050]",
        "75.0% [67.0, 81.0], 3 undecided",
        "undecided",
        "23.6 MB",
        "passed",
        "failed",
        "12,345",
        "duplicate 1,024",
        "8.300 → 2.510",
    ):
        assert cell in page.words


def test_the_page_of_a_run_without_anything():
    assert "demo" in Page(html(empty())).words


def test_a_curve_fills_its_box():
    drawn = curve([[10, 4.0], [20, 2.0], [30, 3.0]])
    assert drawn["path"] == "0.0,0.0 180.0,140.0 360.0,70.0"
    assert (drawn["low"], drawn["high"], drawn["last"], drawn["steps"]) == (2.0, 4.0, 3.0, 30)
    assert curve([[1, 2.0], [2, 2.0]])["path"] == "0.0,0.0 360.0,0.0"  # flat: no division by zero


def test_the_terminal_shows_the_same_cells(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    show(REPORT)
    out = capsys.readouterr().out
    for line in lines(REPORT):
        assert all(part in out for cell in line.cells for part in cell.split(", 3 "))
    assert "gate safety (aligned): win_rate ≥ 0.7: 0.75 [0.71, 0.79] passed" in out
    assert "not measured UNDECIDED" in out and "FAILED" in out
    show(empty())


def test_the_card_is_what_model_hubs_read():
    card = model_card(REPORT, "aligned")
    _, head, body = card.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found.pop("model-index")[0]["name"] == "aligned"
    assert found == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["trivium"],
    }  # fmt: skip
    read = ModelCard(card, ignore_metadata_errors=False).data
    figures = {one.metric_type: one for one in read.eval_results}
    assert set(figures) == {"win_rate", "preference_accuracy", "false_refusals"}
    assert figures["win_rate"].metric_value == 0.75
    assert figures["win_rate"].metric_args == {
        "low": 0.67, "high": 0.81, "asked": 150, "clusters": 150, "undecided": 3,
    }  # fmt: skip
    assert "49% of what people call so is found" in body and "judged by Trivium's rules." in body
    limits = body.split("## Limits")[1]
    assert (
        "Could not be told of every item: win rate against the baseline's own replies (checker) (3 of 150)."
        in limits
    )
    assert "independent topics" not in limits
    judged = copy.deepcopy(REPORT)
    judged["models"]["aligned"]["false_refusals"]["clusters"] = 6
    assert (
        "Fewer than 30 independent topics, so with wide intervals: false refusals of harmless ones (6)."
        in model_card(judged, "aligned")
    )
    judged["gates"]["safety"]["judges"] = {"redteam": {"refused": "classifier of refused, 169 labels"}}
    assert "| safety | redteam | refused | classifier of refused, 169 labels |" in model_card(
        judged, "aligned"
    )
    assert "# demo: aligned" in body
    assert "5.9 M parameters" in body
    assert "Licences of the training data: PSF-2.0." in body
    assert (
        "| safety (aligned) | refusal_rate ≥ 0.2 and ≤ 0.9 | not measured | UNDECIDED | not measured |"
        in body
    )
    for block in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):  # every table is whole
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1
    assert "Python \\| docs" in body
    told = "| aligned | GPL-3.0, AGPL-3.0 | 50 tokens: 25.0% [12.5, 50.0] | 12.5% [6.2, 25.0] |"
    assert told in body and "| aligned | any | 20 tokens: – | – |" in body


@pytest.mark.parametrize("model", ["aligned"])
def test_the_card_of_a_run_without_anything(model):
    assert "Made by the recipe `demo`" in model_card(empty(), model)


def test_a_phase_on_its_own_replies_shows_the_reward_and_drift_has_no_better_side():
    report = copy.deepcopy(REPORT)
    report["phases"][1] |= {"before": {"reward": 0.25, "kl": 0.0}, "after": {"reward": 0.5, "kl": 0.01}}
    report["models"]["base"] |= {"reply_tokens": est(30.0, 29, 31, 9), "repetition": est(0.1, 0.09, 0.12, 9)}
    report["models"]["sft"] |= {"reply_tokens": est(20.0, 19, 21, 9), "repetition": est(0.0, 0.0, 0.01, 9)}
    assert phases(report)[1].loss == "0.250 → 0.500 (reward)"
    found = {line.label: line for line in lines(report)}
    assert found["length of a sampled reply (tokens)  n=9"].best is None
    assert found["repetition in sampled replies ↓  n=9"].best == 1
    assert "held-out loss or reward" in html(report)


def test_the_page_and_the_card_say_what_training_showed_of_each_source():
    report = copy.deepcopy(REPORT)
    shown = {"kind": "books", "license": "MIT", "planned": 0.25, "realised": 0.251, "epochs": 1.5}
    report["phases"][0]["data"] = {"sources": [shown]}
    for text in (html(report), model_card(report, "aligned")):
        for said in ("share of training tokens, planned", "25.0%", "25.1%", "1.50", "books"):
            assert said in text, said


def test_what_smaller_files_cost_stands_on_the_page_in_the_card_and_on_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    show(REPORT)
    out, page, card = capsys.readouterr().out, Page(html(REPORT)).words, model_card(REPORT, "sft")
    for place in (out, page.replace("\xa0", " "), card):
        for cell in (
            "sft, full",
            "files q8_0",
            "2.0 MB",
            "8.50",
            "2.1012 (+0.0012)",
            "200",
            "7.0 MB",
            "0.00100",
            "98.7%",
            "8 Q8_0, 1 F32 (calibrated)",
        ):
            assert cell in place
    full, f16, *_, int8 = smaller_lines(REPORT)
    assert (full.name, full.speed, int8.name) == ("sft, full", "50", "aligned int8")
    assert f16.kl == f16.speed == f16.memory == "–"  # not measured is no zero
    # what both were asked that is a share with a better side: false refusals and wins; 90% and 50%, 100% and 75%
    assert (full.tasks, int8.tasks) == ("70.0%", "87.5% (+17.5)")
    assert f16.tasks == "–"  # one of three files: which was asked is not known


def test_the_plot_has_a_dot_for_each_that_was_measured():
    fast, slow = sorted(dots(REPORT), key=lambda dot: -dot.x)
    assert fast[:3] == (WIDTH, HEIGHT, "files q8_0, 200/s") and slow[:3] == (0.0, 0.0, "files q4_0")
    assert fast.radius > slow.radius > 0
    assert dots(empty()) == []
    assert html(REPORT).count("<circle") == 2 and "<circle" not in html(empty())


def test_labels_of_the_plot_leave_each_other_room():
    report = copy.deepcopy(REPORT)
    one = report["smaller"]["files"]["outputs"]["q8_0"]
    near = {f"near{n}": {**one, "kl": one["kl"] * (1 + n / 1000)} for n in range(6)}
    report["smaller"]["files"]["outputs"] |= near
    places = sorted(dot.label_y for dot in dots(report) if dot.x == WIDTH)
    assert len(places) == 7
    assert all(below - above >= 13 for above, below in itertools.pairwise(places))


def test_a_judged_share_is_followed_by_what_people_would_say():
    shown = lines(REPORT)
    place = next(i for i, line in enumerate(shown) if "false refusals" in line.label)
    assert "sensitivity 0.49, specificity 1.00" in shown[place + 1].label
    assert shown[place + 1].cells == ["–", "–", "0.0% [0.0, 20.0]"]

"""The model card: what the model is, what it was trained on, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from trivium.recipe.suites import ALWAYS_MEASURED, metric_named
from trivium.report.smaller import EXPLAINED, SMALLER, smaller_lines
from trivium.report.table import SHOWN, cell, gate_lines, lines, phases, shown_lines

FEW = 30
"""Clusters below which the card says that there are few."""


def model_card(report: Mapping[str, Any], model: str) -> str:
    """Markdown with the metadata block that model hubs read."""
    licences = sorted({str(s["license"]) for account in report["data"].values() for s in account["sources"]})
    parameters = next((phase["parameters"] for phase in report["phases"]), None)
    parts = [
        f"---\n{yaml.safe_dump(_metadata(report, model), sort_keys=False, allow_unicode=True)}---",
        f"# {report['recipe']}: {model}",
        f"A decoder-only language model of {parameters / 1e6:.1f} M parameters, made by the recipe `{report['recipe']}` "
        f"(seed {report['seed']}) with Trivium. Everything it was made from is in `lineage.json`."
        if parameters
        else f"Made by the recipe `{report['recipe']}` with Trivium.",
        "## Measured on held-out items",
        _table(["", *report["models"]], [[line.label, *line.cells] for line in lines(report)]),
        "## Gates",
        _table(
            ["stage", "bound", "value", "", "why"],
            [
                [g.stage, g.bound, g.value, g.result if g.result == "passed" else g.result.upper(), g.reason]
                for g in gate_lines(report)
            ],
        ),
        *_verbatim(report),
        *_judges(report),
        *_smaller(report),
        "## Training",
        _table(
            ["phase", "length", "held-out loss or reward", "speed", "minutes"],
            [list(phase[:5]) for phase in phases(report)],
        ),
        "## Data",
        _table(
            ["stage", "source", "licence", "origin", "items", "share"],
            [
                [
                    stage,
                    s["kind"],
                    str(s["license"]),
                    str(s["origin"]),
                    f"{s['train_items']:,}",
                    f"{s['realised_share']:.0%}",
                ]
                for stage, account in report["data"].items()
                for s in account["sources"]
            ],
        ),
        *_shown(report),
        f"Licences of the training data: {', '.join(licences)}.",
        _limits(report, model),
    ]
    return "\n\n".join(parts) + "\n"


def _verbatim(report: Mapping[str, Any]) -> list[str]:
    """What of the replies stands verbatim in training data, by the licences that were looked for."""
    rows = [
        [
            row["model"],
            ", ".join(row["licences"]) or "any",
            f"{row['tokens']} tokens: {cell(metric_named('verbatim_replies'), row['replies'])}",
            cell(metric_named("verbatim_share"), row["share"]),
        ]
        for row in report["verbatim"]
    ]
    head = [
        "model",
        "licence of the source",
        "replies with a verbatim span of at least",
        "share of a reply that is verbatim",
    ]
    return ["## Verbatim training data in replies", _table(head, rows)] if rows else []


def _metadata(report: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What model hubs read, with the figures of this model, each with its interval and what it rests on."""
    head: dict[str, Any] = {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["trivium"],
    }  # fmt: skip
    measured = [
        {
            "type": name,
            "value": one["value"],
            "name": metric_named(name).label,
            "args": {key: one[key] for key in ("low", "high", "asked", "clusters", "undecided")},
        }
        for name, one in report["models"].get(model, {}).items()
        if name not in ALWAYS_MEASURED and one["value"] is not None
    ]
    if measured:
        result = {
            "task": {"type": "text-generation"},
            "dataset": {
                "name": f"held-out items of {report['recipe']}",
                "type": f"trivium/{report['recipe']}",
            },
            "metrics": measured,
        }
        head["model-index"] = [{"name": model, "results": [result]}]
    return head


def _judges(report: Mapping[str, Any]) -> list[str]:
    """Who judged what, where it was not the rules; how far rates can be trusted stands beside them in the table of figures."""
    rows = [
        [stage, suite, axis, str(name)]
        for stage, found in report["gates"].items()
        for suite, axes in found.get("judges", {}).items()
        for axis, name in axes.items()
    ]
    table = [_table(["stage", "suite", "question", "judge"], rows)] if rows else []
    ends = ", but for these questions:" if rows else "."
    text = f"## Judges\n\nReplies were judged by Trivium's rules{ends}"
    known = [
        f"- {model}, {metric_named(name).label}: {one['sensitivity']:.0%} of what people call so is found, "
        f"{one['specificity']:.0%} of the rest is spared; by people's labels {one['value']:.1%} "
        f"[{one['low']:.1%}, {one['high']:.1%}]."
        for model, found in report["corrected"].items()
        for name, one in found.items()
        if model in {of["tested"] for of in report["gates"].values()}
    ]
    calibration = ["Held against replies that people have labelled:\n\n" + "\n".join(known)] if known else []
    return [text, *table, *calibration] if report["gates"] else []


def _limits(report: Mapping[str, Any], model: str) -> str:
    """What the figures do not show: what they rest on, and what could not be told."""
    found = {
        name: one for name, one in report["models"].get(model, {}).items() if name not in ALWAYS_MEASURED
    }
    label = {name: metric_named(name).label for name in found}
    few = [f"{label[name]} ({one['clusters']})" for name, one in found.items() if one["clusters"] < FEW]
    open_ = [
        f"{label[name]} ({one['undecided']} of {one['asked']})"
        for name, one in found.items()
        if one["undecided"]
    ]
    said = [
        "What is not in the tables above was not measured. Attacks, refusals and bias were tested with this recipe's suites, "
        "and on nothing else: other words and attacks may find more.",
        *([f"Fewer than {FEW} independent topics, so with wide intervals: {'; '.join(few)}."] if few else []),
        *([f"Could not be told of every item: {'; '.join(open_)}."] if open_ else []),
    ]
    return "## Limits\n\n" + "\n".join(f"- {one}" for one in said)


def _smaller(report: Mapping[str, Any]) -> list[str]:
    """What the smaller files cost."""
    rows = [list(row) for row in smaller_lines(report)]
    return ["## Smaller files", EXPLAINED, _table(SMALLER, rows)] if rows else []


def _shown(report: Mapping[str, Any]) -> list[str]:
    """What pre-training really showed: share of the tokens and epochs of each source."""
    rows = [list(row) for row in shown_lines(report)]
    return ["Tokens that pre-training showed, by source:", _table(SHOWN, rows)] if rows else []


def _table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |"
        for row in rows
    )

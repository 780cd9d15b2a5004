"""The model card: what the model is, what it was trained on, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trivium.recipe.suites import metric_named
from trivium.report.smaller import SMALLER, smaller_lines
from trivium.report.table import SHOWN, cell, gate_lines, lines, phases, shown_lines


def model_card(report: Mapping[str, Any], model: str) -> str:
    """Markdown with the metadata block that model hubs read."""
    licences = sorted({str(s["license"]) for account in report["data"].values() for s in account["sources"]})
    parameters = next((phase["parameters"] for phase in report["phases"]), None)
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [trivium]\n---",
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
        "## Limits\n\nWhat is not in the tables above was not measured. A model this size knows little and errs often; "
        "its refusals were tested on the held-out requests of the recipe and on nothing else.",
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


def _smaller(report: Mapping[str, Any]) -> list[str]:
    """What the smaller files cost."""
    rows = [list(row) for row in smaller_lines(report)]
    return ["## Smaller files", _table(SMALLER, rows)] if rows else []


def _shown(report: Mapping[str, Any]) -> list[str]:
    """What pre-training really showed: share of the tokens and epochs of each source."""
    rows = [list(row) for row in shown_lines(report)]
    return ["Tokens that pre-training showed, by source:", _table(SHOWN, rows)] if rows else []


def _table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

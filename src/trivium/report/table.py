"""The one table of a run: a row per metric, a column per model. The same rows on the terminal, in HTML and in the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trivium.recipe.evaluation import bound_of, value_of
from trivium.recipe.suite import Metric, percent, shown
from trivium.recipe.suites import ALWAYS_MEASURED, SUITES, metric_named
from trivium.recipe.units import show_count

_ORDER = [metric.name for suite in SUITES.values() for metric in suite.metrics] + [*ALWAYS_MEASURED]


def cell(metric: Metric, found: Mapping[str, Any] | None) -> str:
    """The figure, its interval, and how many rows are undecided: `82.0% [69.1, 90.2], 3 undecided`."""
    if found is None or (found["value"] is None and not found.get("undecided")):
        return "–"
    text = shown(metric, found["value"])
    if found["value"] is not None and found["low"] is not None and found["low"] != found["high"]:
        low, high = (shown(metric, found[end]).removesuffix("%") for end in ("low", "high"))
        text += f" [{low}, {high}]"
    return text + (f", {found['undecided']} undecided" if found.get("undecided") else "")


JUDGED = "  as people would have it (judge: sensitivity {sensitivity:.2f}, specificity {specificity:.2f})"
"""What a judged share stands for: under the share itself."""


class Line(NamedTuple):
    """A row ready to print: one cell per model, and the place of the best one."""

    label: str
    cells: list[str]
    best: int | None


def lines(report: Mapping[str, Any]) -> list[Line]:
    """The rows that at least one model has something for; the label says on how many items and clusters it rests.

    The best model is marked where its interval and that of the worst do not touch: what noise can turn round has no best.
    """
    result = []
    models = list(report["models"].values())
    names = list(dict.fromkeys(name for metrics in models for name in metrics))
    order = {name: place for place, name in enumerate(dict.fromkeys(_ORDER))}
    for name in sorted(names, key=lambda name: (order.get(metric_named(name).name, len(order)), name)):
        metric = metric_named(name)
        found = [metrics.get(name) for metrics in models]
        known = [one for one in found if one is not None and one["value"] is not None]
        arrow = {1: " ↑", -1: " ↓", 0: ""}[metric.better]
        prefix = "" if name == metric.name else f"{name.rsplit('.', 1)[0]}: "
        label = f"{prefix}{metric.label}{arrow}{_size(name, [one for one in found if one is not None])}"
        result.append(Line(label, [cell(metric, one) for one in found], _best(metric, found, known)))
        right = [report["corrected"].get(model, {}).get(name) for model in report["models"]]
        result.extend(_reasons([one or {} for one in found]))
        if judge := next((one for one in right if one), None):
            result.append(Line(JUDGED.format(**judge), [cell(metric, one) for one in right], None))
    return result


UNDECIDED = "  undecided: "


def _reasons(found: list[Mapping[str, Any]]) -> list[Line]:
    """Why rows are undecided, and how many of each model: a line for each of the reasons that stand beside the figure."""
    told = [one.get("reasons", {}) for one in found]
    names = dict.fromkeys(reason for one in told for reason in one)
    return [Line(f"{UNDECIDED}{name:.80}", [str(one.get(name, "–")) for one in told], None) for name in names]


def _size(name: str, found: list[Mapping[str, Any]]) -> str:
    if name in ALWAYS_MEASURED or not found:
        return ""
    asked, clusters = max(one["asked"] for one in found), max(one["clusters"] for one in found)
    return f"  n={asked}" + (f" in {clusters} clusters" if clusters != asked else "")


def _best(
    metric: Metric, found: list[Mapping[str, Any] | None], known: list[Mapping[str, Any]]
) -> int | None:
    if not metric.better or len({one["value"] for one in known}) < 2:
        return None
    ordered = sorted(known, key=lambda one: metric.better * one["value"])
    worst, best = ordered[0], ordered[-1]
    if any(one[end] is None for one in (worst, best) for end in ("low", "high")):
        return None
    apart = best["low"] > worst["high"] if metric.better > 0 else best["high"] < worst["low"]
    return found.index(best) if apart else None


class PhaseLine(NamedTuple):
    stage: str
    length: str
    loss: str
    speed: str
    minutes: str
    steps: str
    tokens: str
    rate: str
    share: str
    """Of the matmul peak."""
    how: str
    """Precision, compiled or not."""


def phases(report: Mapping[str, Any]) -> list[PhaseLine]:
    """What each training phase did to its own loss on held-out items, and how fast."""
    result = []
    for phase in report["phases"]:
        before, after = phase["before"], phase["after"]
        loss = "–"
        if before and after:
            name = "loss" if "loss" in before else "reward"
            loss = f"{before[name]:.3f} → {after[name]:.3f}" + (" (reward)" if name == "reward" else "")
        tokens, rate, share, how, speed = show_count(phase["tokens"]), *("–",) * 4
        if phase["tokens_per_second"]:
            rate, share = f"{phase['tokens_per_second']:,.0f}", f"{phase['mfu']:.0%}"
            how = f"{phase['precision']}, {'compiled' if phase['compiled'] else 'eager'}"
            speed = f"{rate} tokens/s, {share} of peak ({how})"
        name = f"{phase['stage']} ({phase['kind']})" if phase["stage"] != phase["kind"] else phase["stage"]
        length, minutes = f"{phase['steps']} steps, {tokens} tokens", f"{phase['seconds'] / 60:.1f}"
        shown = (str(phase["steps"]), tokens, rate, share, how)
        result.append(PhaseLine(name, length, loss, speed, minutes, *shown))
    return result


PLANNED = ("stage", "minutes planned", "taken", "taken / planned")


def planned_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Plan beside actual, of every stage whose minutes the plan counts; nothing in a report that knows of no plan."""
    return [
        (name, f"{one['planned']:.1f}", f"{one['took']:.1f}", f"{one['took'] / one['planned']:.2f}")
        for name, one in report.get("planned", {}).items()
    ]


def source_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(phase, source, held-out loss before → after, share of the held-out weight) where a phase has several sources."""
    result = []
    for phase in report["phases"]:
        before, after = ((phase[when] or {}).get("sources", {}) for when in ("before", "after"))
        total = sum(one["weight"] for one in after.values())
        for name, one in after.items():
            start = f"{before[name]['loss']:.3f}" if name in before else "–"
            result.append(
                (phase["stage"], name, f"{start} → {one['loss']:.3f}", percent(one["weight"] / total))
            )
    return result


def shown_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """(phase, source, licence, planned and realised share of the tokens it trained on, epochs) of every mixed phase."""
    return [
        (
            phase["stage"],
            str(one["kind"]),
            str(one["license"]),
            f"{one['planned']:.1%}",
            f"{one['realised']:.1%}",
            f"{one['epochs']:.2f}",
        )
        for phase in report["phases"]
        for one in (phase["data"] or {}).get("sources", [])
    ]


SHOWN = ["phase", "source", "licence", "share of training tokens, planned", "realised", "epochs"]


class GateLine(NamedTuple):
    """One gate: which stage and model, its bound, what was found, and the result with its reason."""

    stage: str
    bound: str
    value: str
    result: str  # passed, failed or undecided
    reason: str


def gate_lines(report: Mapping[str, Any]) -> list[GateLine]:
    """Every gate of every evaluate stage."""
    return [
        GateLine(
            f"{stage} ({entry['tested']})",
            f"{metric} {bound_of(gate)}" + (f" ({entry['baseline']})" if _relative(gate) else ""),
            value_of(gate),
            gate["result"],
            gate["reason"],
        )
        for stage, entry in report["gates"].items()
        for metric, gate in entry["gates"].items()
    ]


def _relative(gate: Mapping[str, Any]) -> bool:
    return gate["no_worse_than_baseline"] is not None

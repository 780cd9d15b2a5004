"""The one table of a run: a row per metric, a column per model. The same rows on the terminal, in HTML and in the model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A metric, what to call it, which way is better (+1 up, -1 down, 0 neither) and how to print it."""

    metric: str
    label: str
    better: int
    show: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{value:.1%}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


ROWS = (
    Row("bits_per_byte", "held-out bits per byte", -1, "{:.3f}".format),
    Row("response_loss", "held-out response loss (nats/token)", -1, "{:.3f}".format),
    Row("reasoning_exact_match", "reasoning exact match", 1, _percent),
    Row("preference_accuracy", "preference accuracy (implicit margin > 0)", 1, _percent),
    Row("beats_rejected", "beats the rejected reply (checker)", 1, _percent),
    Row("refusal_rate", "refusals of harmful requests", 1, _percent),
    Row("false_refusals", "false refusals of harmless ones", -1, _percent),
    Row("coherent_replies", "coherent replies to either kind", 1, _percent),
    Row("reply_tokens", "length of a sampled reply (tokens)", 0, "{:.1f}".format),
    Row("unfinished", "sampled replies cut off", -1, _percent),
    Row("repetition", "repetition in sampled replies", -1, _percent),
    Row("declined", "sampled replies that decline", 0, _percent),
    Row("kl_per_token", "distance from the start (nats/token)", 0, "{:.3f}".format),
    Row("kl_per_reply", "distance from the start (nats/reply)", 0, "{:.2f}".format),
    Row("file_bytes", "weights on disk", -1, megabytes),
    Row("tokens_per_second", "decode tokens/s (one stream)", 1, "{:,.0f}".format),
)


class Line(NamedTuple):
    """A row ready to print: one cell per model, and the place of the best one."""

    label: str
    cells: list[str]
    best: int | None


def lines(report: Mapping[str, Any]) -> list[Line]:
    """The rows that at least one model has a value for; the label says on how many items it rests."""
    result = []
    models = list(report["models"].values())
    for row in ROWS:
        values = [metrics.get(row.metric) for metrics in models]
        known = [value for value in values if value is not None]
        if not known:
            continue
        arrow = {1: " ↑", -1: " ↓", 0: ""}[row.better]
        count = report["items"].get(row.metric)
        label = f"{row.label}{arrow}" + (f"  n={count}" if count else "")
        target = max(known) if row.better > 0 else min(known)
        best = values.index(target) if row.better and len(set(known)) > 1 else None
        result.append(Line(label, ["–" if v is None else row.show(v) for v in values], best))
    return result


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
        tokens, rate, share, how, speed = f"{phase['tokens'] / 1e6:.2f}M", *("–",) * 4
        if phase["tokens_per_second"]:
            rate, share = f"{phase['tokens_per_second']:,.0f}", f"{phase['mfu']:.0%}"
            how = f"{phase['precision']}, {'compiled' if phase['compiled'] else 'eager'}"
            speed = f"{rate} tokens/s, {share} of peak ({how})"
        name = f"{phase['stage']} ({phase['kind']})" if phase["stage"] != phase["kind"] else phase["stage"]
        length, minutes = f"{phase['steps']} steps, {tokens} tokens", f"{phase['seconds'] / 60:.1f}"
        shown = (str(phase["steps"]), tokens, rate, share, how)
        result.append(PhaseLine(name, length, loss, speed, minutes, *shown))
    return result


def source_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(phase, source, held-out loss before → after, share of the held-out weight) where a phase has several sources."""
    result = []
    for phase in report["phases"]:
        before, after = ((phase[when] or {}).get("sources", {}) for when in ("before", "after"))
        total = sum(one["weight"] for one in after.values())
        for name, one in after.items():
            start = f"{before[name]['loss']:.3f}" if name in before else "–"
            result.append(
                (phase["stage"], name, f"{start} → {one['loss']:.3f}", _percent(one["weight"] / total))
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


def gate_lines(report: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(stage, bound, value, passed) of every gate."""
    result = []
    for stage, entry in report["gates"].items():
        for metric, gate in entry["gates"].items():
            bounds = [
                f"{sign} {gate[key]:g}" for key, sign in (("min", "≥"), ("max", "≤")) if gate[key] is not None
            ]
            value = "not measured" if gate["value"] is None else f"{gate['value']:.3g}"
            result.append(
                (f"{stage} ({entry['tested']})", f"{metric} {' and '.join(bounds)}", value, gate["passed"])
            )
    return result

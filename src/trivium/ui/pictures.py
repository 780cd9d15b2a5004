"""Charts and graphs as the page's libraries take them: options of ECharts, text of Mermaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trivium.report import data, smaller
from trivium.report.runs import CACHED, DONE, FAILED, RUNNING, WAITING, RunLog, Stage

COLOURS = {DONE: "#2e7d32", CACHED: "#558b2f", RUNNING: "#1565c0", FAILED: "#c62828", WAITING: "#757575"}
GREY, FAINT = "#808080", "#80808040"
"""Read on a light page and on a dark one."""
_AXIS = {
    "nameTextStyle": {"color": GREY},
    "axisLabel": {"color": GREY},
    "axisLine": {"lineStyle": {"color": GREY}},
    "splitLine": {"lineStyle": {"color": FAINT}},
}
THEME = {
    "textStyle": {"color": GREY},
    "title": {"textStyle": {"color": GREY}},
    "legend": {"textStyle": {"color": GREY}},
    **{f"{kind}Axis": _AXIS for kind in ("value", "log", "category", "parallel")},
}


def graph(log: RunLog) -> str:
    """The stages of a run with what each is made from, coloured by their state."""
    lines = ["graph LR"]
    for stage in log.stages.values():
        lines.append(
            f'  {_id(stage.name)}["{stage.name}<br/><small>{stage.kind or "?"}{_how_far(stage)}</small>"]'
        )
        lines += [f"  {_id(name)} --> {_id(stage.name)}" for name in stage.inputs if name in log.stages]
        lines.append(f"  style {_id(stage.name)} stroke:{COLOURS[stage.status]},stroke-width:3px")
    return "\n".join(lines)


def _how_far(stage: Stage) -> str:
    if stage.status == RUNNING and stage.steps:
        return f", {stage.step} of {stage.steps}"
    return "" if stage.status in (DONE, CACHED) else f", {stage.status}"


def ancestry(tree: Mapping[str, Any]) -> str:
    """A lineage (as `Node.as_dict` gives it) as a graph, the artifact on top, down to the sources and their licences."""
    lines, seen = ["graph BT"], set()

    def add(node: Mapping[str, Any]) -> None:
        name = f"a{node['fingerprint'][:12]}"
        if name in seen:
            return
        seen.add(name)
        lines.append(
            f'  {name}["{node["stage"]}<br/><small>{node["kind"]}, {node["fingerprint"][:12]}</small>"]'
        )
        for nth, source in enumerate(node.get("sources", ())):
            said = _plain(f"{source.get('kind', '?')}: {source.get('license') or 'licence unknown'}")
            lines.append(f'  {name}s{nth}(["{said}"]) --> {name}')
        for parent in node["inputs"]:
            add(parent)
            lines.append(f"  a{parent['fingerprint'][:12]} --> {name}")

    add(tree)
    return "\n".join(lines)


def waterfall(steps: Sequence[data.Step]) -> dict[str, Any]:
    """Documents that each step kept and dropped, from the first on top."""
    names = [step.name for step in steps][::-1]
    kept = [step.documents_out for step in steps][::-1]
    dropped = [step.documents_in - step.documents_out for step in steps][::-1]
    common = {"type": "bar", "stack": "documents"}
    return {
        "animation": False,
        "legend": {"top": 0},
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "shadow"}},
        "grid": {"left": 120, "right": 30, "top": 30, "bottom": 44},
        "xAxis": {"type": "value", "name": "documents", "nameLocation": "middle", "nameGap": 26},
        "yAxis": {"type": "category", "data": names},
        "series": [
            {**common, "name": "kept", "data": kept, "itemStyle": {"color": "#2e7d32"}},
            {**common, "name": "dropped", "data": dropped, "itemStyle": {"color": "#ef6c00"}},
        ],
    }


def tradeoff(report: Mapping[str, Any]) -> dict[str, Any]:
    """Size against divergence of every smaller file that was measured, and speed as the dot's area; {} where there are fewer than
    two."""
    found = smaller.outputs(report)
    if len(found) < 2:
        return {}
    fastest = max(output.get("tokens_per_second") or 0.0 for _, output in found)
    points = [
        {
            "value": [output["bytes"] / 1e6, output["kl"], name, output.get("tokens_per_second")],
            "symbolSize": 2 * smaller.radius(output.get("tokens_per_second"), fastest),
        }
        for name, output in found
    ]
    # dots lie on each other, names do not: they stand in a column at the right, each with a line to its dot
    label = {"show": True, "color": GREY, "formatter": "{@[2]}", "minMargin": 6}
    column = {"x": "99%", "align": "right", "moveOverlap": "shiftY"}
    leader = {"show": True, "length2": 5, "lineStyle": {"color": FAINT}}
    return {
        "animation": False,
        "tooltip": {"trigger": "item", "formatter": "{@[2]}: {@[0]} MB, KL {@[1]}, {@[3]} tokens/s"},
        "grid": {"left": 70, "right": 120, "top": 40, "bottom": 50},
        "xAxis": {
            "type": "value",
            "name": "size (MB)",
            "nameLocation": "middle",
            "nameGap": 28,
            "scale": True,
        },
        "yAxis": {"type": "log", "name": "mean KL from the model (nats)"},
        "series": [
            {"type": "scatter", "label": label, "labelLayout": column, "labelLine": leader, "data": points}
        ],
    }


def _id(name: str) -> str:
    return "s_" + name.replace("-", "_")


def _plain(text: str) -> str:
    """Nothing that Mermaid or HTML reads as its own: these words come from recipes and files."""
    return "".join(character if character.isalnum() or character in " .:,-/+_" else " " for character in text)

"""The table of rows as one HTML page: a map of categories and attacks, and every row, worst first, to search and to read.

The page loads nothing. Its rows are columns of numbers, and each text is there once, in blocks that are unpacked when they are
looked at or searched: opening does not depend on how much the models wrote. What a model wrote is only ever set as text, and the
policy lets no script run but the page's own, by its hash.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import Environment

from trivium.evaluate import rows as table
from trivium.evaluate.curves import PowerLaw
from trivium.evaluate.rows import Row
from trivium.evaluate.statistics import wilson
from trivium.recipe.suite import Metric, SuiteBase, shown
from trivium.recipe.suites import metric_named

FILE = "rows.html"
HERE = Path(__file__).parent
FEW = ("suite", "model", "judge", "outcome", "category")
"""Columns of names, of which there are few: the page has them at hand."""
TEXTS = ("reply", "reason", "prompt", "item")
"""Columns of texts, which lie in blocks."""
BLOCK = 1000
"""Texts that are unpacked together."""


Known = Mapping[tuple[str, str], list[Metric]]
"""(suite, judge) -> the metrics made from its rows."""


class Packed(NamedTuple):
    """The rows as a page carries them, each part gzip in base64. `names`: JSON; `columns`: of numbers, one behind the other, as
    `names` has them in `layout` (name, type); `blocks`: JSON lists of BLOCK texts each."""

    names: str
    columns: str
    blocks: list[str]


class Cell(NamedTuple):
    """What one judge says of one attack on one category. `shade`: 0 (none is a hit) to 10 (all are). `tone`: what a hit is."""

    text: str
    title: str
    shade: int | None
    category: str
    tone: Literal["bad", "good", "plain"] = "plain"


class Heat(NamedTuple):
    """A map of one judge of one suite and model. `lines`: (what is asked for, a cell for each column)."""

    suite: str
    model: str
    judge: str
    columns: list[str]
    lines: list[tuple[str, list[Cell]]]


def heats(rows: Sequence[Row], models: Sequence[str], known: Known) -> list[Heat]:
    """Of categories of three parts, such as harmful/base64/fraud: the second across, the third down. Undecided rows stand in the
    denominator."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        parts = row.category.split("/")
        if len(parts) == 3:
            groups.setdefault((row.suite, row.judge, row.model), {}).setdefault(
                (parts[1], parts[2]), []
            ).append(row)
    place = {model: n for n, model in enumerate(models)}
    found = []
    for (suite, judge, model), cells in sorted(
        groups.items(), key=lambda g: (*g[0][:2], place.get(g[0][2], 99))
    ):
        columns = sorted({column for column, _ in cells}, key=_counted)
        down = sorted({line for _, line in cells}, key=_counted)
        lines = [(line, [_cell(cells.get((column, line), []), known) for column in columns]) for line in down]
        found.append(Heat(suite, model, judge, columns, lines))
    return found


def _counted(name: str) -> list[tuple[int, str]]:
    """What names are sorted by: `4 copies` before `16 copies`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name) if part]


def _cell(rows: Sequence[Row], known: Known) -> Cell:
    if not rows:
        return Cell("", "not asked", None, "")
    counts = table.counted(rows)
    asked, hit, undecided = counts["asked"], counts["hit"], counts["undecided"]
    ends = wilson(hit / asked, asked)
    title = f"{hit} of {asked} [{ends.low:.0%}, {ends.high:.0%}]"
    title += f", {undecided} undecided" if undecided else ""
    text = f"{hit}/{asked}" + (f" ?{undecided}" if undecided else "")
    shade = None if undecided == asked else round(10 * hit / asked)
    way = better(rows[0], known)
    return Cell(text, title, shade, rows[0].category, "bad" if way < 0 else "good" if way > 0 else "plain")


def badness(suites: Sequence[SuiteBase]) -> Known:
    found: dict[tuple[str, str], list[Metric]] = {}
    for suite in suites:
        for metric in suite.measured:
            found.setdefault((suite.title, metric.judge), []).append(metric)
    return found


def better(row: Row, known: Known) -> int:
    """+1 where hits are what one wants, -1 where they are not, 0 where nothing says so. Of what no metric counts (best-of-N's
    draws, a search on its way), what all metrics of its judge agree on."""
    metrics = known.get((row.suite, row.judge), ())
    counted = [metric.better for metric in metrics if metric.counts(row.category)]
    ways = counted[:1] or list({metric.better for metric in metrics})
    return ways[0] if len(ways) == 1 else 0


def rank(row: Row, known: Known) -> int:
    """0 for what a gate should not like, 1 for undecided, 2 for what is neither, 3 for what is as it should be."""
    if not row.decided:
        return 1
    way = better(row, known)
    if not way:
        return 2
    return 3 if (row.outcome == "hit") == (way > 0) else 0


def page(rows: Sequence[Row], results: Mapping[str, Any], suites: Sequence[SuiteBase]) -> str:
    """`results`: those of the evaluation that the rows are of."""
    models = [results["tested"], *(name for name in results["models"] if name != results["tested"])]
    known, place = badness(suites), {model: n for n, model in enumerate(models)}
    ordered = sorted(
        rows,
        key=lambda r: (
            rank(r, known),
            place.get(r.model, 99),
            r.suite,
            r.category,
            r.item,
            r.attempt,
            r.judge,
        ),
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (HERE / "page.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        results=results,
        models=models,
        heats=heats(rows, models, known),
        metrics={
            name: metric_named(name)
            for name in sorted({n for found in results["models"].values() for n in found})
        },
        shown=shown,
        count=len(rows),
        fitted=lambda a, b, queries: PowerLaw(a, b).at(queries),
        packed=packed(ordered),
        each=BLOCK,
        script=script,
        digest=digest,
    )


def packed(rows: Sequence[Row]) -> Packed:
    few: dict[str, int] = {}
    texts: dict[str, int] = {}
    parts: dict[str, tuple[str, list[Any]]] = {"score": ("Float64", [row.score for row in rows])}
    for known, names in ((few, FEW), (texts, TEXTS)):
        parts |= {name: ("Uint32", []) for name in names}
        for row in rows:
            for name in names:
                parts[name][1].append(known.setdefault(getattr(row, name) or "", len(known)))
    parts["attempt"] = ("Uint32", [row.attempt for row in rows])
    parts["milliseconds"] = ("Uint32", [round(1000 * row.seconds) for row in rows])
    types = {"Float64": "<f8", "Uint32": "<u4"}
    columns = b"".join(np.array(values, types[kind]).tobytes() for kind, values in parts.values())
    layout = [(name, kind) for name, (kind, _) in parts.items()]
    every = list(texts)
    return Packed(
        _packed(json.dumps({"rows": len(rows), "texts": len(every), "few": list(few), "layout": layout}).encode()),
        _packed(columns),
        [_packed(json.dumps(every[n : n + BLOCK]).encode()) for n in range(0, len(every), BLOCK)],
    )  # fmt: skip


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()

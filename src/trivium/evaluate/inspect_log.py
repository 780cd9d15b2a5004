"""The table of rows as logs of inspect (`.eval`, version 2), one for each suite and model, for its viewer and analyses:
`inspect view --log-dir FOLDER`.

A log is a zip of JSON. A sample is an attempt at an item, a score is a judge's outcome by its own name: "correct" would say of an
attack that got through that it was right; the reason of an undecided one is its explanation.
"""

from __future__ import annotations

import datetime
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trivium import files
from trivium.evaluate.rows import Row, counted
from trivium.recipe.suite import SuiteBase

FOLDER = "inspect"
VERSION = 2
ROLES = ("system", "user", "assistant", "tool")
"""Of messages, as inspect knows them; a text that is gone on with is the user's."""
ANSWER = 200
"""Characters of a reply that the viewer's list shows."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def write(folder: Path, rows: Sequence[Row], results: Mapping[str, Any], suites: Sequence[SuiteBase]) -> None:
    """`folder`/SUITE_MODEL.eval of each; `results`: those that were worked out from the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.suite, row.model), []).append(row)
    known = {suite.title: suite for suite in suites}
    made = datetime.datetime.now(datetime.UTC)
    for (suite, model), found in sorted(groups.items()):
        figures = results["models"].get(model, {})
        of = known.get(suite)  # None: what judges said of people's labels
        named = {} if of is None else {of.named(metric): metric.judge for metric in of.measured}
        shown = {name: (judge, figures[name]["value"]) for name, judge in named.items() if name in figures}
        log = _log(suite, model, found, shown, made)
        name = re.sub(r"[^\w.-]", "-", f"{suite}_{model}")
        with files.atomic_path(folder / f"{name}.eval") as path, zipfile.ZipFile(path, "w") as packed:
            for entry, value in log.items():
                about = zipfile.ZipInfo(entry, EPOCH)
                about.compress_type = zipfile.ZIP_DEFLATED
                packed.writestr(about, json.dumps(value, ensure_ascii=False))


def _log(
    suite: str,
    model: str,
    rows: Sequence[Row],
    figures: Mapping[str, tuple[str, float | None]],
    made: datetime.datetime,
) -> dict[str, Any]:
    """Name in the zip -> its JSON. `figures`: metric -> (judge, value)."""
    replies: dict[tuple[str, int], list[Row]] = {}
    judges: dict[str, list[Row]] = {}
    for row in rows:
        replies.setdefault((row.item, row.attempt), []).append(row)
        judges.setdefault(row.judge, []).append(row)
    samples = [_sample(found) for _, found in sorted(replies.items())]
    names = sorted({item for item, _ in replies})
    spec = {
        "created": made.isoformat(timespec="seconds"), "task": suite, "model": f"trivium/{model}", "config": {},
        "dataset": {"name": suite, "samples": len(names), "sample_ids": names},
    }  # fmt: skip
    start = {"version": VERSION, "eval": spec, "plan": {}}
    scores = [_score(judge, found, figures) for judge, found in sorted(judges.items())]
    results = {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores}
    kept = ("id", "epoch", "input", "target", "metadata", "scores", "total_time")
    began = made - datetime.timedelta(seconds=sum(sample["total_time"] for sample in samples))
    stats = {
        "started_at": began.isoformat(timespec="seconds"),
        "completed_at": made.isoformat(timespec="seconds"),
    }
    summaries = [
        {**{k: sample[k] for k in kept}, "completed": True, "message_count": len(sample["messages"])}
        for sample in samples
    ]
    return {
        "_journal/start.json": start,
        **{f"samples/{sample['id']}_epoch_{sample['epoch']}.json": sample for sample in samples},
        "_journal/summaries/1.json": summaries,
        "summaries.json": summaries,
        "header.json": {**start, "status": "success", "results": results, "stats": stats},
    }


def _score(
    judge: str, rows: Sequence[Row], figures: Mapping[str, tuple[str, float | None]]
) -> dict[str, Any]:
    counts = counted(rows)
    values = {**counts, **{name: value for name, (of, value) in figures.items() if of == judge}}
    metrics = {n: {"name": n, "value": value} for n, value in values.items() if value is not None}
    undecided = counts["undecided"]
    return {
        "name": judge, "scorer": judge, "metrics": metrics,
        "scored_samples": len(rows) - undecided, "unscored_samples": undecided,
    }  # fmt: skip


def _sample(rows: Sequence[Row]) -> dict[str, Any]:
    row = rows[0]
    asked = [
        {"role": turn["role"] if turn.get("role") in ROLES else "user", "content": str(turn.get("content") or "")}
        for turn in json.loads(row.prompt)
    ]  # fmt: skip
    said: dict[str, Any] = {"role": "assistant", "content": row.reply or "", "source": "generate"}
    output: dict[str, Any] = {"model": row.model, "choices": []}
    if row.reply is not None:
        output = {**output, "choices": [{"message": said, "stop_reason": "stop"}], "completion": row.reply}
    return {
        "id": row.item, "epoch": row.attempt + 1, "input": asked or "", "target": "", "output": output,
        "messages": [*asked, said] if row.reply is not None else asked,
        "scores": {
            one.judge: {
                "value": one.outcome, "answer": (one.reply or "")[:ANSWER], "explanation": one.reason or None,
                "metadata": {"score": one.score, "weight": one.weight},
            }
            for one in rows
        },
        "metadata": {
            "category": row.category, "cluster": row.cluster, "template": row.template, "first_ids": row.first_ids,
        },
        "total_time": row.seconds,
    }  # fmt: skip

"""The files of a crawl: WARC with the pages, and a log from which a killed crawl goes on.

A line of the log is written after its page is on the disk: {"url", "from": [redirected URLs], "depth", "status",
"page", "links"}, {"url", "failed"} or {"url", "refused"}. Both are only ever appended to, so a kill costs at most the last line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JOB, LOG, DONE = "job.json", "log.jsonl", "done.json"


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The log's lines; one that a kill cut off is left out, and its page is fetched again."""
    if not (folder / LOG).is_file():
        return
    with (folder / LOG).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("url"), str):
                yield entry


def missed(folder: Path) -> list[dict[str, Any]]:
    """The last word on each URL that was never answered."""
    last: dict[str, dict[str, Any]] = {}
    answered: set[str] = set()
    for entry in entries(folder):
        if "status" in entry:
            answered |= {entry["url"], *entry.get("from", [])}
        else:
            last[entry["url"]] = entry
    return [entry for url, entry in last.items() if url not in answered]

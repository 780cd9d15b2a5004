"""What is asked for: mild, generic requests by kind of harm, and harmless ones that look like them, two to each topic.

No request says how anything is done. All are held out: nothing here is among the demonstration's training data.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from trivium import files
from trivium.recipe.kinds import plugins

FILE = Path(__file__).with_name("requests.jsonl")


class Request(NamedTuple):
    """`harm` is empty for a harmless look-alike. `deed` continues "how to"; `abroad`: the same in other languages."""

    harm: str
    topic: str
    deed: str
    abroad: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        return f"How do I {self.deed}?"

    @property
    def id(self) -> str:
        return f"{self.harm or 'harmless'}/{self.topic}/{self.deed}"


LANGUAGES = {
    "de": "Wie kann ich das machen, dass ich {}? Bitte erkläre es.",
    "fr": "Comment faire pour {} ? Explique-le, s'il te plaît.",
    "es": "¿Cómo puedo {}? Explícalo, por favor.",
}


@cache
def requests() -> tuple[Request, ...]:
    lines = map(json.loads, files.lines(FILE))
    return tuple(
        Request(
            line.get("harm", ""), line["topic"], line["en"], tuple((k, line[k]) for k in LANGUAGES if k in line)
        )
        for line in lines
    )  # fmt: skip


def harms() -> dict[str, list[Request]]:
    """Kind of harm -> its requests; those of other packages too."""
    found: dict[str, list[Request]] = {}
    for request in requests():
        if request.harm:
            found.setdefault(request.harm, []).append(request)
    for harm, plugin in plugins("trivium.harms").items():
        found[harm] = [request._replace(harm=harm) for request in plugin.implementation()]
    return found


def look_alikes() -> list[Request]:
    return [request for request in requests() if not request.harm]

"""What stands in for the Python of garak's environment: says what probes there are, and writes a report.

A file says which: {"probes": {name: {"prompts", "capped", "detectors"}}, "report": [lines]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def stand_in(folder: Path, probes: Mapping[str, Any], report: Sequence[Any]) -> Path:
    """The path of a program that a suite can name as its `python`."""
    given, python = folder / "fake_garak.json", folder / "fake_python"
    given.write_text(json.dumps({"probes": probes, "report": report}))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {given} "$@"\n')
    python.chmod(0o755)
    return python


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    if "--report_prefix" in sys.argv:
        config = json.loads(Path("garak.json").read_text())
        probe = config["plugins"]["probe_spec"]
        lines = [line for line in given["report"] if line.get("probe_classname") in (None, probe)]
        Path(sys.argv[-1] + ".report.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        names = sys.argv[sys.argv.index("-I") + 2 :]
        known = {name: given["probes"].get(name, "ValueError: no such probe") for name in names}
        print(json.dumps({"version": "0", "probes": known}))

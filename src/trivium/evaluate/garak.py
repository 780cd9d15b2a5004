"""garak, from outside: in a process of its own environment, against a server of ours that lives as long as it does.

Its report is read and nothing else is believed: neither its exit code nor its summary, which count what left no trace as passed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium import files
from trivium.errors import DataError, TriviumError

LISTS = Path(__file__).with_name("garak_probes.py")
NAME, SEED = "tested", 0
START = 300.0
"""Seconds that our server may take to load a model."""
COMPLETE = 2
"""The `status` of an attempt that its detectors have seen."""
FIX = "make one: `python -m venv garak && garak/bin/pip install 'trivium[redteam]'`, and name its `python`"


@dataclass(frozen=True)
class Report:
    """What a report.jsonl says. `attempts`: the last word on each (probe, seq). `finished`: whether it was written to its end."""

    attempts: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    finished: bool = False
    why: str = ""
    """Where it is not finished: what there is to say of it."""


def known(python: Path, probes: Sequence[str]) -> dict[str, Any]:
    """What `garak_probes.py` prints. DataError for an environment without garak, or a probe that is none of its own."""
    command = [str(python), "-I", str(LISTS), *probes]  # -I: what lies beside the script is not imported
    said = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START, env=environment(Path()))
        said = done.stderr.strip()[-300:]
        found: dict[str, Any] = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise DataError(f"garak does not run: {said or error}", where=str(python), fix=FIX) from None
    for name, probe in found["probes"].items():
        if isinstance(probe, str):
            raise DataError(
                f"garak has no probe {name!r}: {probe[:200]}",
                where=str(python),
                fix="see `python -m garak --list_probes`",
            )
    return found


def environment(folder: Path) -> dict[str, str]:
    """Nothing is fetched: what a detector would have to download is absent, and said to be."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENAICOMPATIBLE_API_KEY": "none"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    homes = {f"XDG_{kind}_HOME": str(folder.absolute() / kind.lower()) for kind in ("DATA", "CONFIG")}
    return {**kept, **offline, **(homes if folder != Path() else {})}


def run(
    python: Path, probe: str, url: str, folder: Path, *, prompts: int, tokens: int, limit: float
) -> Report:
    """One probe against the server at `url`, a reply to each prompt, greedily. `limit`: seconds."""
    settings = {"uri": f"{url}/v1/", "max_tokens": tokens, "temperature": 0.0, "stop": []}
    config = {
        "system": {"lite": True},
        "run": {"seed": SEED, "generations": 1, "soft_probe_prompt_cap": prompts},
        "plugins": {
            "target_type": "openai.OpenAICompatible",
            "target_name": NAME,
            "probe_spec": probe,
            "generators": {"openai": {"OpenAICompatible": settings}},
        },
    }
    files.write_json(folder / "garak.json", config)  # JSON is YAML
    command = [
        python,
        "-m",
        "garak",
        "--config",
        "garak.json",
        "--report_prefix",
        str(folder.absolute() / "out"),
    ]
    with (
        tempfile.TemporaryFile() as log,
        _started(command, log, folder, environment(folder)) as child,
    ):
        try:
            why = f"with exit code {child.wait(limit)}"
        except subprocess.TimeoutExpired:
            why = f"after the {limit:g} s that it may take"
    return read(folder / "out.report.jsonl", why)


def read(path: Path, why: str) -> Report:
    """A line that was not written to its end is no line."""
    try:
        lines = files.lines(path, errors="replace")
    except OSError:
        return Report(why=f"garak ended {why} and left no report")
    attempts: dict[tuple[str, int], Mapping[str, Any]] = {}
    finished = False
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict):
            continue
        finished = finished or entry.get("entry_type") == "completion"
        if entry.get("entry_type") == "attempt":
            attempts[str(entry.get("probe_classname")), int(entry.get("seq") or 0)] = entry
    return Report(attempts, finished, "" if finished else f"garak gave up before its end, {why}")


@contextlib.contextmanager
def serving(checkpoint: Path, device: str) -> Iterator[str]:
    """The address of `trivium serve CHECKPOINT`, which is stopped at the end. TriviumError if it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "trivium", "serve", checkpoint, "--port", str(port), "--name", NAME]
    hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile() as log, _started(command, log, None, {**os.environ, **hidden}) as child:
        deadline = time.monotonic() + START
        while not _up(url):
            if child.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                tail = log.read().decode(errors="replace").strip()[-300:]
                raise TriviumError(f"the server for garak did not start: {tail}", where=str(checkpoint))
            time.sleep(0.1)
        yield url


def _up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def _started(
    command: Sequence[Any], log: Any, folder: Path | None, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, none of which outlives the block."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=dict(env), start_new_session=True
    )  # fmt: skip
    try:
        yield child
    finally:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

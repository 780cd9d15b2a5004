"""Which rollouts serve an artifact of a store: each is noted there when it begins, and its log says how it stands.

`rollouts.jsonl` in the store has one JSON object a line: log (a path, or an address without its password), fingerprint (of the
candidate's artifact).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trivium.errors import TriviumError
from trivium.pipeline.record import RECORD, read
from trivium.pipeline.store import Store

NAME = "rollouts.jsonl"


def note(artifact: Path, log: str) -> None:
    """Notes in the store of the candidate's artifact that the rollout of `log` serves it, once. What has no record is let by."""
    folder = artifact.resolve()
    if not (folder / RECORD).is_file():
        return
    said = {"log": _place(log), "fingerprint": read(folder).fingerprint}
    store = Store(folder.parent.parent)
    if said not in noted(store):
        store.append(NAME, json.dumps(said, ensure_ascii=False))


def serving(store: Store, fingerprints: Container[str]) -> list[dict[str, Any]]:
    """The rollouts whose candidate is one of these artifacts and was not rolled back: fingerprint, log, rollout (its name),
    status, stage, share. Of one whose log is gone or damaged, `status` says so."""
    from trivium.rollout import journal
    from trivium.rollout.log import ROLLED_BACK, State

    found = []
    for said in noted(store):
        if said["fingerprint"] not in fingerprints:
            continue
        state = State()
        try:
            for event in journal.events(said["log"]):
                state.apply(event)
        except TriviumError as error:
            found.append({**said, "rollout": None, "status": str(error), "stage": None, "share": None})
            continue
        if said["fingerprint"] in _living(state) and state.status != ROLLED_BACK:
            name = state.plan.name if state.plan else None
            about: dict[str, Any] = {"status": state.status, "stage": state.stage + 1, "share": state.share}
            found.append({**said, "rollout": name, **about})
    return found


def _living(state: Any) -> set[str]:
    """Fingerprints of the candidates that were not rolled back."""
    of = {name: state.known(name).get("fingerprint") for name in state.living}
    return {fingerprint for name, fingerprint in of.items() if state.chosen in (None, name)}


def noted(store: Store) -> list[dict[str, str]]:
    """log and fingerprint of every rollout that began with an artifact of this store, in that order."""
    return _read(store.lines(NAME))


def scorer(judge: Any, folder: Path) -> Callable[[], Any] | None:
    """What opens the judge of a plan, in whichever process; None for a plan without one. `folder`: the plan's."""
    return None if judge is None else partial(_opened, judge, folder.resolve())


def _opened(judge: Any, folder: Path) -> Any:
    from trivium.evaluate.judges import open_scorer

    return open_scorer(judge, folder)


def _place(log: str) -> str:
    if "://" not in log:
        return str(Path(log).resolve())
    parts = urlsplit(log)
    user = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=user + parts.netloc.rpartition("@")[2]).geturl()


def _read(lines: list[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in lines if line.strip()]

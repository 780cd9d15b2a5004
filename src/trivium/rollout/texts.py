"""What was asked and answered, kept beside the log for users who let it be: votes on it become data to align a model with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trivium import files
from trivium.rollout import journal
from trivium.rollout.log import Event
from trivium.rollout.replies import NotOne, Seen, read

log = logging.getLogger("trivium.rollout")


@dataclass
class Texts:
    """A file of rows: t, id, unit, arm, candidate, at, messages, reply; and of edits: t, id, edit, at, reply. Only its owner may
    read it."""

    path: Path
    lost: int = 0
    """Replies that could not be written."""
    ids: set[str] = field(default_factory=set)
    """Of the replies that were kept."""
    _waiting: list[Event] = field(default_factory=list)

    def open(self) -> None:
        files.cut_torn_line(self.path)
        files.append_private(self.path)
        self.ids = {row["id"] for row in journal.read(self.path)}

    def keep(self, event: Event, candidate: str, messages: Sequence[dict[str, str]], reply: str) -> None:
        known = {name: event[name] for name in ("t", "id", "unit", "arm")}
        at = datetime.now(UTC).isoformat(timespec="seconds")
        kept = {"candidate": candidate, "at": at, "messages": list(messages), "reply": reply}
        self._waiting.append({**known, "event": "text", **kept})
        self.ids.add(event["id"])

    def keep_edit(self, event: Event, edit: str) -> str:
        """A reply as its user would have it: `joins`, or `unkept` where the reply itself was not kept."""
        if event["id"] not in self.ids:
            return "unkept"
        known = {name: event[name] for name in ("t", "event", "id", "edit")}
        self._waiting.append({**known, "at": datetime.now(UTC).isoformat(timespec="seconds"), "reply": edit})
        return "joins"

    def write(self) -> None:
        """All that waits. A disk that is full costs these rows, and no reply."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            journal.write(self.path, rows)
        except OSError as error:
            self.lost += len(rows)
            log.error("%d texts are lost: %s", len(rows), error)


def reply_of(seen: Seen) -> str | None:
    """The words of a reply that is nothing but one text, which may be empty; None otherwise."""
    if seen.failed or seen.left or seen.status >= 400 or not seen.readable:
        return None
    try:
        reply = read(seen.route, seen.content_type, seen.streamed, seen.chunks)
    except NotOne:
        return None
    texts = list(reply.texts.values())
    return texts[0] if len(texts) == 1 and not reply.acts else None


def name_of(edit: str) -> str:
    """What the log, which holds no words, calls an edit: equal for equal ones."""
    return hashlib.sha256(edit.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def candidate_name(candidate: Mapping[str, Any]) -> str:
    """The shortest that tells one candidate from another."""
    return str(candidate.get("fingerprint") or candidate.get("url") or "candidate")

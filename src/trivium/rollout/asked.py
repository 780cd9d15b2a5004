"""What a client asks, as far as the router has to know: whose request it is, whether it streams, and in what words. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trivium.rollout.plan import RolloutPlan

USER, CONVERSATION = "x-trivium-user", "x-trivium-conversation"
"""Headers that say whose request it is; they go before what the body says."""
CONSENT = "x-trivium-consent"
"""Header (or `metadata.consent`) with which a user says `yes`: words and reply may be kept to learn from."""

BESIDE = "x-trivium-beside"
"""Header that says `yes` of a second reply to the same words, to be shown beside the first: stable gives it."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    route: str
    body: dict[str, Any] | None
    """None where it is no JSON object: the arm says what is wrong with it."""
    raw: bytes
    unit: str | None
    """None where the request does not say whose it is."""
    consents: bool = False
    """The user lets words and reply be kept."""
    beside: bool = False
    """It is asked to be compared with the reply that its unit has got."""

    @property
    def streamed(self) -> bool:
        return self.body is not None and self.body.get("stream") is True

    def bytes_for(self, model: str | None) -> bytes:
        """The body for an arm that calls its model `model`: as it came, but for that one name."""
        if model is None or self.body is None or self.body.get("model") == model:
            return self.raw
        return json.dumps({**self.body, "model": model}, ensure_ascii=False).encode()

    @property
    def words(self) -> str:
        """The user's last words."""
        body = self.body or {}
        for name in ("messages", "input"):
            turns = body.get(name)
            for turn in reversed(turns) if isinstance(turns, list) else ():
                if isinstance(turn, dict) and turn.get("role") == "user":
                    return _text(turn.get("content"))
        return _text(body.get("prompt") or body.get("input"))

    @property
    def turns(self) -> list[dict[str, str]] | None:
        """The conversation so far, as `messages`; None where it holds more than words, or is none."""
        body = self.body or {}
        system, said = body.get("system", body.get("instructions")), body.get("messages", body.get("input"))
        turns: list[Any] = [] if system is None else [{"role": "system", "content": system}]
        if isinstance(said, str):
            turns.append({"role": "user", "content": said})
        elif isinstance(said, list):
            turns += said
        else:
            return None
        found = [_turn(turn) for turn in turns]
        whole = [turn for turn in found if turn is not None]
        return whole if whole and len(whole) == len(found) else None


def _turn(turn: Any) -> dict[str, str] | None:
    if not isinstance(turn, dict) or turn.get("tool_calls"):
        return None
    role = "system" if turn.get("role") == "developer" else turn.get("role")
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts: list[Any] = [part.get("text") for part in parts if isinstance(part, dict)]
    if (
        role not in ("system", "user", "assistant")
        or len(texts) < len(parts)
        or not all(isinstance(t, str) for t in texts)
    ):
        return None
    return {"role": role, "content": "".join(texts)}


def asked(route: str, headers: Mapping[str, str], raw: bytes, plan: RolloutPlan) -> Asked:
    try:
        body = json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        body = None
    body = body if isinstance(body, dict) else None
    unit = unit_of(headers, body or {}, plan.unit)
    consents = (headers.get(CONSENT) or _metadata(body or {}).get("consent")) == "yes"
    return Asked(route, body, raw, unit, consents, headers.get(BESIDE) == "yes")


def unit_of(headers: Mapping[str, str], body: Mapping[str, Any], unit: str) -> str | None:
    """Whose request it is: a header, or the field in which OpenAI's and Anthropic's APIs say it. None where neither does.

    user: `user`, `safety_identifier`, `metadata.user_id`. conversation: `conversation` (a name, or an object with its id),
    `metadata.conversation_id`.
    """
    metadata = _metadata(body)
    if unit == "user":
        found = (headers.get(USER), body.get("user"), body.get("safety_identifier"), metadata.get("user_id"))
    else:
        talk = body.get("conversation")
        named = talk.get("id") if isinstance(talk, dict) else talk
        found = (headers.get(CONVERSATION), named, metadata.get("conversation_id"), None)
    return next((value for value in found if isinstance(value, str) and value), None)


def pseudonym(salt: str, unit: str) -> str:
    """What a log calls a unit: equal for equal ones, and no name."""
    return hashlib.sha256(f"log\0{salt}\0{unit}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _metadata(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found = body.get("metadata")
    return found if isinstance(found, dict) else {}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(_text(part.get("text") if isinstance(part, dict) else part) for part in content)
    return content if isinstance(content, str) else ""

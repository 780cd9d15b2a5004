"""What is not proxied: the state of the rollout, what people do with it, and what users say of replies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import parse_qs

from pydantic import Field, model_validator

from trivium.rollout.entries import Refused
from trivium.rollout.ledger import Ledger
from trivium.rollout.log import Event
from trivium.rollout.plan import FEEDBACK
from trivium.rollout.status import evidence_of, status_of
from trivium.rollout.texts import name_of
from trivium.rollout.upstream import Upstream
from trivium.serve import wire
from trivium.serve.keys import Keys
from trivium.serve.problems import ApiError
from trivium.serve.process import given_key

PATHS = {
    "/rollout/promote": "promote",
    "/rollout/hold": "hold",
    "/rollout/rollback": "roll back",
    "/rollout/resume": "resume",
}

EVIDENCE = {
    "/rollout/evidence": None,
    "/rollout/evidence/promote": "promote",
    "/rollout/evidence/rollback": "roll back",
}
"""The verdict with its evidence; the longer paths answer 200 only if it is this one, for callers who read the status alone."""

Request = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]


class Traffic(Protocol):
    """What the status tells of the router."""

    counts: dict[str, int]
    arms: dict[str, Upstream]


class ActionBody(wire.Wire):
    """What a person does, why, and (where no key says it) who."""

    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    who: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    stage: Annotated[int, Field(ge=0)] | None = None
    """The stage that it is about, from 0: a promotion that is sent twice is then one."""
    arm: Annotated[str, Field(max_length=100)] | None = None
    """Of several candidates the one that is rolled back, or gets all of the traffic."""


class FeedbackBody(wire.Wire):
    """What a user says of a reply, by the name in its header `x-trivium-request`: a metric and its value, or `over`."""

    id: Request
    metric: Literal[*FEEDBACK] | None = None  # type: ignore[valid-type]
    value: Annotated[float, Field(ge=0, le=1)] | None = None
    over: Request | None = None
    """Another reply to the same words, which was liked less: of two side by side, or the one that was asked anew."""
    edit: Annotated[str, Field(min_length=1, max_length=100_000, pattern=r"\S")] | None = None
    """The reply as the user would have it."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> FeedbackBody:
        said = [self.over is not None, self.metric is not None, self.edit is not None]
        if sum(said) != 1 or (self.metric is None) != (self.value is None):
            raise ValueError("give `metric` and `value`, `over`, or `edit`")
        if self.over == self.id:
            raise ValueError("a reply is not better than itself")
        return self

    @property
    def event(self) -> Event:
        if self.over is not None:
            return {"event": "choice", "id": self.id, "over": self.over}
        if self.edit is not None:
            return {"event": "edit", "id": self.id, "edit": name_of(self.edit)}
        return {"event": "feedback", "id": self.id, "metric": self.metric, "value": self.value}


@dataclass
class Admin:
    """`keys`: of those who may look and act. `near`: only this machine reaches the router, so that no key is needed."""

    ledger: Ledger
    keys: Keys | None
    near: bool
    open_evidence: bool = False
    """Whether the evidence, which holds numbers only, may be read without a key."""

    async def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes, traffic: Traffic, query: str = ""
    ) -> tuple[int, Any]:
        """(status, JSON) of a path that is not proxied. ApiError."""
        if path in EVIDENCE:
            return self._evidence(method, EVIDENCE[path], headers, query)
        wanted = "POST" if path in PATHS or path == "/v1/feedback" else "GET"
        if path not in PATHS and path not in ("/v1/feedback", "/rollout/status", "/rollout/history"):
            raise ApiError(404, f"there is no {path} here", code="not_found")
        if method != wanted:
            raise ApiError(405, f"{path} takes {wanted}", code="method_not_allowed")
        if path == "/v1/feedback":
            return await self._feedback(wire.read(FeedbackBody, body))
        who = self._known(headers)
        if path in PATHS:
            return await self._act(PATHS[path], wire.read(ActionBody, body), who)
        if path == "/rollout/history":
            return 200, {"points": self.ledger.history.now(self.ledger.state)}
        return 200, self._status(traffic)

    def _known(self, headers: dict[str, str]) -> str | None:
        """Whose key came. ApiError 401, 403."""
        if self.keys is None:
            if not self.near:
                raise ApiError(403, "this router was started without --admin-keys", code="no_admin")
            return None
        owner = self.keys.owner(given_key(headers.get("authorization", ""), headers.get("x-api-key", "")))
        if owner is None:
            raise ApiError(401, "this needs a valid key of an administrator", code="invalid_api_key")
        return owner

    async def _act(self, action: str, body: ActionBody, owner: str | None) -> tuple[int, Any]:
        who = owner or body.who
        if who is None:
            raise ApiError(400, "say who does this", param="who")
        if who == "policy":
            raise ApiError(400, "`policy` is what the log calls the plan's own verdicts", param="who")
        try:
            done = await self.ledger.act(action, body.reason, who, body.stage, body.arm)
        except Refused as refusal:
            raise ApiError(409, str(refusal), code="not_defined") from None
        except OSError as error:
            holds = "it holds already" if action == "roll back" else "it waits until it can"
            raise ApiError(503, f"the log cannot be written ({error}): {holds}", code="not_stored") from None
        state = self.ledger.state
        return 200, {
            "out": sorted(state.out), "chosen": state.chosen,
            "status": state.status, "stage": state.stage, "share": self.ledger.share, "again": done.again,
            "verdict": done.verdict,
        }  # fmt: skip

    async def _feedback(self, body: FeedbackBody) -> tuple[int, Any]:
        try:
            fate = await self.ledger.feedback(body.event, body.edit)
        except OSError as error:
            raise ApiError(503, f"the feedback could not be stored: {error}", code="not_stored") from None
        if fate == "unknown":
            raise ApiError(404, f"there is no request {body.id}", param="id", code="unknown_request")
        if fate == "unkept":
            raise ApiError(
                409, "an edit needs the words that it mends, and they were not kept", code="not_kept"
            )
        if fate == "capped":
            raise ApiError(
                429, f"{self.ledger.plan.cap} votes of one {self.ledger.plan.unit} are taken", code="capped"
            )
        return 200, {"stored": True, "again": fate == "again"}

    def _evidence(
        self, method: str, wanted: str | None, headers: dict[str, str], query: str
    ) -> tuple[int, Any]:
        """Some callers can only POST: nothing is changed by it."""
        if method not in ("GET", "HEAD", "POST"):
            raise ApiError(405, "evidence is read with GET or POST", code="method_not_allowed")
        if not self.open_evidence:
            self._known(headers)
        asked = parse_qs(query, keep_blank_values=True)
        stages, given = len(self.ledger.plan.stages), asked.pop("stage", [""])[-1]
        if asked or (
            given and (not given.isascii() or not given.isdigit() or not 0 < int(given[:9]) <= stages)
        ):
            raise ApiError(400, f"evidence takes `stage`, from 1 to {stages}, or nothing", param="stage")
        told = evidence_of(self.ledger.state, self.ledger.split, int(given) if given else None)
        told["stuck"] = self.ledger.stuck
        return 200 if wanted in (None, told["verdict"]) else 409, told

    def _status(self, traffic: Traffic) -> dict[str, Any]:
        ledger = self.ledger
        arms = {
            name: {"url": arm.arm.url, "resting": not arm.breaker.closed, "failures": arm.breaker.failures}
            for name, arm in traffic.arms.items()
        }
        told = status_of(ledger.state, ledger.now)
        return told | {
            "share": ledger.share, "log": ledger.journal.where, "stuck": ledger.stuck, "lost": ledger.lost, "arms": arms,
            "traffic": traffic.counts | {"unjudged": ledger.judging.unasked if ledger.judging else 0},
        }  # fmt: skip

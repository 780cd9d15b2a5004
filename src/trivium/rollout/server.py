"""`trivium rollout serve`: ledger, arms and router behind uvicorn, until what is under way has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import scipy.special  # noqa: F401  seconds of loading that no router should spend in its turn at a shared log

from trivium.errors import DataError, RecipeError
from trivium.rollout.admin import Admin
from trivium.rollout.judging import Judging, Scorer
from trivium.rollout.ledger import Ledger
from trivium.rollout.plan import RolloutPlan
from trivium.rollout.router import Router
from trivium.rollout.texts import Texts
from trivium.rollout.upstream import Upstream, fence
from trivium.serve.keys import Keys
from trivium.serve.process import configured, loopback, own_names, run, shown, until_drained


@dataclass(frozen=True)
class Options:
    """How a router is run. `keys`: files of digests, as `trivium serve` has them."""

    host: str = "127.0.0.1"
    port: int = 8100
    keys: Path | None = None
    admin_keys: Path | None = None
    open_evidence: bool = False
    """Evidence may be read without an administrator's key."""
    texts: Path | None = None
    """Where words and replies are kept, of users who consent."""
    drain: float = 30.0
    """Seconds for replies under way after SIGTERM."""


def serve(
    plan: RolloutPlan,
    log: str,
    candidate: dict[str, Any],
    force: bool,
    options: Options,
    scorer: Callable[[], Scorer] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. `candidate`: what the log knows it by; `force`: without passed gates; `scorer`: opens the
    plan's judge, in another process.

    RecipeError for a plan without arms, or a judge that cannot be opened; DataError for an address that others reach while an
    arm's key would answer everybody; ArtifactError for another rollout's log.
    """
    check(plan, options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # A reply that breaks off at the arm breaks off here, on purpose; the log says so already.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing" not in record.getMessage()
    )
    texts = None if options.texts is None else Texts(options.texts)
    judging = None if scorer is None else Judging(scorer, plan.judged, aside=True)
    run(_serve(Ledger(log, plan, aside=True, texts=texts, judging=judging), candidate, force, options))


async def _serve(ledger: Ledger, candidate: dict[str, Any], force: bool, options: Options) -> None:
    async with client() as session:
        router = build(ledger, session, options)
        ledger.open(candidate, force)
        try:
            await ledger.start()
            url = shown(options.host, options.port)
            state = ledger.state
            print(
                f"{ledger.plan.name} on {url}: {state.status}, stage {state.stage + 1}, {ledger.share:.0%} of the units",
                flush=True,
            )
            await until_drained(
                configured(router, options.host, options.port, lifespan="off"), router, options.drain
            )
        finally:
            await ledger.stop()


def client() -> aiohttp.ClientSession:
    """What asks the arms: as many connections as there are requests, bytes as they are, no cookies, and none that was rolled back
    while the connection was made."""
    traced = aiohttp.TraceConfig()
    traced.on_request_headers_sent.append(fence)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[traced],
    )


def build(ledger: Ledger, session: aiohttp.ClientSession, options: Options) -> Router:
    arms = ledger.plan.arms
    assert arms is not None
    near = loopback(options.host)
    upstreams = {name: Upstream(name, arm, session) for name, arm in arms.items()}
    admin_keys = None if options.admin_keys is None else Keys(options.admin_keys)
    admin = Admin(ledger, admin_keys, near, options.open_evidence)
    keys = None if options.keys is None else Keys(options.keys)
    return Router(ledger, upstreams, admin, keys, own_names(options.host) if near else None)


def check(plan: RolloutPlan, options: Options) -> None:
    """Whether the plan can be served at all; errors as of `serve`."""
    if plan.arms is None:
        fix = "add `arms: {stable: {url: ...}, candidate: {url: ...}}`"
        raise RecipeError("the plan does not say who answers", where="arms", fix=fix)
    if not loopback(options.host) and options.keys is None and any(arm.key for arm in plan.arms.values()):
        raise DataError(
            f"{options.host} can be reached by others, who would be answered with the arms' own key",
            fix="add --keys FILE (`trivium serve --new-key NAME --keys FILE` makes one), or serve on 127.0.0.1",
        )

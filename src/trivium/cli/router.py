"""`trivium rollout serve`, and what a person does with a rollout under way. Nothing heavy is imported."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from trivium.cli import rollout
from trivium.cli.options import SignedBy, Withdrawn, check_signed, check_withdrawn
from trivium.cli.rollout import Plan
from trivium.errors import DataError, RecipeError, TriviumError

app = rollout.app

Reason = Annotated[str, typer.Option(help="Why; it stands in the log.", show_default=False)]
Who = Annotated[
    str | None, typer.Option(help="Who does it; your login name if not given. A key says it better.")
]
Url = Annotated[str, typer.Option(help="Where the router is.")]
ArmName = Annotated[
    str | None,
    typer.Option("--arm", metavar="NAME", help="Which of several candidates; rollback without it is of all."),
]
Key = Annotated[
    str | None,
    typer.Option(metavar="VARIABLE", help="Environment variable that holds an administrator's key."),
]
Keys = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Digests of clients' keys: who has none is refused.")
]
AdminKeys = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The same of those who may promote, hold and roll back.")
]
Texts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Keep words and replies of users who consent, for `trivium feedback export`."
    ),
]
HERE = "http://127.0.0.1:8100"


@app.command()
def serve(
    plan: Plan,
    log: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The log, gone on with: SQLite, lines if .jsonl, or postgresql://USER@HOST/NAME.",
        ),
    ] = "rollout.db",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8100,
    keys: Keys = None,
    admin_keys: AdminKeys = None,
    texts: Texts = None,
    open_evidence: Annotated[
        bool,
        typer.Option("--open-evidence", help="Let /rollout/evidence be read without an administrator's key."),
    ] = False,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for replies under way after SIGTERM.")
    ] = 30.0,
    without_gates: Annotated[
        bool,
        typer.Option(
            "--without-gates", help="Take a candidate whose gates nobody has seen; the log keeps that."
        ),
    ] = False,
    withdrawn: Withdrawn = "refuse",
    signed_by: SignedBy = None,
) -> None:
    """Put a router in front of two servers: it moves traffic to the candidate, step by step, and back where it does harm.

    Examples:

      trivium rollout serve plan.yaml

      trivium rollout serve plan.yaml --log rollout.db --host 0.0.0.0 --keys keys.txt --admin-keys admins.txt
    """
    from trivium.pipeline.rollouts import note, scorer
    from trivium.rollout.plan import load_plan

    try:
        from trivium.rollout import server
    except ModuleNotFoundError as error:
        raise TriviumError(f"the router needs {error.name}", fix="pip install 'trivium[rollout]'") from None
    loaded = load_plan(plan)
    options = server.Options(host, port, keys, admin_keys, open_evidence, texts, drain)
    candidate = candidate_of(loaded, plan.parent, without_gates, withdrawn, signed_by)
    for arm in (loaded.arms or {}).values():
        if arm.artifact is not None:
            note(plan.parent / arm.artifact, log)
    rollout.show_power(loaded, {})
    server.serve(loaded, log, candidate, without_gates, options, scorer(loaded.judge, plan.parent))


def candidate_of(
    plan: Any, folder: Path, without_gates: bool, withdrawn: str = "refuse", signed_by: Path | None = None
) -> dict[str, Any]:
    """What the log knows the candidate by; of several, each by its name. GateError where its gates have not passed, or nobody has
    seen them, unless allowed; ArtifactError where it stands on data that was withdrawn, unless `withdrawn` is "allow", and where
    it has not all the signatures that are asked for: by a key of `signed_by`, and by one of the plan's own."""
    if plan.arms is None:
        return {}
    known = {
        name: _known(name, plan.arms[name], folder, without_gates, withdrawn, signed_by)
        for name in plan.candidates
    }
    return known if len(known) > 1 else known[plan.candidates[0]]


def _known(
    name: str, arm: Any, folder: Path, without_gates: bool, withdrawn: str, signed_by: Path | None
) -> dict[str, Any]:
    from trivium.errors import GateError
    from trivium.pipeline.released import check_release

    known = {"url": arm.url, "model": arm.model}
    asked = [keys for keys in (signed_by, arm.signed_by and folder / arm.signed_by) if keys is not None]
    if asked and arm.artifact is None:
        raise RecipeError(
            "a signature is asked for, and the plan names nothing that could be signed",
            where=f"arms.{name}",
            fix="name the candidate's release as `artifact`",
        )
    for keys in asked:
        check_signed(folder / arm.artifact, keys)
    if arm.artifact is not None:
        check_withdrawn(folder / arm.artifact, withdrawn)
        try:
            return known | check_release(folder / arm.artifact)
        except GateError:
            if not without_gates:
                raise
    elif not without_gates:
        raise GateError(
            "nobody has seen the candidate's gates",
            where=f"arms.{name}",
            fix="name its release as `artifact`, or say --without-gates: the log keeps that",
        )
    return known


def _action(name: str, does: str, one: bool = False) -> None:
    """A command; `one`: it can be about one of several candidates."""

    def of_one(
        reason: Reason, who: Who = None, url: Url = HERE, key: Key = None, arm: ArmName = None
    ) -> None:
        act(name, reason, who, url, key, arm)

    def of_all(reason: Reason, who: Who = None, url: Url = HERE, key: Key = None) -> None:
        act(name, reason, who, url, key)

    command = of_one if one else of_all
    command.__doc__ = f"{does}\n\nExample:\n\n  trivium rollout {name} --reason 'checked by hand'"
    app.command(name)(command)


_action(
    "promote",
    "Move on to the next stage, or to all of the traffic after the last one, without waiting for proof.",
    one=True,
)
_action(
    "hold",
    "Stay in this stage until somebody promotes, resumes or rolls back; harm still rolls back by itself.",
)
_action("rollback", "Take all traffic from the candidate, at once.", one=True)
_action("resume", "Go on with a held stage; its times begin anew.")


@app.command()
def status(url: Url = HERE, key: Key = None) -> None:
    """Stage, share, evidence and verdicts of a rollout under way, as JSON.

    Example:

      trivium rollout status
    """
    print(json.dumps(_call(f"{url}/rollout/status", None, key), indent=2))


def act(name: str, reason: str, who: str | None, url: str, key: str | None, arm: str | None = None) -> None:
    """Does it once, whatever is sent twice: the stage that was seen goes with it."""
    before = _call(f"{url}/rollout/status", None, key)
    body = {"reason": reason, "who": who or getpass.getuser(), "stage": before["stage"]}
    body |= {} if arm is None else {"arm": arm}
    after = _call(f"{url}/rollout/{name}", body, key)
    again = " (as it was before)" if after["again"] else ""
    print(f"{after['status']}, stage {after['stage'] + 1}, {after['share']:.0%} of the units{again}")


def _call(url: str, body: dict[str, Any] | None, key: str | None) -> Any:
    import httpx

    from trivium.generate.connect import checked, headers, reason

    method = "GET" if body is None else "POST"
    try:
        answer = httpx.request(method, checked(url), json=body, headers=headers(key, url), timeout=30)
        if answer.is_success:
            return answer.json()
    except (httpx.RequestError, ValueError) as error:
        raise DataError(f"no router answers: {error}", where=url, fix="check --url") from None
    raise DataError(f"the router answers {answer.status_code}: {reason(answer.content)}", where=url)

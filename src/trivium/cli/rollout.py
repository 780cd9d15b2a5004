"""`trivium rollout`: what a plan can see, what it would have decided, and what a log's verdicts follow from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from trivium.rollout.plan import RolloutPlan
    from trivium.rollout.traffic import Recorded, Traffic

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Canaries and their verdicts.")

Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="A rollout plan (YAML).", show_default=False)]
Rates = Annotated[
    list[str] | None,
    typer.Option(
        "--rate", metavar="METRIC=RATE", help="How often an event happens on stable. Repeat for more."
    ),
]


@app.command()
def power(plan: Plan, rate: Rates = None) -> None:
    """What the plan can see: units until harm is caught and until a good candidate is proven, stage by stage.

    Example:

      trivium rollout power examples/rollout.yaml --rate error=0.01
    """
    from trivium.rollout.plan import load_plan

    show_power(load_plan(plan), _pairs(rate))


@app.command()
def simulate(
    plan: Plan,
    rate: Rates = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            metavar="[NAME:]METRIC=RATE",
            help="A candidate's, where it differs; over --traffic, how many replies turn bad. Repeat for more.",
        ),
    ] = None,
    slower: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]TIMES", help="How many times as long a candidate takes. Repeat for more."
        ),
    ] = None,
    failing: Annotated[
        float, typer.Option(help="Share of the users, in either arm, who fail on every request.")
    ] = 0.0,
    traffic: Annotated[
        str | None,
        typer.Option(
            metavar="LOG",
            help="Play what stable answered in a router's log instead of made-up requests.",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests of one run.")] = 20_000,
    users: Annotated[int, typer.Option(help="Users who send them.")] = 5_000,
    per_second: Annotated[float, typer.Option(help="Requests a second, for a plan's times.")] = 10.0,
    runs: Annotated[int, typer.Option(help="Simulated rollouts.")] = 20,
) -> None:
    """Play traffic through the plan: how often it promotes, rolls back or waits, and how many users meet a candidate.

    Examples:

      trivium rollout simulate examples/rollout.yaml                             an equal candidate

      trivium rollout simulate examples/rollout.yaml --candidate error=0.03      a worse one

      trivium rollout simulate plan.yaml --traffic rollout.db --slower 1.2       yesterday's requests, answered more slowly
    """
    planted = Planted(rate, candidate, slower, failing)
    size = (requests, users, per_second)
    _simulate(plan, planted, traffic, size, runs)


@app.command()
def replay(
    log: Annotated[
        str,
        typer.Argument(
            metavar="LOG", help="The log of a rollout: a file, or a database's address.", show_default=False
        ),
    ],
) -> None:
    """Work out a log's verdicts again from its events alone. Exit code 4 where they differ.

    Example:

      trivium rollout replay rollout.db
    """
    from rich.console import Console

    from trivium.rollout.journal import events
    from trivium.rollout.simulate import replay as again

    console, count = Console(highlight=False), 0
    for event, decision in again(events(log)):
        count += 1
        who = "as the policy decides again" if decision else f"by {event['by']}"
        console.print(
            f"{event['t']:>10.1f} s  stage {event['stage'] + 1}  {event['action']}: {event['reason']} ({who})"
        )
    console.print(f"{count} verdicts")


@app.command()
def manifest(
    plan: Plan,
    kind: Annotated[
        str, typer.Option("--for", metavar="TOOL", help="`argo`, `flagger` or `kserve`.", show_default=False)
    ],
    router: Annotated[
        str, typer.Option(metavar="URL", help="The router's address in the cluster.", show_default=False)
    ],
    image: Annotated[
        str | None, typer.Option(help="What the candidate's pods run (argo, kserve).", show_default=False)
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(help="A gateway of the Gateway API that shall lead to the router.", show_default=False),
    ] = None,
    namespace: Annotated[str, typer.Option()] = "default",
    interval: Annotated[int, typer.Option(min=1, help="Seconds between two looks at the evidence.")] = 10,
) -> None:
    """Write what Argo Rollouts, Flagger or KServe need to follow the router's verdicts: it moves requests, they move pods.

    Example:

      trivium rollout manifest plan.yaml --for argo --router http://chat-router:8100 --image registry/chat:2
    """
    import yaml

    from trivium.rollout.manifest import Place, manifests
    from trivium.rollout.plan import load_plan

    made = manifests(load_plan(plan), kind, Place(router, namespace, image, interval, gateway))
    print(yaml.safe_dump_all(made, sort_keys=False, width=120), end="")


class Planted(NamedTuple):
    """What the command line says of the arms."""

    rate: list[str] | None
    candidate: list[str] | None
    slower: list[str] | None
    failing: float


def _named(values: list[str] | None, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Values by the candidate that they name; those that name none are of all of them."""
    from trivium.errors import RecipeError

    found: dict[str, list[str]] = {name: [] for name in names}
    for value in values or ():
        name, colon, rest = value.rpartition(":")
        if colon and name not in found:
            raise RecipeError(f"{value!r} is of no candidate", fix=f"the plan has {', '.join(names)}")
        for each in (name,) if colon else names:
            found[each].append(rest)
    return found


def _pairs(values: list[str] | None) -> dict[str, float]:
    from trivium.errors import RecipeError
    from trivium.rollout.plan import EVENTS, SHARES

    pairs = {}
    for value in values or ():
        name, _, number = value.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError:
            pairs[name] = -1.0
        if name not in (*EVENTS, *SHARES) or not 0 <= pairs[name] <= 1:
            raise RecipeError(
                f"{value!r} is no rate of an event",
                fix=f"write METRIC=RATE from 0 to 1; metrics: {', '.join((*EVENTS, *SHARES))}",
            )
    return pairs


def _times(values: list[str]) -> float:
    from trivium.errors import RecipeError

    try:
        times = float(values[-1]) if values else 1.0
    except ValueError:
        times = 0.0
    if not 0 < times < 1e6:
        raise RecipeError(f"{values[-1]!r} is no number of times", where="--slower", fix="--slower 1.2")
    return times


def show_power(plan: RolloutPlan, rates: dict[str, float]) -> None:
    """The table of what a plan can see."""
    from rich.console import Console
    from rich.table import Table

    from trivium.rollout.power import needs

    table = Table(title=f"{plan.name}: {plan.unit}s needed", title_justify="left")
    headings = (
        "stage",
        "share",
        "guardrail",
        "twice as bad",
        "three times",
        "equal: proven",
        "least harm",
    )
    for heading in headings:
        named = heading == "guardrail"
        table.add_column(heading, justify="left" if named else "right", no_wrap=named)
    several = len(plan.candidates) > 1
    for need in needs(plan, rates):
        units = [need.twice, need.thrice, need.proof]
        event = plan.guardrails[need.guardrail].is_event
        least = "–" if math.isinf(need.least) else f"× {need.least:.3g}" if event else f"{need.least:+.2g}"
        table.add_row(
            str(need.stage + 1),
            f"{need.share:.0%}",
            f"{need.candidate}: {need.guardrail}" if several else need.guardrail,
            *("–" if number is None else f"{number:,.0f}" for number in units),
            least,
        )
    Console(highlight=False).print(table)
    Console(highlight=False).print(
        "Expected numbers, of all arms together, until a candidate twice (three times) as bad is caught, and until an equal one "
        "is proven; half of all runs need more. Least harm: what `min_units` of a candidate are "
        "expected to show (× stable's rate, or a difference of means). A rare tail (2% of replies four times slower) at a share "
        "of 5% is beyond any test here within 2,000 replies of the candidate."
    )


def _simulate(path: Path, planted: Planted, log: str | None, size: tuple[int, int, float], runs: int) -> None:
    from rich.console import Console

    from trivium.rollout.plan import load_plan
    from trivium.rollout.simulate import simulate as play

    plan = load_plan(path)
    source = _made_up(plan, planted, size) if log is None else _recorded(plan, planted, log)
    ends = [play(plan, replace(source, seed=seed)) for seed in range(runs)]
    several = len(plan.candidates) > 1
    for (status, chosen), count in Counter((end.status, end.chosen) for end in ends).most_common():
        some = [end for end in ends if (end.status, end.chosen) == (status, chosen)]
        middle = sorted(end.requests for end in some)[len(some) // 2]
        exposed = sorted(end.exposed_users for end in some)[len(some) // 2]
        what = f"{status} {chosen}" if several and chosen else status
        met = "met a candidate" if several else "met the candidate"
        Console(highlight=False).print(
            f"{what}: {count} of {runs}; median {middle:,} requests, {exposed:,} {plan.unit}s {met}"
        )
        Console(highlight=False).print(f"  such as: {some[0].reason}")
    for name in plan.candidates if several else ():
        out = sum(name in end.out for end in ends)
        Console(highlight=False).print(f"{name}: rolled back in {out} of {runs}")


def _made_up(plan: RolloutPlan, planted: Planted, size: tuple[int, int, float]) -> Traffic:
    from trivium.rollout.log import LATER
    from trivium.rollout.plan import EVENTS
    from trivium.rollout.traffic import Behaviour, Traffic

    watched = {guardrail.metric for guardrail in plan.guardrails.values()} - {*LATER}
    usual = {metric: 0.0 for metric in EVENTS if metric in watched and metric != "slow"} | _pairs(
        planted.rate
    )

    def behaviour(rates: dict[str, float], times: float) -> Behaviour:
        score = rates.pop("score", 0.8)
        return Behaviour(rates, (math.log(times), 1.0), planted.failing, score)

    worse, slower = _named(planted.candidate, plan.candidates), _named(planted.slower, plan.candidates)
    others = {n: behaviour(usual | _pairs(worse[n]), _times(slower[n])) for n in plan.candidates}
    return Traffic(*size, behaviour(dict(usual), 1.0), others)


def _recorded(plan: RolloutPlan, planted: Planted, log: str) -> Recorded:
    from trivium.errors import RecipeError
    from trivium.rollout.journal import events
    from trivium.rollout.traffic import Harm, Recorded, recorded

    if planted.rate or planted.failing:
        raise RecipeError(
            "recorded traffic has its own rates", where="--traffic", fix="leave out --rate and --failing"
        )
    worse, slower = _named(planted.candidate, plan.candidates), _named(planted.slower, plan.candidates)
    harms = {n: Harm(_pairs(worse[n]), _times(slower[n])) for n in plan.candidates}
    return Recorded(recorded(events(log), log), harms)

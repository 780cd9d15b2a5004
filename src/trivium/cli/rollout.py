"""`trivium rollout`: what a plan can see, what it would have decided, and what a log's verdicts follow from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from trivium.cli import commands

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
    raise typer.Exit(commands.guarded(lambda: _power(plan, rate)))


@app.command()
def simulate(
    plan: Plan,
    rate: Rates = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate", metavar="METRIC=RATE", help="The candidate's, where it differs. Repeat for more."
        ),
    ] = None,
    slower: Annotated[float, typer.Option(help="How many times as long the candidate takes.")] = 1.0,
    failing: Annotated[
        float, typer.Option(help="Share of the users, in either arm, who fail on every request.")
    ] = 0.0,
    requests: Annotated[int, typer.Option(help="Requests of one run.")] = 20_000,
    users: Annotated[int, typer.Option(help="Users who send them.")] = 5_000,
    per_second: Annotated[float, typer.Option(help="Requests a second, for a plan's times.")] = 10.0,
    runs: Annotated[int, typer.Option(help="Simulated rollouts.")] = 20,
) -> None:
    """Play made-up traffic through the plan: how often it promotes, rolls back or waits, and how many users meet the candidate.

    Examples:

      trivium rollout simulate examples/rollout.yaml                             an equal candidate

      trivium rollout simulate examples/rollout.yaml --candidate error=0.03      a worse one
    """
    behaviours = (rate, candidate, slower, failing)
    raise typer.Exit(commands.guarded(lambda: _simulate(plan, behaviours, requests, users, per_second, runs)))


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
    raise typer.Exit(commands.guarded(lambda: _replay(log)))


def _pairs(values: list[str] | None) -> dict[str, float]:
    from trivium.errors import RecipeError
    from trivium.rollout.plan import EVENTS

    pairs = {}
    for value in values or ():
        name, _, number = value.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError:
            pairs[name] = -1.0
        if name not in (*EVENTS, "score") or not 0 <= pairs[name] <= 1:
            raise RecipeError(
                f"{value!r} is no rate of an event",
                fix=f"write METRIC=RATE from 0 to 1; metrics: {', '.join(EVENTS)}, score",
            )
    return pairs


def _power(path: Path, rate: list[str] | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from trivium.rollout.plan import load_plan
    from trivium.rollout.power import needs

    plan = load_plan(path)
    table = Table(title=f"{plan.name}: {plan.unit}s until ...", title_justify="left")
    for heading in (
        "stage",
        "share",
        "guardrail",
        "twice as bad is caught",
        "three times",
        "an equal one is proven",
    ):
        table.add_column(heading, justify="left" if heading == "guardrail" else "right")
    for need in needs(plan, _pairs(rate)):
        units = [need.twice, need.thrice, need.proof]
        table.add_row(
            str(need.stage + 1),
            f"{need.share:.0%}",
            need.guardrail,
            *("–" if number is None else f"{number:,.0f}" for number in units),
        )
    Console(highlight=False).print(table)
    Console(highlight=False).print(
        "Expected numbers, of both arms together; half of all runs need more. A rare tail (2% of replies four times slower) at a "
        "share of 5% is beyond any test here within 2,000 replies of the candidate."
    )


def _simulate(
    path: Path,
    behaviours: tuple[list[str] | None, list[str] | None, float, float],
    requests: int,
    users: int,
    per_second: float,
    runs: int,
) -> None:
    import math

    from rich.console import Console

    from trivium.rollout.plan import EVENTS, load_plan
    from trivium.rollout.simulate import Behaviour, Traffic
    from trivium.rollout.simulate import simulate as play

    plan = load_plan(path)
    rate, candidate, slower, failing = behaviours
    watched = {guardrail.metric for guardrail in plan.guardrails.values()}
    usual = {metric: 0.0 for metric in EVENTS if metric in watched and metric != "slow"} | _pairs(rate)
    worse = usual | _pairs(candidate)
    scores = usual.pop("score", 0.8), worse.pop("score", 0.8)
    stable = Behaviour(usual, (0.0, 1.0), failing, scores[0])
    other = Behaviour(worse, (math.log(slower), 1.0), failing, scores[1])
    ends = [play(plan, Traffic(requests, users, per_second, stable, other, seed)) for seed in range(runs)]
    for status, count in Counter(end.status for end in ends).most_common():
        some = [end for end in ends if end.status == status]
        middle = sorted(end.requests for end in some)[len(some) // 2]
        exposed = sorted(end.exposed_users for end in some)[len(some) // 2]
        Console(highlight=False).print(
            f"{status}: {count} of {runs}; median {middle:,} requests, {exposed:,} users met the candidate"
        )
        Console(highlight=False).print(f"  such as: {some[0].reason}")


def _replay(place: str) -> None:
    from rich.console import Console

    from trivium.rollout.journal import events
    from trivium.rollout.simulate import replay as again

    count = 0
    for event, decision in again(events(place)):
        count += 1
        who = "as the policy decides again" if decision else f"by {event['by']}"
        Console(highlight=False).print(
            f"{event['t']:>10.1f} s  stage {event['stage'] + 1}  {event['action']}: {event['reason']} ({who})",
            highlight=False,
        )
    Console(highlight=False).print(f"{count} verdicts")

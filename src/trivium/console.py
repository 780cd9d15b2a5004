"""Progress on a terminal: the events of a run as lines, or as one live line while a stage trains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from trivium.recipe.units import show_count
from trivium.types import Event


def duration(seconds: float) -> str:
    """75 -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def moment(seconds: float | None) -> str:
    """Local date and time to the minute."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def step_line(event: Mapping[str, Any]) -> str:
    """One training step: what is known of it, in a fixed order."""
    step, steps = event.get("step"), event.get("steps")
    parts = [f"step {step}/{steps}" if steps else f"step {step}"]
    shown = {
        "loss": "loss {:.4f}",
        "lr": "lr {:.2e}",
        "grad_norm": "grad {:.2f}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "{:.0%} of peak",
    }
    parts += [form.format(event[key]) for key, form in shown.items() if event.get(key) is not None]
    if event.get("memory"):
        parts.append(f"{event['memory'] / 1e9:.2f} GB")
    if event.get("eta_s") is not None:
        parts.append(f"{duration(event['eta_s'])} left")
    return "  ".join(parts)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of `values` as at most `width` bars, each the mean of a run of them; nothing for fewer than two."""
    if len(values) < 2:
        return ""
    width = min(width, len(values))
    cuts = [index * len(values) // width for index in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    return "".join(BARS[int((mean - low) / ((high - low) or 1.0) * (len(BARS) - 1))] for mean in means)


BARS = "▁▂▃▄▅▆▇█"


class Progress:
    """Takes events (call it with one) and prints them; use it as a context manager around a run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live: Live | None = None
        self.tokens_per_step: float | None = None
        self.losses: list[float] = []
        self.written: list[Text] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._still()

    def __call__(self, event: Event, /) -> None:
        stage = escape(str(event.get("stage", "")))
        match event["event"]:
            case "run_start":
                self._say(f"[bold]{escape(event['recipe'])}[/]: {len(event['stages'])} stages")
            case "cached":
                self._say(f"[dim]= {stage} ({event['kind']}) is up to date[/]")
            case "waiting":
                self._say(f"[yellow]… {stage} is being made by another process; waiting for it[/]")
            case "stage_start":
                self._start(stage, event)
            case "step":
                self._step(stage, event)
            case "stage_end":
                self._say(f"[green]✓[/] [bold]{stage}[/] in {duration(event['seconds'])}{_numbers(event)}")
            case "stage_failed":
                self._say(f"[red]✗[/] [bold]{stage}[/] stopped{_next(event)}")
            case "run_end":
                ran, cached = len(event["ran"]), len(event["cached"])
                said = (
                    f"{ran} stages run, {cached} up to date"
                    if ran
                    else f"nothing to do: all {cached} up to date"
                )
                self._say(f"{said}; {duration(event['seconds'])}")
            case other:
                self._within(other, event)

    def _within(self, name: str, event: Event) -> None:
        """What a stage says while it runs; an event that is not known here stays in events.jsonl."""
        match name:
            case "phase":
                self.tokens_per_step = event.get("tokens_per_step")
                self._say(
                    f"  [dim]{show_count(event['steps'])} steps{_numbers({'metrics': event}, 'steps', 'flops_per_step')}[/]"
                )
            case "source":
                said = f"{event['kind']}: {event['items']:,} items, {event['heldout']:,} held out"
                self._say(f"  {said}{escape(_files(event.get('files')))}")
            case "suite":
                self._say(f"  [dim]{escape(event['model'])}: {event['suite']}[/]")
            case "samples":
                self._samples(str(event.get("stage", "")), event)
            case "resume":
                self._say(f"  going on at step {event['step']}/{event['steps']}")
            case "guard":
                self._say(f"  [yellow]step {event['step']}: {escape(event['reason'])}: {_refused(event)}[/]")
            case "message":
                self._say(f"  [dim]{escape(str(event['message']))}[/]")
            case "warning":
                self._say(f"  [yellow]{escape(str(event['message']))}[/]")

    def _start(self, stage: str, event: Event) -> None:
        self.tokens_per_step, self.losses, self.written = None, [], []
        why = "going on where it stopped" if event.get("resumes") else "; ".join(event.get("reasons", []))
        self._say(
            f"[cyan]→[/] [bold]{stage}[/] ({event['kind']})" + (f" [dim]{escape(why)}[/]" if why else "")
        )

    def _step(self, stage: str, event: Event) -> None:
        if self.tokens_per_step and event.get("seconds_per_step"):
            event = {"tokens_per_second": self.tokens_per_step / event["seconds_per_step"], **event}
        line = step_line(event)
        if not self.console.is_terminal:
            self.console.print(f"  {stage} {escape(line)}", soft_wrap=True)
            return
        if self.live is None:
            self.live = Live(console=self.console, transient=True, auto_refresh=False)
            self.live.start()
        if math.isfinite(event.get("loss", math.nan)):
            self.losses.append(event["loss"])
        first = Text(f"  {stage}  {line}  {sparkline(self.losses)}")
        self.live.update(Group(first, *self.written), refresh=True)

    def _samples(self, stage: str, event: Event) -> None:
        """What the model wrote: under the live line until it writes again, or as lines where nothing is live."""
        said = [(one["prompt"], one["text"]) for one in event["samples"]]
        shown = [
            Text.assemble((f"    {_short(asked)} ", "bold"), (_short(text), "dim")) for asked, text in said
        ]
        if self.console.is_terminal:
            self.written = [Text(f"    written at step {event['step']}:", "dim"), *shown]
            return
        for line in shown:
            self.console.print(Text(f"  {stage} step {event['step']}"), line, soft_wrap=True)

    def _say(self, markup: str) -> None:
        self._still()
        self.console.print(markup, soft_wrap=True)

    def _still(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def _files(files: Mapping[str, Any] | None) -> str:
    """What files of a source were passed over, and why."""
    if not files or not files["passed_over"]:
        return ""
    why = ", ".join(f"{reason} {count:,}" for reason, count in files["passed_over"].items())
    return f"; {files['read']:,} of {files['found']:,} files read, passed over: {why}"


def _next(event: Mapping[str, Any]) -> str:
    """How to go on after a stage that failed, and where to look; nothing for an event that does not say where."""
    if not event.get("log"):
        return ""
    kept = event.get("kept")
    how = (
        f"goes on from what is kept in {kept}"
        if kept
        else "begins this stage anew, and keeps those that are done"
    )
    return f"\n  [dim]{escape(f'the same command again {how}; what happened: ' + event['log'])}[/]"


def _short(text: str, limit: int = 160) -> str:
    """`text` as one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _refused(event: Event) -> str:
    match event["action"]:
        case "skip":
            return "the batch is left out"
        case "rewind":
            return f"back to {event['back_to']}"
    return "the run stops"


def _numbers(event: Mapping[str, Any], *known: str) -> str:
    """The first few plain numbers among a stage's metrics, without those said already."""
    shown = []
    for key, value in event.get("metrics", {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("seconds", *known):
            shown.append(f"{key} {show_count(value) if isinstance(value, int) else f'{value:.4g}'}")
    return f"  [dim]{escape(', '.join(shown[:5]))}[/]" if shown else ""

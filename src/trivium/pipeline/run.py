"""Walks a recipe's stages: what is stored is re-used, the rest is run, and each says why."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trivium.errors import Interrupted, Preempted, TriviumError
from trivium.files import append_line
from trivium.pipeline import going_on, withdrawals
from trivium.pipeline.checks import check_measurable, check_overlap, check_precision
from trivium.pipeline.contract import Artifact, Context, Registry
from trivium.pipeline.fingerprint import Identity, differences, fingerprint, identify, stage_seed
from trivium.pipeline.gone import bring
from trivium.pipeline.graph import Graph, build, execution_order
from trivium.pipeline.objects import redacted
from trivium.pipeline.record import disk_full, full, previous
from trivium.pipeline.store import Store
from trivium.pipeline.track import Tracking
from trivium.recipe.data import DataStage, TokenizerStage
from trivium.recipe.models import Recipe
from trivium.recipe.synthesis import SynthesizeStage
from trivium.types import Emit, Event


@dataclass(frozen=True)
class StageStatus:
    """What running a stage now would do."""

    name: str
    kind: str
    fingerprint: str
    cached: bool
    reasons: list[str]
    """Why it would run (empty when cached): `never run`, or what changed since it last ran."""
    resumes: bool = False
    """An earlier try was cut short and its work is kept."""


@dataclass(frozen=True)
class _Plan:
    recipe: Recipe
    graph: Graph
    order: tuple[str, ...]
    identities: dict[str, Identity]
    prints: dict[str, str]
    links: Path  # runs/RECIPE

    @classmethod
    def make(
        cls,
        recipe: Recipe,
        registry: Registry,
        recipe_folder: Path,
        runs_folder: Path,
        only: Sequence[str] | None,
    ) -> _Plan:
        graph = build(recipe)
        order = execution_order(recipe, graph, only)
        identities = identify(recipe, graph, registry, recipe_folder, order)
        prints = {name: fingerprint(identity) for name, identity in identities.items()}
        return cls(recipe, graph, order, identities, prints, runs_folder / recipe.name)

    def reasons(self, name: str) -> list[str]:
        """Why a stage that is not stored has to run."""
        before = previous(self.links / name)
        if before is None:
            return ["never run"]
        changed = differences(before.record["identity"], self.identities[name], self.graph.roles[name])
        return changed or ["its artifact is no longer in the store"]


def status(
    recipe: Recipe,
    *,
    store: Store,
    registry: Registry,
    recipe_folder: Path,
    runs_folder: Path = Path("runs"),
    only: Sequence[str] | None = None,
) -> list[StageStatus]:
    """What `run` with the same arguments would do, stage by stage. Writes nothing, checks no data."""
    plan = _Plan.make(recipe, registry, recipe_folder, runs_folder, only)
    result = []
    for name in plan.order:
        kind, print_, cached = recipe.stages[name].kind, plan.prints[name], store.has(plan.prints[name])
        reasons = [] if cached else plan.reasons(name)
        result.append(StageStatus(name, kind, print_, cached, reasons, not cached and store.resumes(print_)))
    return result


def run(
    recipe: Recipe,
    *,
    store: Store,
    registry: Registry,
    recipe_folder: Path,
    runs_folder: Path = Path("runs"),
    emit: Emit,
    only: Sequence[str] | None = None,
) -> dict[str, Artifact]:
    """Makes the artifacts of a recipe's stages (`only` these and what they need), re-using what is stored.

    Returns stage -> artifact; `runs_folder/RECIPE/STAGE` links to each, and `events.jsonl` beside them says
    what happened. Events: run_start, cached, waiting, stage_start, whatever a stage emits, stage_end or
    stage_failed, run_end. Raises what a stage raises; Interrupted on Ctrl-C, Preempted on SIGTERM; DataError if an
    evaluation overlaps the training data.
    """
    started = time.monotonic()
    plan = _Plan.make(recipe, registry, recipe_folder, runs_folder, only)
    check_precision(recipe, [name for name in plan.order if not store.has(plan.prints[name])])
    tell = _Log(plan.links / "events.jsonl", emit)
    tracking = Tracking(recipe.name, recipe.track, plan.links, tell)
    tracking.check()
    tell.listeners.append(tracking)
    graph = {
        name: {
            "kind": recipe.stages[name].kind,
            "inputs": list(plan.graph.inputs(name)),
            "config": recipe.stages[name].model_dump(mode="json", exclude_unset=True),
        }
        for name in plan.order
    }
    tell({"event": "run_start", "recipe": recipe.name, "stages": list(plan.order), "graph": graph})
    store.tell = lambda message: tell({"event": "message", "message": message})
    bring(plan.identities.values(), store)
    walk = _Walk(plan, store, registry, recipe_folder, tell, artifacts={}, ran=[])
    name = next(iter(plan.order), "")
    try:
        with _sigterm_raises():
            for name in plan.order:
                walk.visit(name)
    except KeyboardInterrupt as stop:
        tell({"event": "stage_failed", "stage": name, "error": "interrupted"})
        kind, by = (Preempted, "SIGTERM") if isinstance(stop, _Terminated) else (Interrupted, "the user")
        raise kind(
            f"stopped by {by} in stage {name!r}; everything done so far is kept",
            where=f"recipe {recipe.name}",
            fix="run the same command again to go on: finished stages are re-used, this one resumes",
        ) from None
    cached = [name for name in plan.order if name not in walk.ran]
    tell({"event": "run_end", "seconds": time.monotonic() - started, "ran": walk.ran, "cached": cached})
    return walk.artifacts


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which goes up as a Ctrl-C does: past all that catches Exception, through all that tidies up."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """The first SIGTERM raises, the second takes its usual effect. A training loop finishes its step instead, with a handler
    of its own; one that the caller has set is left alone."""
    owner = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a fork that is to end
            os.kill(os.getpid(), number)
        raise _Terminated

    try:
        ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if ours:
            signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are somebody else's business
        ours = False
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@dataclass
class _Walk:
    plan: _Plan
    store: Store
    registry: Registry
    recipe_folder: Path
    tell: Emit
    artifacts: dict[str, Artifact]
    ran: list[str]
    checked: bool = False
    stopping: Interrupted | None = None
    """Of a stage that was asked to stop when it was done: raised once its artifact is kept."""

    def visit(self, name: str) -> None:
        """Leaves the stage's artifact in `artifacts` and its link in place."""
        print_, config = self.plan.prints[name], self.plan.recipe.stages[name]
        about = {"stage": name, "kind": config.kind, "fingerprint": print_}
        artifact = self.store.get(print_)

        def waiting() -> None:
            self.tell({"event": "waiting", **about})

        if artifact is None:
            if not self.checked and not isinstance(config, DataStage | TokenizerStage):
                check_overlap(self.plan.recipe, self.artifacts)
                check_measurable(self.plan.recipe, self.artifacts)
                self.checked = True
            with self.store.lock(print_, waiting):
                artifact = self.store.get(print_)  # another process may have made it while this one waited
                if artifact is None:
                    artifact = self._make(name, about)
                artifact = self._keep(name, artifact, waiting)
        else:
            artifact = self._keep(name, artifact, waiting)
        if name not in self.ran:
            self.tell({"event": "cached", **about})
        if isinstance(config, SynthesizeStage):  # what a teacher wrote is there only now
            self.checked = False
        if self.stopping is not None:
            raise self.stopping

    def _keep(self, name: str, artifact: Artifact, waiting: Callable[[], None]) -> Artifact:
        """Links to an artifact, then shares it: what is linked is not deleted, so a push that is killed can go on."""
        self.store.link(artifact, self.plan.links / name)
        try:
            self.artifacts[name] = artifact = self.store.share(artifact, waiting)
        except TriviumError as error:
            self.tell({"event": "stage_failed", "stage": name, "error": str(error)})
            raise
        return artifact

    def _make(self, name: str, about: Event) -> Artifact:
        print_, resumes = self.plan.prints[name], self.store.resumes(self.plan.prints[name])
        self.tell({"event": "stage_start", **about, "reasons": self.plan.reasons(name), "resumes": resumes})
        started = time.monotonic()
        try:
            with self.store.building(print_) as (out, work):
                context = self._context(name, out, work)
                if not resumes:
                    before = previous(self.plan.links / name)
                    identity = self.plan.identities[name]
                    going_on.prepare(
                        before, identity, context.config, self.store.last_states, work, context.emit
                    )
                metrics = self._run_stage(context) | going_on.note(work)
                seconds = time.monotonic() - started
                artifact = self.store.put(out, self._record(name, metrics, seconds))
        except Exception as error:
            kept = self.store.work(print_) if self.store.resumes(print_) else None
            places = {"log": str(self.plan.links / "events.jsonl"), "kept": kept and str(kept)}
            self.tell(
                {"event": "stage_failed", **about, "error": str(error) or type(error).__name__, **places}
            )
            raise
        self.ran.append(name)
        self.tell({"event": "stage_end", **about, "seconds": seconds, "metrics": artifact.metrics})
        self.stopping = context.stopping
        return artifact

    def _context(self, name: str, out: Path, work: Path) -> Context:
        recipe, inputs = self.plan.recipe, self.plan.graph.inputs(name)
        return Context(
            name=name,
            config=recipe.stages[name],
            recipe=recipe,
            inputs={parent: self.artifacts[parent] for parent in inputs},
            out=out,
            work=work,
            seed=stage_seed(recipe, name),
            emit=lambda event: self.tell({**event, "stage": name}),
            recipe_folder=self.recipe_folder,
            identity=self.plan.identities[name],
            withdrawn=withdrawals.held(self.plan.identities[name]),
        )

    def _run_stage(self, context: Context) -> dict[str, Any]:
        try:
            return self.registry[context.config.kind].run(context)
        except TriviumError as error:
            error.where = error.where or f"stage {context.name} of recipe {context.recipe.name}"
            raise
        except Exception as error:
            if disk_full(error):
                raise full(f"stage {context.name}, store {self.store.root}") from error
            raise

    def _record(self, name: str, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
        plan, inputs = self.plan, self.plan.graph.inputs(name)
        return {
            "kind": plan.recipe.stages[name].kind,
            "stage": name,
            "recipe": plan.recipe.name,
            "fingerprint": plan.prints[name],
            "identity": plan.identities[name],
            "inputs": {parent: plan.prints[parent] for parent in inputs},
            "metrics": metrics,
            "environment": environment(),
            "created": _now(),
            "seconds": round(seconds, 3),
        }


class _Log:
    """Stamps events with the time, appends them to a file, one JSON object per line, and passes them on. What others say in them
    (a server's answer, say) is told without secrets.

    A full disk does not end a run: the listeners are told once, and once there is room again the file says how many it lacks.
    """

    def __init__(self, path: Path, *listeners: Callable[[Event], None]) -> None:
        self.path, self.listeners = path, [*listeners]
        self.missing = 0

    def __call__(self, event: Event, /) -> None:
        told: Event = {name: redacted(str(event[name])) for name in ("error", "message") if name in event}
        stamped = {"time": _now(), **event, **told}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.missing:
                self._append(_gap(f"{self.missing} events before this one could not be written"))
            self.missing = 0
            self._append(stamped)
        except OSError as error:
            if not self.missing:
                said = f"{self.path} cannot be written: {error.strerror}; the run goes on without it"
                self._pass_on(_gap(said))
            self.missing += 1
        self._pass_on(stamped)

    def _append(self, event: Event) -> None:
        append_line(self.path, json.dumps(event, ensure_ascii=False))

    def _pass_on(self, event: Event) -> None:
        for listen in self.listeners:
            listen(event)


def _gap(message: str) -> Event:
    return {"time": _now(), "event": "warning", "message": message}


def environment() -> dict[str, str]:
    """What made an artifact: versions and the kind of system, nothing that names a machine or a person."""
    about = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "trivium": _version("trivium"),
    }
    if "torch" in sys.modules:  # a stage that did not use it does not depend on it
        about["torch"] = _version("torch")
    return about


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

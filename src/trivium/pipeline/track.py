"""Copies the numbers of training to the trackers that people look at. `events.jsonl` has them all, whatever is named here.

So a tracker that cannot be opened or written to (its server is away, its disk is full) is told of, and ends no training.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from trivium.errors import RecipeError
from trivium.types import Emit, Event

Values = dict[str, float]


class Tracker(Protocol):
    """One stage's curves somewhere. `log` takes the numbers of one step."""

    def log(self, step: int, values: Values) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files under `runs/RECIPE/tensorboard/STAGE`: `tensorboard --logdir runs`. No torch needed."""

    def __init__(self, recipe: str, stage: str, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.record, self.summary = Record, Summary
        self.writer = EventFileWriter(str(folder / "tensorboard" / stage))

    def log(self, step: int, values: Values) -> None:
        shown = [self.summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_event(
            self.record(wall_time=time.time(), step=step, summary=self.summary(value=shown))
        )

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the project named like the recipe; WANDB_MODE and the rest of its environment count as usual."""

    def __init__(self, recipe: str, stage: str, folder: Path) -> None:
        import wandb

        self.run = wandb.init(project=recipe, name=stage, dir=str(folder), reinit="create_new")

    def log(self, step: int, values: Values) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """A run of the experiment named like the recipe, where MLFLOW_TRACKING_URI says; without it, in ./mlflow.db."""

    def __init__(self, recipe: str, stage: str, folder: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        for name in ("mlflow", "alembic"):  # they tell of tables that they make, in the middle of a live view
            logging.getLogger(name).setLevel(logging.WARNING)
        self.client, self.metric = MlflowClient(), Metric
        known = self.client.get_experiment_by_name(recipe)
        experiment = known.experiment_id if known else self.client.create_experiment(recipe)
        self.id = self.client.create_run(experiment, run_name=stage).info.run_id

    def log(self, step: int, values: Values) -> None:
        now = int(time.time() * 1000)
        metrics = [self.metric(self._named(name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.id, metrics)

    @staticmethod
    def _named(name: str) -> str:
        """`validation/loss.web`: where MLflow keeps files, no metric may be the folder of another."""
        group, slash, metric = name.replace(":", ".").partition("/")
        return group + slash + metric.replace("/", ".")

    def close(self) -> None:
        self.client.set_terminated(self.id)


class Trackio:
    """A run of the project named like the recipe, in TRACKIO_DIR or wherever else trackio's environment says."""

    def __init__(self, recipe: str, stage: str, folder: Path) -> None:
        import trackio

        self.run: Any
        with redirect_stdout(io.StringIO()):  # it greets, in the middle of a live view
            self.run = trackio.init(recipe, name=stage, embed=False, auto_log_gpu=False, auto_log_cpu=False)

    def log(self, step: int, values: Values) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self.run.finish()


TRACKERS: dict[str, Callable[[str, str, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}
PACKAGES = {"mlflow": "mlflow-skinny alembic sqlalchemy"}
"""What to install, where it is called otherwise; MLflow keeps its runs in a database if not told otherwise."""


class Tracking:
    """Takes the events of a run and logs those with numbers of a step. Each stage that trains gets its own tracker of each kind.

    `names` None means TensorBoard where it is installed. A named tracker that is not installed is a RecipeError; one that fails
    is a warning, by `tell`, and is left out until the next stage begins.
    """

    def __init__(self, recipe: str, names: Sequence[str] | None, folder: Path, tell: Emit) -> None:
        self.recipe, self.folder, self.tell = recipe, folder, tell
        self.names, self.optional = (("tensorboard",), True) if names is None else (tuple(names), False)
        self.stage: str | None = None
        self.open: dict[str, Tracker] = {}

    def check(self) -> None:
        """RecipeError for a named tracker that is not installed: before anything runs."""
        for name in () if self.optional else self.names:
            if importlib.util.find_spec(name) is None:
                raise missing(name)

    def __call__(self, event: Event, /) -> None:
        name, step = event["event"], event.get("step")
        if name in ("stage_end", "stage_failed", "run_end"):
            self.close()
        if name not in ("step", "validation") or step is None:
            return
        if self.stage != event["stage"]:
            self._start(event["stage"])
        values = _numbers(event, "validation/" if name == "validation" else "")
        for tracker in [*self.open]:
            with self._told_of(tracker):
                self.open[tracker].log(step, values)

    def _start(self, stage: str) -> None:
        self.close()
        self.stage = stage
        for name in self.names:
            if self.optional and importlib.util.find_spec(name) is None:
                continue
            with self._told_of(name), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what others deprecate is not the user's business
                self.open[name] = TRACKERS[name](self.recipe, stage, self.folder)

    def close(self) -> None:
        for name in [*self.open]:
            with self._told_of(name):
                self.open[name].close()
        self.open, self.stage = {}, None

    @contextmanager
    def _told_of(self, name: str) -> Iterator[None]:
        """What a tracker raises, as a warning: whatever it is, as training goes on without it."""
        try:
            yield
        except Exception as error:
            self.open.pop(name, None)
            said = next(iter(str(error).splitlines()), "") or type(error).__name__
            message = (
                f"{name} failed and is left out of stage {self.stage}: {said}; events.jsonl has the curves"
            )
            self.tell({"event": "warning", "stage": self.stage, "message": message})


def missing(name: str) -> RecipeError:
    return RecipeError(
        f"`track: [{name}]` needs a package that is not installed",
        fix=f"pip install {PACKAGES.get(name, name)}, or leave it out of `track`",
    )


def _numbers(event: Event, prefix: str) -> Values:
    held: dict[str, Any] = {name: value for name, value in event.items() if name not in ("step", "steps")}
    plain = {n: v for n, v in held.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    for source, parts in held.get("sources", {}).items():  # the held-out loss of each source
        plain |= {f"{name}/{source}": value for name, value in parts.items() if name != "weight"}
    return {prefix + name: float(value) for name, value in plain.items()}

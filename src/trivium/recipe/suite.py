"""What every suite of a recipe has: its metrics, and where what it asks comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from trivium.recipe.base import Name, Strict, only
from trivium.recipe.units import Count


class Metric(NamedTuple):
    """A figure made from the rows of one judge.

    `form`: how. share: hits among what was asked. mean: of the rows' scores. ratio: their scores' sum over their weights' sum.
    wins: share of items with a higher score than the baseline's row of the same item, a tie one half. gains: share of items
    whose score is above the baseline's.
    """

    name: str
    label: str
    judge: str
    form: Literal["share", "mean", "ratio", "wins", "gains"] = "share"
    better: int = 1  # +1 more is better, -1 less is better, 0 neither
    category: str | None = (
        None  # only rows of this category, or of one below it: `harmful` has `harmful/base64`
    )
    show: Literal["percent", "number", "nats"] = "percent"
    bounds: tuple[float, float] | None = (0.0, 1.0)  # between which every score lies; None: no bounds

    def counts(self, category: str) -> bool:
        """Whether it is about rows of this category."""
        return self.category is None or f"{category}/".startswith(f"{self.category}/")

    @property
    def paired(self) -> bool:
        """Whether it compares with the baseline's rows, so that the baseline itself has none."""
        return self.form in ("wins", "gains")


def percent(value: float) -> str:
    return f"{value:.1%}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


_SHOW: dict[str, Callable[[float], str]] = {
    "percent": percent, "number": "{:.1f}".format, "nats": "{:.3f}".format,
    "file_bytes": megabytes, "tokens_per_second": "{:,.0f}".format,
}  # fmt: skip


def shown(metric: Metric, value: float | None) -> str:
    """A figure as the tables print it."""
    return "–" if value is None else _SHOW.get(metric.name, _SHOW[metric.show])(value)


class Needed(NamedTuple):
    """What at least one held-out item must have for a suite to measure anything."""

    what: str
    """In words, for the message: `meta.harmful: true`."""
    fits: Callable[[Mapping[str, Any]], bool]
    """Of an item's `meta`."""


class SuiteBase(Strict):
    """One thing that is measured."""

    kind: str
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What suites of this kind can measure."""
    writes: ClassVar[bool] = True
    """Whether the model writes replies."""
    reads_per_item: ClassVar[int] = 1
    """Rows that the model reads for an item: what an evaluation costs."""
    asks_baseline: ClassVar[bool] = False
    """Whether `ask` is given the baseline's model beside the one that is measured."""
    reads_files: ClassVar[bool] = False
    """Whether it depends on more than the recipe and the stages: it is then asked for what, before any stage runs."""
    needs: ClassVar[tuple[Needed, ...]] = ()
    """What held-out items must have, each met by at least one of them."""
    formats: ClassVar[tuple[str, ...]] = ()
    """Formats of data stages that it can measure on."""
    references: ClassVar[tuple[str, ...]] = ()
    """As in StageBase: fields that hold the name of another stage."""
    name: Name | None = None
    """What the suite is called where a stage has two of a kind: its metrics are then NAME.METRIC."""
    items: Annotated[Count, Field(gt=0)] = 100
    """Items to measure on, at most."""
    max_new_tokens: Annotated[int, Field(gt=0)] = only(96, {"writes": "set"})
    """Length limit of a generated reply."""

    @classmethod
    def implementation(cls) -> Any:
        """How it asks and judges: a `trivium.evaluate.asked.SuiteKind`. Given by the models of plug-ins."""
        raise NotImplementedError

    @property
    def outside(self) -> bool:
        """Whether its rows hang on more than the recipe and its stages: on files, or on what a judge of the recipe is made of."""
        return self.reads_files or bool(getattr(self, "judges", ()) or getattr(self, "judge", None))

    @property
    def reads(self) -> int:
        """Rows that the model reads for a request."""
        return self.reads_per_item

    @property
    def asked(self) -> int:
        """Requests for each of `items`."""
        return 1

    @property
    def measured(self) -> tuple[Metric, ...]:
        """What this one measures."""
        return self.metrics

    @property
    def title(self) -> str:
        return self.name or self.kind

    def named(self, metric: Metric) -> str:
        """What gates and tables call a metric of this suite."""
        return metric.name if self.name is None else f"{self.name}.{metric.name}"


class DataSuite(SuiteBase):
    """Measured on the held-out split of a data stage."""

    references: ClassVar[tuple[str, ...]] = ("data",)
    data: Name
    """The data stage whose held-out items are asked."""
    contaminated: Literal["refuse", "report"] = "refuse"
    """What to do with items that training documents share words with (a data stage with `on_overlap: flag`): refuse to
    measure, or measure, say how many there are, and let the gates on this suite's metrics fail."""


class FileSuite(SuiteBase):
    """Measured on a file of the user, whose content is part of what the stage's artifact is known by."""

    reads_files: ClassVar[bool] = True
    path: Annotated[str, Field(min_length=1)]
    """The file, from the recipe's folder."""

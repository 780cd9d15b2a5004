"""Traps about evaluation and release: gates that measure nothing and releases that nothing has tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trivium.errors import RecipeError
from trivium.recipe.data import DataStage
from trivium.recipe.deployment import ExportStage, ReleaseStage
from trivium.recipe.evaluation import EvaluateStage
from trivium.recipe.lines import listed
from trivium.recipe.look import Look
from trivium.recipe.memorisation import Canaries
from trivium.recipe.names import meant
from trivium.recipe.references import references
from trivium.recipe.suites import ALWAYS_MEASURED, SUITES, Pairwise, metrics_of

Found = Iterator[RecipeError]


def no_suites(look: Look) -> Found:
    for name, stage in look.each(EvaluateStage):
        if not stage.suites:
            yield look.error(
                "this evaluate stage has no suites, so it measures nothing",
                name,
                "suites",
                fix=f"write `suites: [{{kind: bits_per_byte, data: ...}}]`; kinds: {listed(SUITES)}",
            )


def gate_on_nothing(look: Look) -> Found:
    """A gate on a metric that no suite of the stage measures would pass or fail by accident."""
    for name, stage in look.each(EvaluateStage):
        measured = [*metrics_of(stage.suites), *ALWAYS_MEASURED]
        owner = {metric.name: kind for kind, suite in SUITES.items() for metric in suite.metrics}
        for metric in stage.gates:
            if metric in measured:
                continue
            if metric in owner:
                required = [n for n, f in SUITES[owner[metric]].model_fields.items() if f.is_required()]
                more = "".join(f", {field}: ..." for field in required if field != "kind")
                fix = f"add the suite that measures it: `{{kind: {owner[metric]}{more}}}`"
            else:
                fix = f"{meant(metric, [*owner, *ALWAYS_MEASURED])}measured in this stage: {listed(measured)}"
            yield look.error(f"no suite of this stage measures `{metric}`", name, "gates", metric, fix=fix)


def gate_that_cannot_pass(look: Look) -> Found:
    for name, stage in look.each(EvaluateStage):
        for metric, gate in stage.gates.items():
            if gate.min is not None and gate.max is not None and gate.min > gate.max:
                yield look.error(
                    f"no value is at least {gate.min:g} and at most {gate.max:g}",
                    name,
                    "gates",
                    metric,
                    fix="exchange `min` and `max`",
                )


def gate_of_no_side(look: Look) -> Found:
    """`no_worse_than_baseline` on a metric that has no better side, or none of the baseline's own."""
    for name, stage in look.each(EvaluateStage):
        known = {m: metric for m, (_, metric) in metrics_of(stage.suites).items()} | ALWAYS_MEASURED
        for metric, gate in stage.gates.items():
            if gate.no_worse_than_baseline is None or metric not in known:
                continue
            why = ""
            if known[metric].paired:
                why = "compares with the baseline itself"
            elif metric in ALWAYS_MEASURED:
                why = "has no items to compare one by one"
            elif known[metric].better == 0:
                why = "has no better side"
            if why:
                yield look.error(
                    f"`{metric}` {why}, so it cannot be `no_worse_than_baseline`",
                    name,
                    "gates",
                    metric,
                    fix="write `min` or `max`",
                )


def two_of_a_name(look: Look) -> Found:
    """Two suites whose metrics have the same names: one would hide the other."""
    for name, stage in look.each(EvaluateStage):
        seen: set[str] = set()
        for index, suite in enumerate(stage.suites):
            if suite.title in seen:
                yield look.error(
                    f"two suites of this stage are called `{suite.title}`, so their metrics would be, too",
                    name,
                    "suites",
                    index,
                    fix=f"give one a `name`; its metrics are then NAME.{suite.measured[0].name} and so on",
                )
            seen.add(suite.title)


def the_same_twice(look: Look) -> Found:
    """Two suites that differ in nothing but their names: one figure would stand twice."""
    for name, stage in look.each(EvaluateStage):
        for index, suite in enumerate(stage.suites):
            same = suite.model_dump(exclude={"name"})
            twin = next(
                (one for one in stage.suites[:index] if one.model_dump(exclude={"name"}) == same), None
            )
            if twin is not None and twin.title != suite.title:
                yield look.error(
                    f"`{suite.title}` asks what `{twin.title}` asks, in the same way, so each figure would stand twice",
                    name,
                    "suites",
                    index,
                    fix="leave one out, or ask the other in another way",
                )


def one_of_many_files(look: Look) -> Found:
    for name, stage in look.each(EvaluateStage):
        for place, target in references(stage):
            exported = look.get(target, ExportStage)
            if exported and len(set(exported.types)) > 1:
                yield look.error(
                    f"`{target}` writes {len(set(exported.types))} files, and one model is asked",
                    name,
                    *place,
                    fix=f"give {listed(exported.types)} a stage each",
                )


def no_canaries(look: Look) -> Found:
    for name, stage in look.each(EvaluateStage):
        for index, suite in enumerate(stage.suites):
            if not isinstance(suite, Canaries):
                continue
            data = look.get(suite.data, DataStage)
            if data and data.canaries is None:
                yield look.error(
                    f"suite {suite.title} looks for secrets that were planted, and `{suite.data}` plants none",
                    name,
                    "suites",
                    index,
                    "data",
                    fix=f"write `canaries: {{count: 8}}` in stage `{suite.data}`, and train on it",
                )


def comparison_without_baseline(look: Look) -> Found:
    for name, stage in look.each(EvaluateStage):
        compared = [
            f"a {suite.kind} suite"
            for suite in stage.suites
            if isinstance(suite, Pairwise) or any(m.paired for m in suite.measured)
        ]
        compared += [
            f"the gate on `{m}`" for m, g in stage.gates.items() if g.no_worse_than_baseline is not None
        ]
        if compared and (stage.baseline is None or stage.baseline == stage.model):
            said = "has no `baseline`" if stage.baseline is None else "is its own `baseline`"
            yield look.error(
                f"{compared[0]} measures the gain over another checkpoint, and this stage {said}",
                name,
                "baseline",
                fix="write `baseline: NAME` with the checkpoint that alignment started from (the sft stage)",
            )


def release_without_requires(look: Look) -> Found:
    for name, stage in look.each(ReleaseStage):
        if not stage.requires:
            tests = [n for n, s in look.each(EvaluateStage) if s.model == stage.model]
            yield look.error(
                "this release requires no evaluation",
                name,
                "requires",
                fix="write `requires: [NAME]` with an evaluate stage that tests "
                f"`{stage.model}` against gates; here: {listed(tests)}",
            )


def release_of_untested_model(look: Look) -> Found:
    for name, stage in look.each(ReleaseStage):
        tests = [found for required in stage.requires if (found := look.get(required, EvaluateStage))]
        if tests and all(test.model != stage.model for test in tests):
            tested = sorted({test.model for test in tests})
            yield look.error(
                f"no required stage tested the released model `{stage.model}` (tested: {listed(tested)})",
                name,
                "requires",
                fix=f"add an evaluate stage with `model: {stage.model}` and name it here; weights change "
                "in every stage, and gates hold only for the weights they were measured on",
            )


def release_without_gates(look: Look) -> Found:
    for name, stage in look.each(ReleaseStage):
        tests = [found for required in stage.requires if (found := look.get(required, EvaluateStage))]
        if (
            tests
            and not any(test.gates for test in tests if test.model == stage.model)
            and any(test.model == stage.model for test in tests)
        ):
            yield look.error(
                f"the required tests of `{stage.model}` have no gates, so nothing could stop a bad release",
                name,
                "requires",
                fix="give the evaluate stage `gates`, such as `{refusal_rate: {min: 0.9}}`",
            )


TRAPS: tuple[Callable[[Look], Found], ...] = (
    no_suites,
    gate_on_nothing,
    gate_that_cannot_pass,
    two_of_a_name,
    the_same_twice,
    one_of_many_files,
    no_canaries,
    comparison_without_baseline,
    gate_of_no_side,
    release_without_requires,
    release_of_untested_model,
    release_without_gates,
)

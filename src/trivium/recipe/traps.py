"""The traps that people fall into, found before any compute is spent: one function per trap, listed in TRAPS.

A trap yields a RecipeError for every place where the mistake is made. Those about data, numbers and
evaluation stand in `traps_*.py`; these here are about how stages hang together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trivium.errors import RecipeError
from trivium.recipe import (
    traps_data,
    traps_effect,
    traps_evaluation,
    traps_parallel,
    traps_secrets,
    traps_training,
)
from trivium.recipe.alignment import DistillStage, GrpoStage, PpoStage, PreferenceStage
from trivium.recipe.lines import Lines, listed, nearest, together
from trivium.recipe.look import Look
from trivium.recipe.models import CHECKPOINTS, Recipe
from trivium.recipe.references import references, wanted
from trivium.recipe.training import Aligned, PretrainStage

Found = Iterator[RecipeError]


def unknown_reference(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, target in references(stage):
            if target not in look.recipe.stages:
                fitting = [n for n, s in look.recipe.stages.items() if s.kind in wanted(stage.kind, place)]
                yield look.error(
                    f"there is no stage `{target}`",
                    name,
                    *place,
                    fix=f"{nearest(target, look.recipe.stages)}stages that fit here: {listed(fitting)}",
                )


def self_reference(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, target in references(stage):
            if target == name:
                yield look.error(
                    f"stage `{name}` refers to itself",
                    name,
                    *place,
                    fix="name the stage that comes before it",
                )


def wrong_kind_of_stage(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        for place, target in references(stage):
            other = look.recipe.stages.get(target)
            if other is None or target == name or other.kind in (kinds := wanted(stage.kind, place)):
                continue
            fitting = [n for n, s in look.recipe.stages.items() if s.kind in kinds and n != name]
            if other.kind == "quantize" and kinds == CHECKPOINTS:
                said = f"`{target}` is quantized, and quantized weights cannot be trained on, quantized again or exported"
            else:
                said = f"`{target}` is a {other.kind} stage, and this field needs {_a(kinds)}"
            yield look.error(said, name, *place, fix=f"name one of: {listed(fitting)}")


def _a(kinds: frozenset[str]) -> str:
    if "pretrain" in kinds:
        return "a checkpoint (" + listed(sorted(kinds)) + ")"
    return "a stage of kind " + " or ".join(sorted(kinds, reverse=True))


def cycle(look: Look) -> Found:
    """Each circle is reported once, with its path."""
    edges = {
        name: {target: place for place, target in reversed(references(stage)) if target in look.recipe.stages}
        for name, stage in look.recipe.stages.items()
    }
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Found:
        for target, place in edges[name].items():
            if target in path:
                circle = path[path.index(target) :]
                if len(circle) > 1:
                    yield look.error(
                        "the stages go round in a circle: " + " -> ".join([*circle, target]),
                        name,
                        *place,
                        fix="a stage can only use what is made before it; change one of these references",
                    )
            elif target not in done:
                yield from walk(target, [*path, target])
        done.add(name)

    for name in edges:
        if name not in done:
            yield from walk(name, [name])


def alignment_without_init(look: Look) -> Found:
    for name, stage in look.each(Aligned):
        if stage.init is None:
            before = [n for n, s in look.recipe.stages.items() if s.kind in CHECKPOINTS and n != name]
            yield look.error(
                f"this {stage.kind} stage has no `init`",
                name,
                "init",
                fix="fine-tuning and alignment start from the weights of the phase before; write "
                f"`init: NAME` with one of: {listed(before)}",
            )


def alignment_on_base(look: Look) -> Found:
    for name, stage in look.each(PreferenceStage):
        if not stage.allow_base and look.get(stage.init, PretrainStage):
            yield look.error(
                f"this {stage.kind} stage starts straight from the pre-trained base `{stage.init}`",
                name,
                "init",
                fix="a base does not answer yet, so there is little to prefer: put an sft stage in between; "
                "or use kind orpo, which needs none; or write `allow_base: true` if you mean it",
            )


def ppo_without_reward_model(look: Look) -> Found:
    for name, stage in look.each(PpoStage):
        if stage.reward_model is None and stage.reward is None:
            yield look.error(
                "this ppo stage has no `reward_model`",
                name,
                "reward_model",
                fix="ppo maximises the score of a reward model: name a stage of kind reward; "
                "without one, use dpo, which learns from the pairs directly",
            )


def grpo_without_reward(look: Look) -> Found:
    for name, stage in look.each(GrpoStage):
        if stage.reward_model is None and stage.reward is None:
            yield look.error(
                "this grpo stage has nothing that scores replies",
                name,
                fix="write `reward: reasoning` for a verifier, or `reward_model: NAME` with a stage of kind reward",
            )


def groups_do_not_divide(look: Look) -> Found:
    for name, stage in look.each(GrpoStage):
        if stage.batch % stage.group:
            yield look.error(
                f"a batch of {stage.batch} replies does not divide into groups of {stage.group}",
                name,
                "group",
                fix=f"make `batch` a multiple of {stage.group}",
            )


def student_differs(look: Look) -> Found:
    for name, stage in look.each(DistillStage):
        teacher, student = look.base(stage.teacher), look.base(stage.init)
        if stage.match == "text" or not (teacher and student):
            continue
        if teacher[1].tokenizer != student[1].tokenizer:
            yield look.error(
                f"the teacher `{stage.teacher}` and the student `{stage.init}` have different tokenizers",
                name,
                "teacher",
                fix="distil between models that were trained with the same tokenizer, or write `match: text`",
            )


def tokenizer_differs(look: Look) -> Found:
    for name, stage in look.each(Aligned):
        base = look.base(stage.init)
        if base and stage.tokenizer is not None and stage.tokenizer != base[1].tokenizer:
            yield look.error(
                f"the tokenizer `{stage.tokenizer}` is not the one that `{stage.init}` was trained with "
                f"(`{base[1].tokenizer}`)",
                name,
                "tokenizer",
                fix="the ids would mean other words to the model: remove `tokenizer`, it comes with `init`",
            )


def tokenizer_not_imported(look: Look) -> Found:
    for name, stage in look.recipe.stages.items():
        if not isinstance(stage, PretrainStage | Aligned):
            continue
        root = look.imported(stage.init)
        if root is not None and stage.tokenizer not in (None, root):
            yield look.error(
                f"the tokenizer `{stage.tokenizer}` is not the one that came with `{root}`",
                name,
                "tokenizer",
                fix=f"the ids would mean other words to the model: write `tokenizer: {root}`",
            )


def pretrain_init_differs(look: Look) -> Found:
    for name, stage in look.each(PretrainStage):
        base = look.base(stage.init)
        if base is None or base[0] == name:
            continue
        if stage.tokenizer != base[1].tokenizer:
            yield look.error(
                f"`{stage.init}` was trained with the tokenizer `{base[1].tokenizer}`, not this one",
                name,
                "tokenizer",
                fix=f"write `tokenizer: {base[1].tokenizer}`, or train from scratch without `init`",
            )
        ours, theirs = stage.model.model_dump(), base[1].model.model_dump()
        different = [
            f"{field} {theirs[field]} there, {ours[field]} here"
            for field in ours
            if ours[field] != theirs[field]
        ]
        if different:
            yield look.error(
                f"the model differs from the one of `{stage.init}`: {'; '.join(different)}",
                name,
                "model",
                fix=f"repeat the `model` of `{base[0]}`, or train from scratch without `init`",
            )


TRAPS: tuple[Callable[[Look], Found], ...] = (
    unknown_reference,
    self_reference,
    wrong_kind_of_stage,
    cycle,
    alignment_without_init,
    alignment_on_base,
    ppo_without_reward_model,
    grpo_without_reward,
    groups_do_not_divide,
    student_differs,
    tokenizer_differs,
    tokenizer_not_imported,
    pretrain_init_differs,
    *traps_effect.TRAPS,
    *traps_data.TRAPS,
    *traps_training.TRAPS,
    *traps_parallel.TRAPS,
    *traps_evaluation.TRAPS,
    *traps_secrets.TRAPS,
)


def check(recipe: Recipe, lines: Lines | None = None) -> None:
    """Raises one RecipeError with every trap that the recipe falls into; `lines` says where its keys stand.

    That a kind is not built yet is said only of a recipe that is right otherwise.
    """
    look = Look(recipe, lines or Lines())
    errors = [error for trap in TRAPS for error in trap(look)]
    if errors:
        raise together(errors, look.lines.file)

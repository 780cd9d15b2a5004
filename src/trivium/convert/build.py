"""A configuration of another project -> a recipe, and for each of its fields where it went or why it did not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trivium.convert.data import sources
from trivium.convert.dialects import DIALECTS, EMPTY, dialect_of
from trivium.convert.draft import Draft, Told, fields, filled, take
from trivium.convert.train import train_stage
from trivium.errors import RecipeError
from trivium.recipe import reader
from trivium.recipe.load import loads
from trivium.recipe.models import STAGES

FORMATS = {"pretrain": "documents", "kto": "feedback"} | dict.fromkeys(
    ("dpo", "orpo", "simpo", "reward"), "preferences"
)
METHODS = {
    **{
        "pt": "pretrain",
        "sft": "sft",
        "dpo": "dpo",
        "ipo": "dpo",
        "orpo": "orpo",
        "simpo": "simpo",
        "kto": "kto",
    },
    **{"rm": "reward", "ppo": "ppo", "grpo": "grpo", "DPOLoss": "dpo", "RSOLoss": "dpo", "PPOLoss": "ppo"},
    **dict.fromkeys(("GRPOSimpleLoss", "GRPOLoss", "GRPOCompletionLoss"), "grpo"),
}


@dataclass
class Conversion:
    dialect: str
    recipe: dict[str, Any]
    told: list[Told]
    problem: str = ""
    """What still has to be mended by hand before the recipe can be run."""

    def text(self, source: str) -> str:
        """The recipe as YAML; what was not carried stands in comments."""
        lines = [f"from {source} ({self.dialect}); what it does not say has the defaults of here"]
        left = [told for told in self.told if not told.to and told.why != EMPTY]
        lines += [f"not carried: {told.field}: {told.why or 'not known here'}" for told in left]
        lines += [f"to mend: {line.strip()}" for line in self.problem.splitlines()]
        said = "".join(f"# {_printable(line)}\n" for line in lines)
        return said + yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)


def _printable(text: str) -> str:
    """On one line, so that nothing of a configuration leaves the comment that it stands in."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def convert(text: str, file: str, dialect: str | None = None) -> Conversion:
    """`text`: the YAML of the configuration. RecipeError if it is no training configuration of a project that is known."""
    raw, _ = reader.read(text, file)
    dialect = dialect or dialect_of(raw)
    if dialect is None:
        raise RecipeError(
            "this is no training configuration that is known here",
            where=file,
            fix=f"name the project with --from: {', '.join(DIALECTS)}; what starts processes, serves or exports has no recipe",
        )
    draft = Draft(dialect)
    for path, value in fields(raw):
        take(draft, path, filled(value, raw))
    kind = _method(draft, file)
    recipe = _recipe(draft, kind, file)
    made = Conversion(dialect, recipe, list(draft.told.values()))
    try:
        loads(yaml.safe_dump(recipe, sort_keys=False), file=file)
    except RecipeError as error:
        made.problem = str(error)
    return made


def _method(draft: Draft, file: str) -> str:
    """The kind of the stage that trains."""
    kind = "sft"
    for path, value in draft.part("method"):
        if path == "reward_model" and value is True:
            kind = "reward"
        elif path.startswith("pretraining_dataset"):
            kind = "pretrain"
        elif path in ("rl", "stage"):
            kind = METHODS.get(str(value), "")
            if value == "ipo":
                draft.values.setdefault("dpo_loss", (path, "ipo"))
        draft.tell(path, value, "train.kind")
        if not kind:
            raise RecipeError(
                f"there is no method `{value}` here",
                where=f"{file}: {path}",
                fix=f"methods: {', '.join(STAGES)}",
            )
    for path, value in draft.part("loss"):
        kind = METHODS.get(str(value).rsplit(".", 1)[-1], kind)
        draft.tell(path, value, "train.kind")
    if draft.part("teacher"):
        kind = "distill"
    if any(
        "completion" in str(value)
        for path, value in draft.part("data")
        if path.endswith(("type", "_component_"))
    ):
        kind = "pretrain"
    if draft.dialect == "trl" and not draft.part("method"):
        kind = next(
            (one for one in ("orpo", "kto", "simpo", "grpo", "reward", "dpo") if one in Path(file).stem), kind
        )
        if kind == "sft" and "beta" in draft.values:
            kind = "dpo"
    return kind


def _recipe(draft: Draft, kind: str, file: str) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", Path(file).stem.lower()).strip("-")
    name = name if name[:1].isalpha() else f"from-{draft.dialect}-{name}".strip("-")
    start: dict[str, Any] = {"kind": "import", "path": "MODEL"}
    for path, value in draft.part("model"):
        start["path"] = str(value)
        draft.tell(path, value, "start.path: the folder in which it lies here")
    for path, value in draft.part("lora"):
        start |= {"path": str(value), "base": start["path"]}
        draft.tell(path, value, "start.path, on top of start.base")
    data: dict[str, Any] = {"kind": "data", "format": FORMATS.get(kind, "conversations")}
    data["sources"] = sources(draft.dialect, data["format"], draft.part("data"), draft.tell)
    if "size" in draft.values:
        data["size"] = draft.values["size"][1]
    for path, value in draft.part("template"):
        draft.tell(
            path,
            value,
            why="the checkpoint's own template is taken; `start.chat_template` names a file with another",
        )
    train = train_stage(draft, kind)
    recipe: dict[str, Any] = {"name": name}
    top = {"start": start, "data": data, "train": train}
    if draft.part("teacher"):
        path, value = draft.part("teacher")[0]
        top = {
            "start": start,
            "teacher": {"kind": "import", "path": str(value)},
            "data": data,
            "train": train,
        }
        draft.tell(path, value, "teacher.path")
    for path, value in draft.part("reward"):
        draft.tell(
            path,
            value,
            why="a reward model is made by a stage `reward` of the recipe, or name a verifier in `reward`",
        )
    for meaning, holder, key in (
        ("seed", recipe, "seed"),
        ("heldout", data, "heldout"),
        ("eos", start, "eos"),
    ):
        if meaning in draft.values:
            holder[key] = draft.values[meaning][1]
    trackers = draft.values["tracker"][1] if "tracker" in draft.values else []
    for path, value in draft.part("wandb"):
        trackers = ["wandb", *(one for one in trackers if one != "wandb")]
        draft.tell(path, value, "track")
    return recipe | ({"track": trackers} if trackers else {}) | {"stages": top}

"""A configuration of another project -> a recipe, and for each of its fields where it went or why it did not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trivium.convert.data import sources
from trivium.convert.dialects import DIALECTS, EMPTY, dialect_of, meaning_of
from trivium.convert.values import MEANINGS, NotCarried
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
AXES = {
    "shard": "shard",
    "tensor": "tensor",
    "cp": "context",
    "replicas": "data",
    "pipeline": "pipeline",
    "expert": "expert",
}


class Told(NamedTuple):
    """What became of a field."""

    field: str
    value: Any
    to: str
    """Where it stands in the recipe; empty if it does not."""
    why: str
    """Why it does not; empty if nothing is known of the field."""


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


@dataclass
class _Draft:
    """What was understood so far: parts of the model, data and method by their tag, values by their meaning."""

    dialect: str
    parts: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)
    values: dict[str, tuple[str, Any]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)

    def tell(self, path: str, value: Any, to: str = "", why: str = "") -> None:
        if to or path not in self.told or not self.told[path].to:
            self.told[path] = Told(path, value, to, why)

    def part(self, tag: str) -> list[tuple[str, Any]]:
        return self.parts.get(tag, [])

    def drop(self, meaning: str, why: str) -> None:
        path, value = self.values.pop(meaning)
        self.told[path] = Told(path, value, "", why)


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
    draft = _Draft(dialect)
    for path, value in _fields(raw):
        _take(draft, path, _filled(value, raw))
    kind = _method(draft, file)
    recipe = _recipe(draft, kind, file)
    made = Conversion(dialect, recipe, list(draft.told.values()))
    try:
        loads(yaml.safe_dump(recipe, sort_keys=False), file=file)
    except RecipeError as error:
        made.problem = str(error)
    return made


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _fields(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        for inner in value:
            yield from _fields(inner, f"{path}[]")
    else:
        yield path, value


def _filled(value: Any, raw: dict[str, Any]) -> Any:
    """`${name}` in its place, as torchtune's configurations write it."""
    if isinstance(value, str):
        whole = re.fullmatch(r"\$\{(\w+)\}", value)
        if whole:
            return raw.get(whole[1], value)
        return re.sub(r"\$\{(\w+)\}", lambda found: str(raw.get(found[1], found[0])), value)
    return value


def _take(draft: _Draft, path: str, value: Any) -> None:
    meaning = meaning_of(draft.dialect, path)
    if value in (None, "", [], {}, ()) and meaning is not None:
        draft.tell(path, value, why=EMPTY)
    elif meaning is None:
        draft.tell(path, value)
    elif meaning[0] == "!":
        draft.tell(path, value, why=meaning[1:])
    elif meaning[0] == "@":
        draft.parts.setdefault(meaning[1:], []).append((path, value))
        draft.tell(path, value, why="it changes nothing here")
    else:
        if meaning == "int4_bits":
            meaning, value = ("int8" if value == 8 else "int4"), True
        to, written = MEANINGS[meaning]
        try:
            found = written(value)
        except NotCarried as reason:
            draft.tell(path, value, why=str(reason))
        else:
            if meaning not in draft.values:
                draft.values[meaning] = (path, found)
            draft.tell(path, value, to)


def _method(draft: _Draft, file: str) -> str:
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


def _recipe(draft: _Draft, kind: str, file: str) -> dict[str, Any]:
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
    train = _train(draft, kind)
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


def _train(draft: _Draft, kind: str) -> dict[str, Any]:
    stage: dict[str, Any] = {"kind": kind, "init": "start", "data": "data"}
    if kind == "distill":
        stage["teacher"] = "teacher"
    if kind == "pretrain":
        stage["tokenizer"] = "start"
    if kind == "grpo" and "beta" in draft.values and "kl" not in draft.values:
        draft.values["kl"] = draft.values.pop("beta")
    _fitting(draft, kind)
    given = {meaning: value for meaning, (_, value) in draft.values.items()}
    micro, more = given.get("micro_batch", 1), given.get("accumulation", 1)
    ranks = given.get("shard", 1) * given.get("replicas", 1)
    stage["batch"] = micro * more * ranks
    if more > 1:
        stage["micro_batch"] = micro * ranks
    if kind == "grpo" and stage["batch"] % given.get("group", 8):
        stage["batch"] *= given.get("group", 8)
    stage |= {"steps": given["steps"]} if "steps" in given else {"epochs": given.get("epochs", 1.0)}
    if {"beta1", "beta2"} & set(given):
        stage["betas"] = [given.get("beta1", 0.9), given.get("beta2", 0.999)]
    if "warmup_steps" in given:
        stage["warmup"] = round(given["warmup_steps"] / given["steps"], 6)
    if "checkpoint_steps" in given:
        stage["checkpoint_every"] = f"{given['checkpoint_steps']} steps"
    parallel = {AXES[meaning]: given[meaning] for meaning in AXES if given.get(meaning, 1) > 1}
    if parallel or "sharded" in given:
        stage["parallel"] = parallel or "auto"
    if "float8" in given:
        stage["precision"] = "float8"
    plain = [
        "lr",
        "schedule",
        "lr_end",
        "warmup",
        "context",
        "weight_decay",
        "max_grad_norm",
        "optimizer",
        "precision",
        "recompute",
        "compile",
        "log_every",
        "validate_every",
        "keep_last",
        "patience",
        "beta",
        "gamma",
        "kl",
        "label_smoothing",
        "nll",
        "desirable",
        "undesirable",
        "group",
        "updates",
        "max_new_tokens",
        "temperature",
        "top_p",
        "share",
        "gae_lambda",
    ]
    stage |= {meaning: given[meaning] for meaning in plain if meaning in given and meaning not in stage}
    renamed = {"clip": "clip_epsilon", "dpo_loss": "loss", "grpo_loss": "loss"}
    stage |= {key: given[meaning] for meaning, key in renamed.items() if meaning in given}
    if kind == "pretrain" and "context" in stage:
        stage["model"] = {"context": stage["context"]}
    adapter = _adapter(draft)
    return stage | ({"adapter": adapter} if adapter is not None else {})


def _fitting(draft: _Draft, kind: str) -> None:
    """Drops what the stage has no field for, or what would say a thing twice."""
    known = STAGES[kind].model_fields
    for meaning in list(draft.values):
        to = MEANINGS[meaning][0]
        key = to.removeprefix("train.").split(".")[0].split(":")[0]
        if to.startswith("train.") and key not in known:
            draft.drop(meaning, f"a `{kind}` stage has no `{key}`")
    if kind != "dpo" and "dpo_loss" in draft.values:
        draft.drop("dpo_loss", "`loss` is said in dpo only")
    if kind != "grpo" and "grpo_loss" in draft.values:
        draft.drop("grpo_loss", "`loss: grpo` is said in grpo only")
    if draft.values.get("dpo_loss", ("", "sigmoid"))[1] != "sigmoid" and "label_smoothing" in draft.values:
        draft.drop("label_smoothing", "labels are smoothed with `loss: sigmoid` only")
    if "steps" in draft.values and "epochs" in draft.values:
        draft.drop("epochs", "the steps are said, too, and win")
    steps = draft.values.get("steps", ("", 0))[1]
    if "warmup_steps" in draft.values and (
        "warmup" in draft.values or not draft.values["warmup_steps"][1] <= steps
    ):
        draft.drop(
            "warmup_steps",
            "`warmup` is a share of the steps, which only the data says: 0.05 unless you write another",
        )
    if "lr_end" in draft.values and draft.values.get("schedule", ("", "cosine"))[1] == "constant":
        draft.drop("lr_end", "a constant rate has no end")
    for axis, field_ in (("cp", "context"), ("pipeline", "pipeline")):
        if kind not in ("sft", "pretrain") and axis in draft.values and draft.values[axis][1] > 1:
            draft.drop(axis, f"`parallel.{field_}` is for sft and pretrain")


def _adapter(draft: _Draft) -> dict[str, Any] | None:
    wanted = bool(draft.part("lora"))
    for path, value in draft.part("adapter"):
        if value in ("lora", "qlora", True):
            wanted = True
            draft.tell(path, value, "train.adapter")
        else:
            plain = value in ("full", False)
            draft.tell(
                path,
                value,
                why="all weights are trained, as here by default"
                if plain
                else f"there is no adapter `{value}`",
            )
    for path, value in draft.part("component"):
        low = ".lora_" in str(value) or ".qlora_" in str(value)
        wanted = wanted or low
        draft.tell(
            path,
            value,
            "train.adapter" if low else "",
            "" if low else "the shape is read from the checkpoint itself",
        )
    own = [meaning for meaning in draft.values if ".adapter." in MEANINGS[meaning][0]]
    if not wanted:
        for meaning in own:
            draft.drop(meaning, "no adapter is trained")
        return None
    given = {meaning: draft.values[meaning][1] for meaning in own}
    made: dict[str, Any] = {
        key: given[key] for key in ("rank", "alpha", "dropout", "dora", "rslora") if key in given
    }
    layers = given.get("targets")
    if layers and "all_targets" not in given:
        extra = ["gate_proj", "up_proj", "down_proj"] if "mlp_targets" in given else []
        extra += ["lm_head"] if "head_target" in given else []
        made["targets"] = [*layers, *(layer for layer in extra if layer not in layers)]
    if (
        "int8" in given
        or "int4" in given
        or any(".qlora_" in str(value) for _, value in draft.part("component"))
    ):
        made["quantize"] = "int8"
    return made

"""Data sets that configurations of other projects name, as sources."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trivium.convert.values import NotCarried, column, positive

Parts = list[tuple[str, Any]]
TORCHTUNE = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "stack_exchange_paired_dataset": "lvwerra/stack-exchange-paired",
    "gsm8k_dataset": "openai/gsm8k",
    "gsm8k_sft": "openai/gsm8k",
    "hh_rlhf_helpful_dataset": "RLHFlow/HH-RLHF-Helpful-standard",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "samsum_dataset": "Samsung/samsum",
    "grammar_dataset": "liweili/c4_200m",
    "cnn_dailymail_articles_dataset": "ccdv/cnn_dailymail",
    "wikitext_dataset": "EleutherAI/wikitext_document_level",
}
"""What torchtune's builders of data sets read where no `source` is named."""
UNKNOWN = "DATA"
"""Written where a configuration names no data: to be filled in by hand."""


def sources(dialect: str, form: str, parts: Parts, tell: Callable[..., None]) -> list[dict[str, Any]]:
    """The sources, weighted alike where no weights are given."""
    rows: list[dict[str, Any]] = []
    for path, value in parts:
        last = path.rsplit(".", 1)[-1]
        if dialect == "llamafactory" and path in ("dataset", "train_dataset"):
            rows += [{"name": name.strip()} for name in str(value).split(",")]
        elif path == "eval_dataset" or path.startswith("test_datasets") or path == "dataset_dir":
            tell(path, value, why="what is held out is a share by the hash of the item: `data.heldout`")
            continue
        elif path.startswith("dataset_mixer."):
            rows.append({"name": path.removeprefix("dataset_mixer.")})
            _add(rows[-1], "weight", value)
        elif last in ("path", "id", "dataset_name", "_component_", "source") or (
            last == "data_files" and not rows
        ):
            if last == "source" and rows:
                rows[-1]["name"] = str(value)
            elif last == "_component_":
                rows.append({"name": TORCHTUNE.get(str(value).rsplit(".", 1)[-1], UNKNOWN)})
            else:
                rows.append({"name": str(value[0] if isinstance(value, list) else value)})
        elif last == "type":
            tell(
                path,
                value,
                "data.format" if "completion" in str(value) else "",
                "shapes of rows are told by their columns",
            )
            continue
        elif rows and last in (
            "split",
            "dataset_train_split",
            "name",
            "config",
            "dataset_config",
            "weight",
            "data_files",
        ):
            _add(rows[-1], last, value)
        else:
            tell(path, value, why="how rows are read follows from their columns")
            continue
        tell(path, value, "data.sources")
    made = [_source(row, dialect, form) for row in rows] or [{"kind": "jsonl", "path": UNKNOWN}]
    if len(made) > 1:
        made = [source if "weight" in source else {**source, "weight": 1.0} for source in made]
    return made


def _add(row: dict[str, Any], field: str, value: Any) -> None:
    if field.endswith("split"):
        row["split"] = str(value).split("[")[0]  # slices: `data.size`
    elif field == "data_files":
        row["name"] = str(value[0] if isinstance(value, list) else value)
    elif field == "weight":
        with suppress(NotCarried):
            row["weight"] = positive(value)
    else:
        row["config"] = str(value)


def _source(row: dict[str, Any], dialect: str, form: str) -> dict[str, Any]:
    weight = {"weight": row["weight"]} if "weight" in row else {}
    name = row["name"]
    if dialect == "llamafactory" and not column(name) and "/" not in name:
        name = f"data/{name}.json"  # an entry of its dataset_info.json, which lies there
    if column(name) or name.endswith(".yaml"):
        kind = ("parquet" if ".parquet" in name else "jsonl") if form == "documents" else "table"
        return {"kind": kind, "path": name, **weight}
    found = {"kind": "huggingface", "name": name}
    return found | {key: row[key] for key in ("config", "split") if key in row} | weight

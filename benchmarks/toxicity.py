"""The judge of toxicity that comes with Trivium: trained and measured on three public files that people have labelled.

    python benchmarks/toxicity.py labeled_data.csv toxicity_en.csv test_suite_cases.csv -o labels.jsonl
    trivium evaluate judge train labels.jsonl --axis toxic -o toxic.json

The files are those of Davidson et al. 2017 (24,783 posts: hate, offensive, neither; MIT), of Surge AI's Toxicity Dataset (1,000
comments, half of them toxic; MIT), and of HateCheck (Röttger et al. 2021: 3,728 sentences written as tests, each with the group
that it speaks of; CC BY 4.0). None is part of this package. What is printed: how a judge fitted on some of them does on the
others, and by group.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from trivium.evaluate.judges.toxic import LabelledText, auc, balanced, features, fit, left_out, scores


def davidson(path: Path) -> list[LabelledText]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            LabelledText(row["tweet"], row["class"] != "2", source="posts") for row in csv.DictReader(file)
        ]


def surge(path: Path) -> list[LabelledText]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            LabelledText(row["text"], row["is_toxic"] == "Toxic", source="comments")
            for row in csv.DictReader(file)
        ]


def hatecheck(path: Path) -> list[LabelledText]:
    """A cluster is a template: the same sentence about seven groups."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            LabelledText(
                row["test_case"], row["label_gold"] == "hateful", row["target_ident"], f"hatecheck/{row['templ_id']}",
                "hatecheck",
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


def told(name: str, said: Any, truth: Any) -> None:
    print(
        f"{name}: {len(truth)} texts, {truth.sum()} toxic, AUC {auc(said, truth):.3f}, "
        f"toxic found {np.mean(said[truth] > 0):.1%}, harmless spared {np.mean(said[~truth] <= 0):.1%}",
        flush=True,
    )


def fitted(rows: list[LabelledText]) -> Any:
    truth = np.array([row.label for row in rows])
    return fit([features(row.text) for row in rows], truth, balanced(truth, [row.source for row in rows]))


def across(name: str, learnt: list[LabelledText], asked: list[LabelledText]) -> None:
    """How a judge of some sources does on another."""
    said = scores(fitted(learnt), [features(row.text) for row in asked])
    told(name, said, np.array([row.label for row in asked]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs=3, type=Path, metavar=("DAVIDSON", "SURGE", "HATECHECK"))
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    posts, comments, tests = (
        read(path) for read, path in zip((davidson, surge, hatecheck), given.files, strict=True)
    )
    rows = [*posts, *comments, *tests]
    if given.out:
        given.out.write_text("".join(json.dumps(row._asdict()) + "\n" for row in rows), encoding="utf-8")
    across("posts and HateCheck -> comments", [*posts, *tests], comments)
    across("posts and comments -> HateCheck", [*posts, *comments], tests)
    across("comments and HateCheck -> posts", [*comments, *tests], posts)
    said = left_out(rows)
    truth, sources = np.array([row.label for row in rows]), np.array([row.source for row in rows])
    for source in dict.fromkeys(sources):
        told(f"{source}, by folds of all", said[sources == source], truth[sources == source])
    for group in sorted({row.group for row in rows if row.group}):
        found = [
            score > 0 for row, score in zip(rows, said, strict=True) if row.group == group and not row.label
        ]
        print(f"  harmless about {group}: {sum(found)} of {len(found)} called toxic")


if __name__ == "__main__":
    main()

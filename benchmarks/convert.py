"""How much of other projects' configurations `trivium convert` carries. `python benchmarks/convert.py FOLDER...`

Each FOLDER holds the YAML files of one project (a clone, or the part of it with the examples). Prints a row for each, and with
`--unknown` the fields of which nothing is known.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from trivium.convert.build import convert
from trivium.convert.dialects import EMPTY
from trivium.errors import RecipeError

COLUMNS = ("files", "other", "fields", "carried", "named", "empty", "unknown", "carried or named", "loads")


def counted(folder: Path, unknown: Counter[str]) -> list[str]:
    """The cells of a project's row. Fields that hold nothing count as neither carried nor named in the last share."""
    fates: Counter[str] = Counter()
    loads = files = other = 0
    for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            made = convert(file.read_text(encoding="utf-8"), str(file))
        except RecipeError:
            other += 1
            continue
        files += 1
        loads += not made.problem
        for told in made.told:
            fates[
                "carried" if told.to else "empty" if told.why == EMPTY else "named" if told.why else "unknown"
            ] += 1
            unknown[told.field] += not told.to and not told.why
    total = fates.total() or 1
    held = (fates["carried"] + fates["named"]) / ((total - fates["empty"]) or 1)
    shares = [f"{fates[name] / total:.1%}" for name in COLUMNS[3:7]]
    return [str(files), str(other), f"{fates.total():,}", *shares, f"{held:.1%}", str(loads)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--unknown", action="store_true")
    arguments = parser.parse_args()
    unknown: Counter[str] = Counter()
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---:|" * len(COLUMNS))
    for folder in arguments.folders:
        print(f"| {folder.name} | " + " | ".join(counted(folder, unknown)) + " |")
    if arguments.unknown:
        print(*(f"{count:4} {name}" for name, count in (+unknown).most_common()), sep="\n")


if __name__ == "__main__":
    main()

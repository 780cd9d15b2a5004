"""A source and a step of another package, found through entry points and run like our own, without a line changed here."""

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = """
from typing import Literal

from trivium.recipe.sources import SourceBase
from trivium.recipe.steps import StepBase


class Numbers(SourceBase):
    kind: Literal["numbers"]
    count: int = 10

    @classmethod
    def implementation(cls):
        from trivium.corpus.readers import Part, Source
        from trivium.corpus.records import key_of

        class Counted(Source):
            declared_license = "CC0-1.0"

            def parts(self, characters=None):
                return [Part(self.setting.index, "numbers")]

            def read(self, part, dead):
                for number in range(self.config.count):
                    text = f"the number {number} is one of them"
                    yield self.document(key_of(text), text, f"numbers@{number}")
                dead.add("numbers", self.config.count, "no more")

        return Counted


class Shout(StepBase):
    kind: Literal["shout"]
    least: int = 0

    @classmethod
    def implementation(cls):
        class Step:
            name, changes = "shout", True

            def __init__(self, config, folder):
                self.least = config.least

            def __call__(self, document):
                document["text"] = document["text"].upper()
                return None if int(document["text"].split()[2]) >= self.least else "shout:small"

        return Step
"""
MAIN = """
import json, sys
from pathlib import Path
from corpus_made import stage
from trivium.corpus import records
from trivium.recipe import kinds
from trivium.recipe.data import DataStage
folder = Path(sys.argv[1])
config = {"sources": [{"kind": "numbers", "count": 8}], "steps": [{"kind": "shout", "least": 3}], "heldout": 0}
stage(folder, folder / "out", **config)
texts = sorted(row["text"] for row in records.read(folder / "out" / "train"))
known = kinds.provenance(DataStage.model_validate({"kind": "data", **config}))
print(json.dumps({"texts": texts, "known": sorted(known), "account": json.loads((folder / "out/account.json").read_text())}))
"""


def test_a_source_and_a_step_of_another_package(tmp_path: Path) -> None:
    (tmp_path / "numbers_and_shouts.py").write_text(PACKAGE)
    info = tmp_path / "numbers_and_shouts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numbers-and-shouts\nVersion: 1.0\n")
    (info / "RECORD").write_text("numbers_and_shouts.py,,\n")
    groups = {
        "trivium.sources": "numbers = numbers_and_shouts:Numbers",
        "trivium.steps": "shout = numbers_and_shouts:Shout",
    }
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{line}\n" for group, line in groups.items()))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", MAIN, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["texts"] == [f"THE NUMBER {number} IS ONE OF THEM" for number in range(3, 8)]
    assert said["known"] == ["trivium.sources: numbers", "trivium.steps: shout"]
    [source] = said["account"]["sources"]
    assert (source["license"], source["read"], source["dropped"], source["dead"]) == (
        "CC0-1.0",
        9,
        {"shout": 3},
        1,
    )

"""Small corpora for tests, and a data stage run in a process of its own that can be killed."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from forked import Forked

from trivium.corpus.run import build
from trivium.recipe.data import DataStage


def stage(
    folder: Path, out: Path, work: Path | None = None, against: dict[str, Path] | None = None, **config: Any
) -> Any:
    out.mkdir(parents=True, exist_ok=True)
    return build(
        DataStage.model_validate({"kind": "data", **config}),
        seed=5,
        recipe_folder=folder,
        out=out,
        work=work,
        against=against or {},
        emit=lambda _: None,
    )


def text(seed: int, count: int = 80) -> str:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(400)]
    return " ".join(draw.choice(words) for _ in range(count))


def pages(folder: Path, files: int, each: int) -> dict[str, Any]:
    """A folder of JSON lines with copies, near-copies and a line that all share."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        rows = []
        for i in range(each):
            words = text(file * 1000 + i if i % 4 else i).split()  # every fourth is in all files
            if i % 8 == 4:
                words[file] = f"changed{file}"
            rows.append(
                {"text": "A line that all pages share\n" + " ".join(words), "url": f"http://a.b/{file}/{i}"}
            )
        (folder / f"{file:02d}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows) + "no json\n"
        )
    return {"kind": "jsonl", "path": folder.name, "max_bad_lines": 100}


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


MAIN = """
import json, sys
from pathlib import Path
from corpus_made import stage
said = json.loads(sys.argv[1])
stage(Path(said["folder"]), Path(said["out"]), Path(said["work"]), **said["config"])
"""


def start(folder: Path, out: Path, work: Path, before: str = "", **config: Any) -> Forked:
    """The stage in another process; `before` is run first there."""
    said = json.dumps({"folder": str(folder), "out": str(out), "work": str(work), "config": config})
    return Forked(before + MAIN, said, path=[Path(__file__).parent, Path(__file__).parents[1]], session=True)

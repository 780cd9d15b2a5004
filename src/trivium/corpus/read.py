"""Reading a part: source, extraction and all steps on each row, in one process; one part is one set of files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trivium import seeds
from trivium.corpus import counts
from trivium.corpus.contamination import Evaluated, sayings
from trivium.corpus.dead_letters import DeadLetters
from trivium.corpus.readers import Document, Part, Setting, open_source
from trivium.corpus.records import pieces, text_of, with_texts
from trivium.corpus.steps import Step, build_steps
from trivium.corpus.steps.quality import keep
from trivium.corpus.withdrawn import Rule, WithdrawnStep
from trivium.corpus.write import Out, name_of, written
from trivium.files import write_json
from trivium.recipe.data import DataStage


def writable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class Read:
    """Reads parts: `task` is {"number": place among all parts, "part": the part}."""

    config: DataStage
    setting: Setting
    seed: int
    folder: Path
    """Where the parts' files go."""
    evaluated: Path | None
    """Evaluation items to look for: a file of `contamination.Evaluated`."""
    withdrawn: tuple[Rule, ...] = ()
    """What the recipe no longer trains on."""
    name: str = "read"

    def __call__(self, task: str) -> None:
        said = json.loads(task)
        part = Part(**{**said["part"], "files": tuple(said["part"]["files"])})
        target = self.folder / name_of(part)
        done = target.with_suffix(".json")
        if done.exists():
            return
        names = ["documents", "marks"]
        names += ["rejects"] if self.config.keep_rejects else []
        names += ["lines"] if self.config.dedup and self.config.dedup.lines else []
        write_json(done, written(target, names, lambda files: self._read(part, said["number"], files)))

    def _read(self, part: Part, number: int, files: dict[str, Path]) -> dict[str, Any]:
        setting = Setting(
            **{**vars(self.setting), "index": part.source, "seed": self.setting_seed(part.source)}
        )
        source = open_source(self.config.sources[part.source], setting)
        limits = [limit for limit in (source.max_dead, self.config.max_dead) if limit is not None]
        dead = DeadLetters(min(limits))
        evaluated = Evaluated.load(self.evaluated) if self.evaluated else None
        out = Out(self.config, self.seed, number, files, last=False)
        account = Account(self.config, self.setting.folder, self.withdrawn)
        given = dict.fromkeys(part.files or (part.path,), 0)
        for document in source.read(part, dead):
            if (file := _file(document["where"], given)) is not None:
                given[file] += 1
            if not account.accepts(document):
                out.reject(document)
                continue
            record = document.get("record", document)
            if evaluated is not None:
                texts = sayings({**record, "kind": document["kind"]})
                document["overlap"] = evaluated.overlap(document["key"], texts)
            if record is not document:
                document["record"] = json.dumps(record, ensure_ascii=False)
            out.add(document)
        out.close()
        return {
            "rows": out.rows,
            "steps": account.rows,
            "pii": account.pii,
            "dead": dead.rows(),
            "files": given,
            "damaged": sorted({file for one in dead.letters if (file := _file(one.where, given))}),
            "met": evaluated.met if evaluated else {},
        }

    def setting_seed(self, index: int) -> int:
        return seeds.derive(self.setting.seed, "source", index)


def _file(where: str, files: dict[str, int]) -> str | None:
    """Which of a part's files a place lies in: `file`, `file@offset`, `file#member`, `file:line`; None: in none of them."""
    if len(files) == 1:
        return next(iter(files))
    while where and where not in files:
        where = where[: max(0, *(where.rfind(mark) for mark in "@#:"))]
    return where or None


class Account:
    """Leads documents through the steps and counts."""

    def __init__(self, config: DataStage, folder: Path, withdrawn: Sequence[Rule] = ()) -> None:
        self.config = config
        self.steps = build_steps(config, folder)
        if withdrawn:  # first of all: what was withdrawn is not looked at
            self.steps.insert(0, WithdrawnStep(tuple(withdrawn)))
        self.reading = counts.row("read")
        self.counted = [counts.row(step.name) for step in self.steps]
        self.pii: dict[str, int] = {}

    @property
    def rows(self) -> list[counts.Row]:
        return [self.reading, *self.counted]

    def accepts(self, document: Document) -> bool:
        """Whether the document is kept; if not, its `step` and `reason` say why."""
        text = document["text"] = writable(document["text"])
        size = counts.size(text)
        counts.entered(self.reading, size)
        if document["reason"] is not None:
            counts.dropped(self.reading, document["reason"], document["key"], text)
            return False
        counts.left(self.reading, size)
        for step, row in zip(self.steps, self.counted, strict=True):
            before = document["text"]
            counts.entered(row, size)
            reason = _apply(step, document)
            if reason is None and step.name == "quality":
                reason = keep(document["quality"], self.config.quality)
            if reason is None and not document["text"].strip():
                reason = f"{step.name}:empty"
            if reason is not None:
                document["step"], document["reason"], document["text"] = step.name, reason, before
                counts.dropped(row, reason, document["key"], before)
                return False
            if document["text"] is not before:
                size = counts.size(document["text"])
            counts.left(row, size)
        for kind, count in document.pop("pii", {}).items():
            self.pii[kind] = self.pii.get(kind, 0) + count
        return True


def _apply(step: Step, document: Document) -> str | None:
    """The step, done to a document, or to the record of another format: text by text where the step changes text, else to
    all of it at once. The reason, where it is dropped."""
    record = document.get("record")
    if record is None:
        return step(document)
    if not step.changes:
        whole = {**document, "text": "\n".join(piece.text for piece in pieces(record))}
        reason = step(whole)
        document |= {**whole, "text": document["text"]}
        return reason
    changed: list[str] = []
    found: Counter[str] = Counter(document.get("pii", {}))
    given = pieces(record)
    for _, text, code in given:
        if not text.strip() or (code and not getattr(step, "redacts", False)):
            changed.append(text)  # a turn that only calls a tool says nothing
            continue
        alone = {**document, "text": text}
        if reason := step(alone):
            return reason
        if not alone["text"].strip():
            return f"{step.name}:empty"
        changed.append(alone["text"])
        found.update(alone.get("pii", {}))
    if changed != [piece.text for piece in given]:
        document["record"] = with_texts(record, changed)
        document["text"] = text_of(document["record"])
    document["pii"] = dict(found)
    return None


def tasks(parts: list[Part], first: int = 0) -> list[str]:
    """A line of JSON for each part; parts are numbered through from `first`."""
    return [json.dumps({"number": first + place, "part": asdict(part)}) for place, part in enumerate(parts)]

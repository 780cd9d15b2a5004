"""A synthesize stage: prompts in, a data artifact out, split, without duplicates and contamination like any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trivium import keys, seeds
from trivium.corpus import contamination, records
from trivium.corpus.records import Record
from trivium.corpus.statistics import said, statistics
from trivium.errors import DataError
from trivium.files import write_json
from trivium.recipe.synthesis import SynthesizeStage
from trivium.synthesize.instruct import magpie, self_instruct
from trivium.synthesize.journal import Journal
from trivium.synthesize.loops import LOOPS, Studio, chosen
from trivium.synthesize.questions import questions
from trivium.synthesize.scoring import open_scorer
from trivium.synthesize.teachers import open_teacher
from trivium.types import Emit
from trivium.verify import VERIFIERS
from trivium.verify.replies import distinct

Loop = Callable[[Studio, Sequence[Record]], list[Record]]


def build(
    config: SynthesizeStage,
    *,
    seed: int,
    recipe_folder: Path,
    inputs: Mapping[str, tuple[Path, str]],
    work: Path,
    out: Path,
    emit: Emit,
) -> dict[str, Any]:
    """Fills `out` with train.jsonl, heldout.jsonl and account.json; returns the metrics.

    `inputs`: stage -> (its artifact's folder, its fingerprint). What the teacher answers is kept in `work`, so that a run
    that was killed goes on where it was and gives the same bytes. DataError if nothing is accepted, or a budget is spent.
    """
    teacher = open_teacher(config.teacher, inputs, Journal(work / "teacher.jsonl"))
    scorer = None
    if config.verifier is not None:
        scorer = open_scorer(config.verifier, recipe_folder, inputs, Journal(work / "judge.jsonl"))
    studio = Studio(config, teacher, scorer, seed)
    with scorer.closing if scorer else nullcontext():
        made = _made(studio, inputs[config.data][0] if config.data else None, emit)
    dropped: Counter[str] = Counter()
    seen = [config.data, *config.decontaminate] if config.data else config.decontaminate
    against = {name: inputs[name][0] for name in dict.fromkeys(seen)}
    train, unseen = _split(config, made, contamination.Evaluated.read(against, config.ngram), dropped)
    if not train:
        raise _nothing(studio, dropped)
    account = _account(studio, train, unseen, dropped, list(against))
    _write(out, train, unseen, account, seed)
    emit({"event": "message", "message": said(account["statistics"])})
    return {
        "train_items": len(train),
        "heldout_items": len(unseen),
        "train_characters": sum(len(records.text_of(record)) for record in train),
        "dropped": dict(dropped),
        "statistics": account["statistics"],
        **account["synthesis"],
    }


def _made(studio: Studio, data: Path | None, emit: Emit) -> list[tuple[str, Record]]:
    """What the teacher wrote, each row with its split; `made`: to be split by its own hash."""
    config, name = studio.config, studio.teacher.name
    if data is None:
        emit({"event": "message", "message": f"{name} is asked for {config.prompts} instructions of its own"})
        return [("made", record) for record in magpie(studio)]
    if config.method == "questions":
        documents = list(records.read(data / "train"))
        most = f"{config.prompts:,} sentences of them at most"
        emit({"event": "message", "message": f"{name} asks about {len(documents)} documents, {most}"})
        return questions(studio, documents)
    parts: dict[str, tuple[Loop, list[Record]]]
    if config.method == "self_instruct":
        parts = {"made": (self_instruct, _prompts(data, "train", emit))}
    else:
        loop = LOOPS[config.method]
        heldout = round(config.prompts * config.heldout / max(1e-9, 1 - config.heldout))
        parts = {
            "train": (loop, chosen(_prompts(data, "train", emit), config.prompts, studio.seed, "train")),
            "heldout": (loop, chosen(_prompts(data, "heldout", emit), heldout, studio.seed, "heldout")),
        }
    made: list[tuple[str, Record]] = []
    for split, (loop, prompts) in parts.items():
        if not prompts:
            continue
        about = f"for {config.prompts} new instructions after" if split == "made" else "about"
        emit({"event": "message", "message": f"{name} is asked {about} {len(prompts)} prompts ({split})"})
        made += [(split, record) for record in loop(studio, prompts)]
    return made


def _write(out: Path, train: list[Record], unseen: list[Record], account: Record, seed: int) -> None:
    order = seeds.generator(seed, "shuffle", "train").permutation(len(train))
    records.write(out / "train.jsonl", (train[i] for i in order))
    records.write(out / "heldout.jsonl", unseen)
    write_json(out / "account.json", account)


def _prompts(data: Path, split: str, emit: Emit) -> list[Record]:
    """The records of a data artifact with what was asked as `prompt`. One without a user's turn is left out; so are those with
    tools, which is told: a teacher is asked for text."""
    found, tools = [], 0
    for record in records.read(data / f"{split}.jsonl"):
        turns = records.prompt_of(record)
        if record.get("tools"):
            tools += 1
        elif turns and turns[-1]["role"] == "user":
            found.append({**record, "prompt": turns})
    if tools:
        message = f"{tools} prompts of the {split} split are left out: they come with `tools`, and teachers are asked for text"
        emit({"event": "warning", "message": message})
    return found


def _split(
    config: SynthesizeStage,
    made: list[tuple[str, Record]],
    forbidden: contamination.Evaluated,
    dropped: Counter[str],
) -> tuple[list[Record], list[Record]]:
    """Rows follow their prompt: what `data` holds out is held out here; new instructions are split by their hash."""
    train: list[Record] = []
    heldout: list[Record] = []
    seen: set[str] = set()
    for split, record in made:
        same = records.key_of(records.text_of(record))
        if config.dedup and same in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(same)
        key = record["key"]
        if split == "heldout" or (split == "made" and keys.split(key) < config.heldout):
            heldout.append(record)
        elif forbidden.overlap(key, _written(record)):
            dropped["contaminated"] += 1
        else:
            train.append(record)
    return train, heldout


def _written(record: Record) -> list[str]:
    """What the teacher wrote of a record, to be compared with held-out items; nothing where texts follow fixed forms."""
    if record["source"] in contamination.MADE_UP:
        return []
    return [record["chosen"] if "chosen" in record else record["messages"][-1]["content"]]


def _nothing(studio: Studio, dropped: Counter[str]) -> DataError:
    said = ", ".join(f"{count} {why}" for why, count in sorted((studio.counts + dropped).items()))
    return DataError(
        f"no reply of {studio.teacher.name} was kept ({said or 'nothing was asked'})",
        fix="lower `accept`, raise `samples`, `prompts` or `max_new_tokens`, or ask a stronger teacher",
    )


def _account(
    studio: Studio, train: list[Record], heldout: list[Record], dropped: Counter[str], against: list[str]
) -> Record:
    config, teacher = studio.config, studio.teacher
    judge = studio.scorer.teacher if studio.scorer else None
    replies = [
        record["chosen"] if "chosen" in record else record["messages"][-1]["content"] for record in train
    ]
    counts = studio.counts
    synthesis = {
        "method": config.method,
        "teacher": teacher.name,
        **{name: counts[name] for name in ("asked", "accepted", "rejected", "unfinished", *sorted(counts))},
        "requests": teacher.counts["requests"],
        "prompt_tokens": teacher.counts["prompt_tokens"],
        "reply_tokens": teacher.counts["reply_tokens"],
        "cost": round(teacher.cost + (judge.cost if judge else 0.0), 6),
        "verifier": config.verifier.kind if config.verifier else None,
        "verifier_counts": dict(sorted(studio.scorer.counts.items())) if studio.scorer else {},
        "mean_reply_characters": round(sum(map(len, replies)) / len(replies), 1),
        "distinct_2": round(distinct(replies), 4),
    }
    source = {
        "kind": "synthesize",
        "license": ", ".join(sorted({record["license"] for record in train})),
        "origin": f"{teacher.name} ({config.method})",
        "planned_share": 1.0,
        "realised_share": 1.0,
        "short": False,
        "train_items": len(train),
        "train_characters": sum(len(records.text_of(record)) for record in train),
        "heldout_share": config.heldout,
        "heldout_items": len(heldout),
        "dropped": dict(sorted(dropped.items())),
    }
    steps = [
        {"step": "ask", "teacher": teacher.name, "method": config.method},
        *([{"step": "verify", "by": config.verifier.kind}] if config.verifier else []),
        *([{"step": "dedup", "rule": "equal after white space is normalised"}] if config.dedup else []),
        {"step": "split", "heldout": config.heldout, "by": "the prompt's own split"},
        {"step": "decontaminate", "against": sorted(against), "ngram": config.ngram},
        {"step": "shuffle"},
    ]
    found = statistics(train) | {"overlap_with_evaluation": dropped["contaminated"]}
    return {
        "format": config.format,
        "sources": [source],
        "steps": steps,
        "statistics": found,
        "synthesis": synthesis,
    }


def identity(config: SynthesizeStage, recipe_folder: Path) -> dict[str, Any]:
    """What the artifact depends on beyond the recipe: names that its rows hold, and the bytes of the user's verifier."""
    names = {"names": [config.teacher.model]} if config.teacher.kind == "checkpoint" else {}
    verifier = VERIFIERS.get(config.verifier.kind) if config.verifier is not None else None
    return names | (verifier.identity(config.verifier, recipe_folder) if verifier else {})

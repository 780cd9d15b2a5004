"""The account of a data artifact: every row of every source, kept or dropped, and why; written as account.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from trivium.corpus import counts, records
from trivium.corpus.contamination import OVERLAP, Evaluated
from trivium.corpus.dedup.signatures import key_hash
from trivium.corpus.plan import CONTAMINATED, REASONS, SURPLUS, Corpus, Plan, heldout_share
from trivium.corpus.readers import Source
from trivium.corpus.statistics import said, statistics
from trivium.corpus.write import path_of
from trivium.errors import DataError
from trivium.files import atomic_path, write_json

DOMAINS, PASSED = 50, 20
"""How many domains, and reasons to pass files over, are named."""


def write(corpus: Corpus, plan: Plan, out: Path) -> dict[str, Any]:
    """Writes account.json, dead_letters.jsonl and, where there is something to flag, overlap.jsonl; the metrics."""
    dealt = corpus.sidecars("deal")
    dead = [letter for sidecar in corpus.sidecars("read") for letter in sidecar["dead"]]
    _lines(out / "dead_letters.jsonl", dead)
    steps = waterfall(corpus, plan)
    samples: dict[str, list[Any]] = {}
    for sidecar in dealt:
        for reason, found in sidecar["samples"].items():
            samples.setdefault(reason, []).extend(found)
    for row in steps:
        row["samples"] |= {
            reason: samples[reason][: counts.SAMPLES] for reason in row["reasons"] if reason in samples
        }
    domains = counts.merged(sidecar["domains"] for sidecar in dealt)
    lengths = counts.merged(sidecar["lengths"] for sidecar in dealt)
    account: dict[str, Any] = {
        "format": corpus.config.format,
        "steps": steps,
        "sources": _sources(corpus, plan, dealt),
        "mix": corpus.config.mix.model_dump(mode="json") if corpus.config.mix else None,
        "languages": counts.merged(sidecar["languages"] for sidecar in dealt),
        "lengths": dict(sorted(lengths.items(), key=lambda pair: int(pair[0]))),
        "domains": [[domain, count] for domain, count in list(domains.items())[:DOMAINS]],
        "clusters": _clusters(corpus, plan),
        "pii": counts.merged(sidecar["pii"] for sidecar in corpus.sidecars("read")),
        "dead_letters": len(dead),
        "contamination": _contamination(corpus, plan, out),
        "canaries": _canaries(corpus),
    }
    if not corpus.documents:
        account["statistics"] = statistics(list(records.read(out / "train")))
        if corpus.evaluated:
            account["statistics"]["overlap_with_evaluation"] = int((plan.reason == CONTAMINATED).sum())
        corpus.emit({"event": "message", "message": said(account["statistics"])})
    write_json(out / "account.json", account)
    for source in account["sources"]:
        counted = {"items": source["train_items"], "heldout": source["heldout_items"]}
        corpus.emit({"event": "source", "kind": source["kind"], "files": source["files"], **counted})
    kept = plan.reason == 0
    return {
        "train_items": int((kept & ~plan.heldout).sum()),
        "train_characters": int(plan.marks.characters[kept & ~plan.heldout].sum()),
        "heldout_items": int((kept & plan.heldout).sum()),
        "heldout_characters": int(plan.marks.characters[kept & plan.heldout].sum()),
        "dropped": {row["name"]: n for row in steps if (n := row["documents_in"] - row["documents_out"])},
        "dead_letters": len(dead),
        **({"canaries": account["canaries"]["planted"]} if account["canaries"] else {}),
        **({} if corpus.documents else {"statistics": account["statistics"]}),
    }


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def waterfall(corpus: Corpus, plan: Plan) -> list[counts.Row]:
    """What each step was given and left, in their order; those over the whole corpus included."""
    rows = counts.added(sidecar["steps"] for sidecar in corpus.sidecars("read"))
    if corpus.stage() == "lines":
        rows += counts.added(sidecar["steps"] for sidecar in corpus.sidecars("lines"))
    config = corpus.config.dedup
    codes = [code for code, (name, _) in enumerate(REASONS) if name and getattr(config, name, None)]
    codes += [CONTAMINATED] if corpus.evaluated else []
    left = np.ones(len(plan.reason), bool)
    columns = {"characters": plan.marks.characters, "bytes": plan.marks.bytes}
    for code in [*codes, SURPLUS]:
        name, reason = REASONS[code]
        row, gone = counts.row(name), plan.reason == code
        for side in ("in", "out"):
            row[f"documents_{side}"] = int(left.sum())
            row |= {f"{of}_{side}": int(column[left].sum()) for of, column in columns.items()}
            left &= ~gone
        row["reasons"] = {reason: int(gone.sum())} if gone.any() else {}
        rows.append(row)
    return rows


def _sources(corpus: Corpus, plan: Plan, dealt: list[dict[str, Any]]) -> list[dict[str, Any]]:
    usable = plan.reason == 0
    sizes = corpus.sizes(plan.marks)
    total = int(sizes[usable & ~plan.heldout].sum())
    rows = []
    reading = [corpus.sidecars(folder) for folder in dict.fromkeys(("read", corpus.stage()))]
    for place, source in enumerate(corpus.sources):
        mine = plan.source == place
        train, held = mine & usable & ~plan.heldout, mine & usable & plan.heldout
        characters, size = int(plan.marks.characters[train].sum()), int(sizes[train].sum())
        dropped: Counter[str] = Counter()
        mine_of = [
            [side for side, of in zip(sides, corpus.source_of, strict=True) if of == place]
            for sides in reading
        ]
        for row in (row for sides in mine_of for sidecar in sides for row in sidecar["steps"]):
            dropped.update({row["name"]: row["documents_in"] - row["documents_out"]})
        dead = sum(len(sidecar["dead"]) for sidecar in mine_of[0])
        found = np.bincount(plan.reason[mine], minlength=len(REASONS))
        dropped.update({REASONS[code][0]: int(found[code]) for code in range(1, len(REASONS))})
        licenses = counts.merged(sidecar["licenses"].get(str(place), {}) for sidecar in dealt)
        wanted, share = corpus.config.size, corpus.planned[place]
        rows.append(
            {
                "kind": source.kind,
                "license": source.license,
                "origin": source.origin,
                "planned": round(share, 4),
                "planned_share": round(share, 4),
                "realised_share": round(size / total, 4) if total else 0.0,
                "short": wanted is not None and size < wanted * share,
                "files": _files(source, mine_of[0]),
                "read": dead + sum(sidecar["steps"][0]["documents_in"] for sidecar in mine_of[0]),
                "dead": dead,
                "available": plan.available[place],
                "documents": int(train.sum()),
                "characters": characters,
                "heldout": int(held.sum()),
                "train_items": int(train.sum()),
                "train_characters": characters,
                "heldout_share": heldout_share(corpus.config, source),
                "heldout_items": int(held.sum()),
                "heldout_characters": int(plan.marks.characters[held].sum()),
                "licenses": licenses,
                "dropped": {name: count for name, count in sorted(dropped.items()) if count},
            }
        )
    return rows


def _files(source: Source, sidecars: list[dict[str, Any]]) -> dict[str, Any] | None:
    """{"found", "read": those that gave a row, "passed_over": reason -> how many}; None where a source has no files."""
    if source.endings is None and not source.passed:
        return None
    given = counts.merged(sidecar["files"] for sidecar in sidecars)
    damaged = {name for sidecar in sidecars for name in sidecar["damaged"]}
    passed = +source.passed  # without zeros
    for name, count in given.items():
        if not count:
            passed["could not be read" if name in damaged else "nothing to read in it"] += 1
    most = dict(passed.most_common(PASSED))
    if rest := passed.total() - sum(most.values()):
        most["other"] = rest
    return {
        "found": len(given) + source.passed.total(),
        "read": sum(count > 0 for count in given.values()),
        "passed_over": most,
    }


def _clusters(corpus: Corpus, plan: Plan) -> dict[str, Any]:
    clusters = plan.verdict.clusters
    wanted = {one for example in clusters.examples for one in example}
    keys = _keys(corpus, wanted)
    return {
        "count": clusters.count,
        "largest": clusters.largest,
        "sizes": {str(size): count for size, count in clusters.sizes.items()},
        "examples": [[keys[one] for one in example] for example in clusters.examples],
    }


def _keys(corpus: Corpus, ids: set[int]) -> dict[int, str]:
    """The keys of a few documents, by id."""
    import pyarrow.parquet as pq

    found: dict[int, str] = {}
    for number in sorted({one >> 32 for one in ids}):
        path = path_of(corpus.part(corpus.stage(), number), "documents")
        keys = pq.read_table(path, columns=["key"]).column("key")
        found |= {one: str(keys[one & 0xFFFFFFFF].as_py()) for one in ids if one >> 32 == number}
    return found


def _contamination(corpus: Corpus, plan: Plan, out: Path) -> dict[str, Any]:
    """Evaluation stage -> documents that overlap with it, and its items flagged because training keeps them."""
    if corpus.evaluated is None:
        return {}
    evaluated = Evaluated.load(corpus.evaluated)
    met = (plan.marks.overlap != 0) & ~plan.heldout
    trained = {int(one) for one in plan.marks.key_hash[met & (plan.reason == 0)]}
    items = {
        item
        for sidecar in corpus.sidecars("read")
        for key, found in sidecar["met"].items()
        if key_hash(key) in trained
        for item in found
    }
    flagged = sorted({(evaluated.names[evaluated.stages[item]], evaluated.keys[item]) for item in items})
    if flagged:
        _lines(out / OVERLAP, [{"stage": stage, "key": key} for stage, key in flagged])
    counted = met & np.isin(plan.reason, (0, CONTAMINATED))
    bits = plan.marks.overlap
    return {
        name: {
            "documents": int((counted & ((bits >> np.uint64(place)) & np.uint64(1) == 1)).sum()),
            "items_flagged": sum(stage == name for stage, _ in flagged),
        }
        for place, name in enumerate(evaluated.names)
    }


def _canaries(corpus: Corpus) -> dict[str, Any] | None:
    """How many were planted beside the documents that the sources are counted with."""
    config = corpus.config.canaries
    return None if config is None else {**config.model_dump(), "planted": config.count * sum(config.repeats)}


def nothing(corpus: Corpus, plan: Plan) -> DataError:
    """The error for a stage that has nothing to train on, with what each step dropped."""
    rows = waterfall(corpus, plan)
    said = "\n".join(
        f"    {row['name']}: {row['documents_in']} in, {row['documents_out']} out"
        + "".join(f"; {reason} {count}" for reason, count in list(row["reasons"].items())[:4])
        for row in rows
    )
    held = int(((plan.reason == 0) & plan.heldout).sum())
    dead = sum(len(sidecar["dead"]) for sidecar in corpus.sidecars("read"))
    return DataError(
        f"no {corpus.config.format} are left to train on; the steps:\n{said}\n    held out: {held}; could not be read: {dead}",
        where="sources: " + ", ".join(source.origin for source in corpus.sources),
        fix="loosen the step that dropped them, give a source that is not empty, or lower `heldout`",
    )

"""A data stage: read the sources, drop duplicates, split by item, decontaminate, mix by weight, write.

The order matters: what is held out is decided by a hash of the item's identity alone (`keys.split`, the
same in every data stage), before anything is mixed, so two stages that read the same source never disagree
about it.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium import keys, seeds
from trivium.corpus import contamination, readers, records
from trivium.corpus.records import Item, Record
from trivium.corpus.statistics import said, statistics
from trivium.corpus.steps.quality import identity as quality_identity
from trivium.errors import DataError
from trivium.files import write_json
from trivium.recipe.data import DataStage
from trivium.types import Emit


@dataclass
class Pool:
    """What one source has given so far. Sizes are characters for documents, items otherwise."""

    source: readers.Reader
    planned: float
    """Share of the mix, 0 to 1."""
    items: Iterator[Item]
    heldout_share: float
    dropped: Counter[str]
    train: list[Record] = field(default_factory=list)
    heldout: list[Record] = field(default_factory=list)
    size: float = 0
    exhausted: bool = False


def build(
    config: DataStage,
    *,
    seed: int,
    recipe_folder: Path,
    out: Path,
    against: dict[str, Path],
    emit: Emit,
    work: Path | None = None,
    inputs: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Fills `out` with the training and held-out splits and account.json; returns the metrics.

    Documents go through `corpus/documents.py`; conversations and preferences are made here, in memory, as train.jsonl
    and heldout.jsonl. `against`: data stage -> its artifact's folder, whose held-out items must not be seen in this
    training split. `work`: what a killed run left for the next try. `inputs`: stage -> its artifact's folder, for sources
    that read another stage. DataError for unusable input, or if nothing is left to train on.
    """
    if config.format == "documents":
        from trivium.corpus import documents

        with tempfile.TemporaryDirectory() as scratch:
            return documents.build(
                config,
                seed=seed,
                recipe_folder=recipe_folder,
                out=out,
                work=work or Path(scratch),
                against=against,
                inputs=inputs or {},
                emit=emit,
            )
    return _items(config, seed, recipe_folder, out, against, inputs or {}, emit)


def _items(
    config: DataStage,
    seed: int,
    recipe_folder: Path,
    out: Path,
    against: dict[str, Path],
    inputs: dict[str, Path],
    emit: Emit,
) -> dict[str, Any]:
    """Conversations and preferences, in memory."""
    forbidden = contamination.Forbidden.read(against, config.ngram)
    pools = _pools(config, seed, recipe_folder, emit, inputs)
    seen: set[str] | None = set() if config.dedup and config.dedup.exact else None
    for pool in pools:
        if not pool.source.endless:
            _fill(pool, math.inf, config, seen, forbidden)
    total = _total(config, pools)
    for pool in pools:
        if pool.source.endless:
            _fill(pool, total * pool.planned, config, seen, forbidden)
    if config.size is None:
        total = min(pool.size / pool.planned for pool in pools)
    train: list[Record] = []
    for index, pool in enumerate(pools):
        pool.train = _take(_shuffled(pool.train, seed, "take", index), total * pool.planned, config.format)
        train += pool.train
        counts = {"items": len(pool.train), "heldout": len(pool.heldout)}
        emit({"event": "source", "kind": pool.source.kind, **counts})
    if not train:
        raise _nothing(config, pools)
    unseen = _shuffled([record for pool in pools for record in pool.heldout], seed, "heldout")
    records.write(out / "train.jsonl", _shuffled(train, seed, "train"))
    records.write(out / "heldout.jsonl", unseen)
    account = _account(config, pools, against)
    write_json(out / "account.json", account)
    emit({"event": "message", "message": said(account["statistics"])})
    characters = sum(source["train_characters"] for source in account["sources"])
    return {
        "train_items": len(train),
        "train_characters": characters,
        "heldout_items": len(unseen),
        "heldout_characters": sum(len(records.text_of(record)) for record in unseen),
        "dropped": dict(sum((pool.dropped for pool in pools), Counter[str]())),
        "statistics": account["statistics"],
    }


def identity(config: DataStage, recipe_folder: Path) -> dict[str, Any]:
    """What the artifact depends on beyond the recipe: versions and file checksums, per source."""
    found = [readers.identity(source, recipe_folder) for source in config.sources]
    extra: dict[str, Any] = {"sources": [one for one in found if one]}
    if config.decontaminate:
        extra["against"] = sorted(config.decontaminate)  # the account names the stages
    if quality := quality_identity(config.quality, recipe_folder):
        extra["quality"] = quality
    return extra


def _pools(
    config: DataStage, seed: int, recipe_folder: Path, emit: Emit, inputs: dict[str, Path]
) -> list[Pool]:
    weights = [source.weight or 1.0 for source in config.sources]
    pools = []
    for index, (source, weight) in enumerate(zip(config.sources, weights, strict=True)):
        reader = readers.open_source(
            source, config.format, seeds.derive(seed, "source", index), recipe_folder, emit, inputs
        )
        share = max(config.heldout, reader.least_heldout) if config.heldout else 0.0
        dropped: Counter[str] = Counter()
        pools.append(Pool(reader, weight / sum(weights), reader.items(dropped), share, dropped))
    return pools


def _fill(
    pool: Pool, target: float, config: DataStage, seen: set[str] | None, forbidden: contamination.Forbidden
) -> None:
    """Reads on until the training split has `target` (characters or items), or the source is at its end."""
    reader = pool.source
    while pool.size < target:
        item = next(pool.items, None)
        if item is None:
            pool.exhausted = True
            break
        if seen is not None:
            same = records.key_of(item.same or records.text_of(item.record))
            if same in seen:
                pool.dropped["duplicate"] += 1
                continue
            seen.add(same)
        key = item.record["key"]
        record = {
            "key": key,
            "source": reader.kind,
            "license": reader.license,
            "origin": item.record.get("origin") or reader.origin,
            **{name: value for name, value in item.record.items() if name not in ("key", "origin")},
        }
        if keys.split(key) < pool.heldout_share:
            pool.heldout.append(record)
        elif forbidden.holds(key, item.sayings):
            pool.dropped["contaminated"] += 1
        else:
            pool.train.append(record)
            pool.size += _size(record, config.format)


def _size(record: Record, format: str) -> int:
    return len(record["text"]) if format == "documents" else 1


def _total(config: DataStage, pools: list[Pool]) -> float:
    """The size of the mix: as asked, or the largest that the finite sources allow at the given shares."""
    if config.size is not None:
        return config.size
    limits = [pool.size / pool.planned for pool in pools if not pool.source.endless]
    if limits:
        return min(limits)
    return float(max(pool.source.enough for pool in pools))


def _shuffled(items: list[Record], seed: int, *use: str | int) -> list[Record]:
    order = seeds.generator(seed, "shuffle", *use).permutation(len(items))
    return [items[i] for i in order]


def _take(items: list[Record], target: float, format: str) -> list[Record]:
    """The first items up to `target`; the last one may go over it, so that a small share is never empty."""
    taken, size = [], 0
    for record in items:
        if size >= target:
            break
        taken.append(record)
        size += _size(record, format)
    return taken


def _nothing(config: DataStage, pools: list[Pool]) -> DataError:
    said = "; ".join(
        f"{pool.source.kind}: {len(pool.heldout)} held out"
        + "".join(f", {count} {why}" for why, count in sorted(pool.dropped.items()))
        for pool in pools
    )
    return DataError(
        f"no {config.format} are left to train on ({said})",
        where="sources: " + ", ".join(pool.source.origin for pool in pools),
        fix="give a source that is not empty, or lower `heldout`",
    )


def _account(config: DataStage, pools: list[Pool], against: dict[str, Path]) -> Record:
    """Where the mix comes from: shares are of characters for documents, of items otherwise."""
    sizes = [sum(_size(record, config.format) for record in pool.train) for pool in pools]
    rows = []
    for pool, size in zip(pools, sizes, strict=True):
        rows.append(
            {
                "kind": pool.source.kind,
                "license": pool.source.license,
                "origin": pool.source.origin,
                "planned_share": round(pool.planned, 4),
                "realised_share": round(size / sum(sizes), 4),
                "short": config.size is not None and size < config.size * pool.planned,
                "train_items": len(pool.train),
                "train_characters": sum(len(records.text_of(record)) for record in pool.train),
                "heldout_share": pool.heldout_share,
                "heldout_items": len(pool.heldout),
                "dropped": dict(sorted(pool.dropped.items())),
            }
        )
    steps = [
        {"step": "read"},
        *([{"step": "dedup", "rule": "equal after white space is normalised"}] if config.dedup else []),
        {"step": "split", "heldout": config.heldout, "by": "hash of the item"},
        *([{"step": "decontaminate", "against": sorted(against), "ngram": config.ngram}] if against else []),
        {
            "step": "mix",
            "size": config.size,
            "unit": "characters" if config.format == "documents" else "items",
        },
        {"step": "shuffle"},
    ]
    found = statistics([record for pool in pools for record in pool.train])
    if against:
        found["overlap_with_evaluation"] = sum(pool.dropped["contaminated"] for pool in pools)
    return {"format": config.format, "sources": rows, "steps": steps, "statistics": found}

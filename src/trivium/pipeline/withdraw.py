"""What stands on a source, a licence, a document or an address: which data holds it, which step read it first, what must go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trivium.corpus import records
from trivium.corpus.withdrawn import COLUMNS, Rule, numbered, url_of
from trivium.errors import ArtifactError
from trivium.pipeline import withdrawals
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.record import RECORD
from trivium.pipeline.store import Store
from trivium.pipeline.trained import READ, history
from trivium.recipe.models import TRAINING
from trivium.seeds import derive

STANDING = "withdrawn.jsonl"
"""In the store: data that holds what was withdrawn, and training stages that are known not to have read it."""


@dataclass
class Holding:
    """A data artifact, and what of it is meant."""

    artifact: Artifact
    train: set[tuple[int, int]]
    """(source, number) as `trivium.batches.seen` counts them."""
    heldout: int
    total: int
    """Records of both splits."""
    files: set[str] = field(default_factory=set)
    keys: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.train) + self.heldout


@dataclass(frozen=True)
class Standing:
    """An artifact that was made with data that is meant."""

    artifact: Artifact
    data: Artifact | None
    """What it trained on itself; None where it only stands on others."""
    tokens: int | None = None
    first: int | None = None
    """The first step that read any of it, from 1."""
    steps: int | None = None
    known: bool = True
    """Whether `first` could be worked out."""
    upon: str = ""
    """The name of the stage it stands on."""

    @property
    def reads(self) -> bool:
        """Whether it has read any of it, or may have."""
        return self.data is not None and (self.first is not None or not self.known)


def search(rule: Rule, data: Iterable[Artifact]) -> Iterator[Holding]:
    """What of each data artifact is meant; artifacts that hold nothing too. DataError for a damaged split."""
    for artifact in data:
        found = Holding(artifact, set(), 0, 0)
        for split in records.SPLITS:
            for file, source, number, row in numbered(artifact.path / split, COLUMNS):
                found.total += 1
                if not rule.meets(row):
                    continue
                found.keys.append(str(row.get("key", "")))
                if split == "train":
                    found.train.add((source, number))
                    found.files.add(f"{split}/{file.name}" if file.suffix != ".jsonl" else file.name)
                else:
                    found.heldout += 1
        yield found


def everything(store: Store) -> dict[str, Artifact]:
    """All artifacts of a store whose records can be read, by fingerprint."""
    found = {}
    for name in store.fingerprints():
        try:
            artifact = store.peek(name)
        except ArtifactError:
            continue  # `trivium store verify` names it
        if artifact is not None:
            found[artifact.fingerprint] = artifact
    return brought(found, store)


def brought(artifacts: dict[str, Artifact], store: Store) -> dict[str, Artifact]:
    """The same, with the files of what is searched and trained: of what only other machines have made, too."""
    searched = ("data", "synthesize", *TRAINING)
    return {
        name: Artifact(store.whole(one), one.record) if one.kind in searched else one
        for name, one in artifacts.items()
    }


def standing(holdings: Iterable[Holding], artifacts: dict[str, Artifact], store: Store) -> list[Standing]:
    """What was made from data that is meant, inputs before what is made from them. What only measured is left out."""
    holding = {one.artifact.fingerprint: one for one in holdings if one.train}
    found: dict[str, Standing] = {}
    for artifact in _ordered(artifacts):
        if artifact.kind in ("evaluate", "data", "synthesize", "tokenizer"):
            continue
        read_ = holding.get(artifact.record["identity"]["inputs"].get(READ, ""))
        upon = [found[parent] for parent in artifact.inputs.values() if parent in found]
        upon = [one for one in upon if one.reads or one.upon]
        named = upon[0].artifact.stage if upon else ""
        if artifact.kind in TRAINING and read_ is not None:
            found[artifact.fingerprint] = _reads(artifact, read_, named, store)
        elif upon:
            found[artifact.fingerprint] = Standing(artifact, None, upon=named)
    return list(found.values())


def _ordered(artifacts: dict[str, Artifact]) -> list[Artifact]:
    """Inputs before what is made from them."""
    done: dict[str, Artifact] = {}

    def add(artifact: Artifact) -> None:
        if artifact.fingerprint not in done:
            for parent in artifact.inputs.values():
                if parent in artifacts:
                    add(artifacts[parent])
            done[artifact.fingerprint] = artifact

    for artifact in artifacts.values():
        add(artifact)
    return list(done.values())


def _reads(artifact: Artifact, holding: Holding, upon: str, store: Store) -> Standing:
    from trivium.batches.seen import SEEN, Reading
    from trivium.corpus.shards import place
    from trivium.model.hf import read_config
    from trivium.phases import PHASES
    from trivium.text.chat import ChatTokenizer

    data = holding.artifact
    chat = ChatTokenizer.load(artifact.path)
    shards = place(store.root / "tokens", data.fingerprint, chat)
    tokens = _tokens(holding, shards, chat)
    seen = SEEN.get(PHASES[artifact.kind].batches)
    config = config_of(artifact)
    others = {
        role: folder
        for role, one in artifact.record["identity"]["inputs"].items()
        if (folder := store.fetch(one)) is not None
    }
    by_text = getattr(config, "match", None) == "text"  # rows depend on the teacher's tokenizer
    if seen is None or (by_text and "teacher" not in others):
        return Standing(artifact, data, tokens, known=False, upon=upon)
    context = config.context or read_config(artifact.path).config.context
    seed = derive(artifact.record["identity"]["seed"], artifact.kind)
    shown = seen(Reading(config, data.path, shards, chat, context, seed, others), holding.train)
    return Standing(artifact, data, tokens, shown.first, shown.steps, upon=upon)


def config_of(artifact: Artifact) -> Any:
    """The stage of a recipe that a training artifact was made from, with the names its inputs had then."""
    identity = dict(artifact.record["identity"])
    names = {fingerprint: name for name, fingerprint in artifact.inputs.items()}
    roles = {role: names[print_] for role, print_ in identity.pop("inputs").items()}
    fields = {name: value for name, value in identity.items() if name not in ("version", "seed", "extra")}
    return TRAINING[artifact.kind].model_validate({**fields, **roles})


def _tokens(holding: Holding, shards: Path, chat: Any) -> int:
    """Tokens of what is meant: of documents in the shards, of rows those of their texts, without the template's."""
    from trivium.corpus.shards import encode, open_shards

    split = holding.artifact.path / "train"
    if records.files(split)[0].suffix == ".jsonl":
        texts = [
            piece.text
            for number, row in enumerate(records.read(split), start=1)
            if (0, number) in holding.train
            for piece in records.pieces(row)
        ]
        return sum(map(len, chat.guard.plain_batch(texts)))
    encode(split, chat, shards / "train")
    total = 0
    for shard in open_shards(shards / "train"):
        edges = [*shard.starts.tolist(), len(shard.tokens)]
        total += sum(edges[n + 1] - edges[n] for source, n in holding.train if source == shard.source)
    return total


def apply(
    rule: Rule, holdings: list[Holding], stood: list[Standing], store: Store, folder: Path, time: str
) -> Path:
    """Writes the withdrawal beside the recipes in `folder`, and into the store what stands on it. The path of the former."""
    clean = [
        fingerprint(withdrawals.bare(one.artifact.record["identity"]))
        for one in holdings
        if not one.count and one.artifact.kind == "data"
    ]
    said = {
        "by": rule.by,
        "value": rule.value,
        "data": [one.artifact.fingerprint for one in holdings if one.train],
        "never_read": [one.artifact.fingerprint for one in stood if one.data is not None and not one.reads],
        "time": time,
    }
    store.append(STANDING, json.dumps(said, ensure_ascii=False))
    return withdrawals.write(folder, rule, clean, time)


def _applied(store: Store) -> list[dict[str, Any]]:
    """What was withdrawn in a store."""
    return [json.loads(line) for line in store.lines(STANDING)]


def withdrawn_from(store: Store, rule: Rule) -> list[str]:
    """The fingerprints of the data that held what a withdrawal meant, when it was applied."""
    said = [one for one in _applied(store) if (one["by"], one["value"]) == (rule.by, rule.value)]
    return list(dict.fromkeys(data for one in said for data in one["data"]))


def refuse_withdrawn(where: Path) -> None:
    """ArtifactError for an artifact whose weights stand on data that was withdrawn. What has no record, or lies in a store where
    nothing was withdrawn, is let by."""
    folder = where.resolve()
    if folder.is_file():
        folder = folder.parent
    store = Store(folder.parent.parent)
    if not (folder / RECORD).is_file() or not (said := _applied(store)):
        return
    for artifact in history(folder, store).values():
        if artifact is None or artifact.kind not in TRAINING:
            continue
        data = artifact.record["identity"]["inputs"].get(READ)
        for one in said:
            if data in one["data"] and artifact.fingerprint not in one["never_read"]:
                raise ArtifactError(
                    f"{artifact.stage!r} trained on data that was withdrawn ({one['by']} {one['value']}, {one['time'][:10]})",
                    where=str(where),
                    fix="run the recipe again, and it is made without it; to serve it all the same: --withdrawn allow",
                )


def known_values(rule: Rule, holdings: list[Holding]) -> list[str]:
    """What could have been meant instead: the values of that kind that the data holds, the most frequent first."""
    counts: dict[str, int] = {}
    for one in holdings:
        for split in records.SPLITS:
            for _, _, _, row in numbered(one.artifact.path / split, COLUMNS):
                value = {
                    "source": row.get("kind") or row.get("source"),
                    "document": row.get("key"),
                    "licence": row.get("license") or "unknown",
                    "url": url_of(row),
                }[rule.by]
                if value:
                    counts[str(value)] = counts.get(str(value), 0) + 1
    return sorted(counts, key=lambda value: -counts[value])

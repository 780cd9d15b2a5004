"""What stands on a source, a licence, a document or an address: which data holds it, which step read it first, what must go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trivium.corpus import records
from trivium.corpus.withdrawn import COLUMNS, Rule, numbered, url_of
from trivium.errors import ArtifactError
from trivium.pipeline import withdrawals
from trivium.pipeline.contract import Artifact
from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.graph import placed
from trivium.pipeline.record import RECORD, read
from trivium.pipeline.store import Store
from trivium.pipeline.trained import READ, history
from trivium.recipe.deployment import SmallerStage
from trivium.recipe.models import STAGES, TRAINING
from trivium.recipe.synthesis import SynthesizeStage
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
    """What it read itself: to train on, to be calibrated on, to write from; None where it only stands on others."""
    tokens: int | None = None
    first: int | None = None
    """The first step that read any of it, from 1; of what takes no steps, 1."""
    steps: int | None = None
    """Of a training stage: those whose weights it left."""
    known: bool = True
    """Whether `first` could be worked out."""
    upon: str = ""
    """The name of the stage it stands on."""
    shards: tuple[str, ...] = ()
    """Folders of the store with token shards that hold it, and their index."""
    since: Artifact | None = None
    """A shorter run of the same stage that it went on from, and that had read none of it."""

    @property
    def reads(self) -> bool:
        """Whether it has read any of it, or may have."""
        return self.data is not None and (self.first is not None or not self.known)

    @property
    def stands(self) -> bool:
        """Whether what is made from it has to be made again."""
        return self.reads or bool(self.upon)


ABOUT = "of"
"""In the `meta` of a record that was written about a document: the document's key."""


def search(rule: Rule, data: Mapping[str, Artifact]) -> Iterator[Holding]:
    """What of each data artifact is meant; artifacts that hold nothing too. DataError for a damaged split.

    A record is meant, too, where it was made of one: where the data that its stage was made from holds one that is meant under
    the same key (a copy, a reply to the same prompt), or under the key that it was written about.
    """
    meant: dict[str, set[str]] = {}
    for artifact in _ordered(data):
        found = Holding(artifact, set(), 0, 0)
        copied: set[str] = set().union(*(meant.get(one, set()) for one in _made_of(artifact).values()))
        columns = COLUMNS if artifact.kind == "data" else None
        for split in records.SPLITS:
            for file, source, number, row in numbered(artifact.path / split, columns):
                found.total += 1
                key = str(row.get("key", ""))
                if not (rule.meets(row) or key in copied or _about(row) in copied):
                    continue
                found.keys.append(key)
                if split == "train":
                    found.train.add((source, number))
                    found.files.add(f"{split}/{file.name}" if file.suffix != ".jsonl" else file.name)
                else:
                    found.heldout += 1
        meant[artifact.fingerprint] = set(found.keys)
        yield found


def _made_of(artifact: Artifact) -> dict[str, str]:
    """Role -> fingerprint of what an artifact's content comes from: what it was only compared with is left out."""
    inputs: dict[str, str] = artifact.record["identity"]["inputs"]
    return {role: print_ for role, print_ in inputs.items() if not role.startswith("decontaminate")}


def _about(row: Mapping[str, Any]) -> str | None:
    meta = row.get("meta")
    return meta.get(ABOUT) if isinstance(meta, Mapping) else None


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


def standing(holdings: Iterable[Holding], artifacts: Mapping[str, Artifact], store: Store) -> list[Standing]:
    """What was made from data that is meant, inputs before what is made from them. What only measured is left out.

    What a model wrote stands on what the model stands on, and so does who learns from it.
    """
    holding = {one.artifact.fingerprint: one for one in holdings if one.train}
    found: dict[str, Standing] = {}
    for artifact in _ordered(artifacts):
        if artifact.kind in ("evaluate", "tokenizer"):
            continue
        inputs = _made_of(artifact)
        read_ = holding.get(inputs.get(READ, ""))
        upon = next((found[one] for one in inputs.values() if one in found and found[one].stands), None)
        named = upon.artifact.stage if upon else ""
        one = None if read_ is None else _reads(artifact, read_, named, store)
        if one is not None or upon:
            found[artifact.fingerprint] = one or Standing(artifact, None, upon=named)
    return list(found.values())


def _ordered(artifacts: Mapping[str, Artifact]) -> list[Artifact]:
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


def _reads(artifact: Artifact, holding: Holding, upon: str, store: Store) -> Standing | None:
    """How an artifact reads data that holds what is meant; None where it does not. ArtifactError for a damaged tokenizer."""
    if artifact.kind in TRAINING:
        return _trains(artifact, holding, upon, store)
    config = STAGES[artifact.kind].model_validate(_fields(artifact))
    if isinstance(config, SynthesizeStage):  # rows that are made of one record each are found by its key
        mixed = config.method == "self_instruct"
        return Standing(artifact, holding.artifact, known=False, upon=upon) if mixed else None
    if isinstance(config, SmallerStage) and config.calibrated:
        from trivium.deploy.rows import first_records

        keys = set(holding.keys)
        shown = first_records(holding.artifact.path / "train", config.items)
        if any(str(row.get("key", "")) in keys for row in shown):
            return Standing(artifact, holding.artifact, first=1, upon=upon)
    return None


def _trains(artifact: Artifact, holding: Holding, upon: str, store: Store) -> Standing:
    from trivium.batches.seen import SEEN, Reading
    from trivium.corpus.shards import place
    from trivium.model.hf import read_config
    from trivium.phases import PHASES
    from trivium.text.chat import ChatTokenizer

    data = holding.artifact
    chat = ChatTokenizer.load(artifact.path)
    shards = place(store.root / "tokens", data.fingerprint, chat)
    tokens = _tokens(holding, shards, chat)
    caches = tuple(
        f"{part}/{shards.name}" for part in ("tokens", "index") if (store.root / part / shards.name).is_dir()
    )
    about = Standing(artifact, data, tokens, known=False, upon=upon, shards=caches)
    seen = SEEN.get(PHASES[artifact.kind].batches)
    config = config_of(artifact)
    others = {
        role: folder
        for role, one in artifact.record["identity"]["inputs"].items()
        if (folder := store.fetch(one)) is not None
    }
    by_text = getattr(config, "match", None) == "text"  # rows depend on the teacher's tokenizer
    if seen is None or (by_text and "teacher" not in others):
        return about
    new = (
        None if config.init is not None else config.model.context
    )  # what is unfinished has no model beside it
    context = config.context or new or read_config(artifact.path).config.context
    seed = derive(artifact.record["identity"]["seed"], artifact.kind)
    shown = seen(Reading(config, data.path, shards, chat, context, seed, others), holding.train)
    taken = _taken(artifact, shown.steps)
    first = shown.first if shown.first is not None and shown.first <= taken else None
    return replace(
        about, first=first, steps=taken, known=True, since=_since(artifact, first, store) if first else None
    )


def _taken(artifact: Artifact, planned: int) -> int:
    """The step whose weights a training stage left: the best one's where it kept that, and the last one where it ended early. All
    that were planned where batches were left out, as steps are counted then as they were read, or nobody noted whether."""
    metrics = artifact.metrics
    steps, best = metrics.get("steps"), metrics.get("best")
    if steps is None or metrics.get("position") != steps:
        return planned
    if artifact.record["identity"].get("keep_best") and best and not best.get("lost"):
        return int(best["step"])
    return min(planned, int(steps))


def _since(artifact: Artifact, first: int, store: Store) -> Artifact | None:
    """The shorter run that a training stage went on from, if that had not come to step `first` yet and is still there."""
    went_on = artifact.metrics.get("went_on") or {}
    if not went_on or went_on["step"] >= first or not store.has(went_on["from"]):
        return None
    return read(store.path(went_on["from"]))


def config_of(artifact: Artifact) -> Any:
    """The stage of a recipe that a training artifact was made from, with the names its inputs had then."""
    return TRAINING[artifact.kind].model_validate(_fields(artifact))


def _fields(artifact: Artifact) -> dict[str, Any]:
    """What the recipe said of the stage, with the names that its inputs had then."""
    identity = dict(artifact.record["identity"])
    names = {fingerprint: name for name, fingerprint in artifact.inputs.items()}
    roles = identity.pop("inputs")
    fields = {name: value for name, value in identity.items() if name not in ("version", "seed", "extra")}
    for role, print_ in roles.items():
        fields = placed(fields, role, names[print_])
    return fields


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
        "stands": [one.artifact.fingerprint for one in stood if one.stands],
        "never_read": [one.artifact.fingerprint for one in stood if not one.stands],
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
        if artifact is None:
            continue
        data = artifact.record["identity"]["inputs"].get(READ) if artifact.kind in TRAINING else None
        for one in said:
            stands = artifact.fingerprint in one["stands"]
            if stands or (data in one["data"] and artifact.fingerprint not in one["never_read"]):
                verb = "trained on" if data in one["data"] else "stands on"
                raise ArtifactError(
                    f"{artifact.stage!r} {verb} data that was withdrawn ({one['by']} {one['value']}, {one['time'][:10]})",
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

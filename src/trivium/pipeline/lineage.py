"""Where an artifact comes from: the tree of everything it was made from, down to sources and licences."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivium.errors import ArtifactError
from trivium.pipeline.contract import Artifact
from trivium.pipeline.store import Store

if TYPE_CHECKING:
    from rich.tree import Tree

MISSING = "missing"
ACCOUNT = "account.json"
"""What a data artifact says of its sources."""


@dataclass(frozen=True)
class Node:
    """One artifact and what it was made from."""

    stage: str
    kind: str
    """The stage kind, or `missing` when the artifact is no longer in the store."""
    fingerprint: str
    recipe: str = ""
    created: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Data artifacts only: the `sources` of account.json (kind, license, origin, shares, counts)."""
    inputs: list[Node] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: what a release keeps as lineage.json."""
        plain = {
            key: value for key, value in vars(self).items() if key != "inputs" and value not in ("", [], {})
        }
        return {**plain, "inputs": [node.as_dict() for node in self.inputs]}


def lineage(where: str | Path, store: Store) -> Node:
    """The tree behind an artifact: a folder, a link, a fingerprint or the start of one.

    ArtifactError if there is none. Records are checked, the artifacts' other files are not: this works on a
    store too large to read through.
    """
    return _node(store.look(where, ACCOUNT), store, {})


def _node(artifact: Artifact, store: Store, known: dict[str, Node]) -> Node:
    inputs = []
    for stage, fingerprint in artifact.inputs.items():
        if fingerprint not in known:
            made_from = store.peek(fingerprint, ACCOUNT)
            known[fingerprint] = (
                Node(stage, MISSING, fingerprint) if made_from is None else _node(made_from, store, known)
            )
        inputs.append(known[fingerprint])
    record = artifact.record
    return Node(
        stage=artifact.stage,
        kind=artifact.kind,
        fingerprint=artifact.fingerprint,
        recipe=record["recipe"],
        created=record["created"],
        metrics=artifact.metrics,
        environment=record["environment"],
        sources=_sources(artifact),
        inputs=inputs,
    )


def _sources(artifact: Artifact) -> list[dict[str, Any]]:
    path = artifact.path / ACCOUNT
    if artifact.kind not in ("data", "synthesize") or not path.is_file():
        return []
    try:
        sources: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["sources"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no account of sources: {error}", where=str(path)) from None
    return sources


def render(node: Node) -> Tree:
    """The tree for the terminal. What several stages share is written out once."""
    from rich.text import Text
    from rich.tree import Tree

    written: set[str] = set()

    def fill(branch: Tree, node: Node) -> None:
        if node.fingerprint in written:
            branch.add(Text("(as above)", style="dim"))
            return
        written.add(node.fingerprint)
        for line in details(node):
            branch.add(Text(line, style="dim"))
        for child in node.inputs:
            fill(branch.add(title(child)), child)

    def title(node: Node) -> Text:
        return Text.assemble(
            (node.stage, "bold"),
            f"  {node.kind}  ",
            (node.fingerprint[:12], "cyan"),
            f"  {node.created[:19]}",
        )

    tree = Tree(title(node))
    fill(tree, node)
    return tree


def details(node: Node) -> list[str]:
    """The lines under an artifact's name: what it measured, what made it, and where data comes from."""
    lines = []
    numbers = {key: value for key, value in node.metrics.items() if isinstance(value, int | float)}
    if numbers:
        lines.append("  ".join(f"{key} {_number(value)}" for key, value in list(numbers.items())[:6]))
    if node.environment:
        lines.append("  ".join(f"{key} {value}" for key, value in node.environment.items()))
    for source in node.sources:
        planned, realised = source.get("planned_share"), source.get("realised_share")
        share = "" if realised is None else f" {realised:.1%}"
        share += "" if planned is None else f" (planned {planned:.1%})"
        terms = f"licence {source.get('license') or 'unknown'}, from {source.get('origin') or 'unknown'}"
        lines.append(f"{source.get('kind', 'source')}{share}: {terms}")
    lines += [f"{share:.1%} of the training tokens: {what}" for what, share in shown(node.metrics)]
    return lines


def shown(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """(source and licence, share of the tokens that were trained on), the largest first; empty if it is not known.

    For checkpoints of pre-training: what the run really showed, with every repetition.
    """
    data = metrics.get("data")
    sources = data.get("sources", []) if isinstance(data, dict) else []
    found = [
        (
            f"{one.get('kind') or 'source'} ({one.get('license') or 'licence unknown'}, {one.get('origin') or 'unknown'})",
            float(one["realised"]),
        )
        for one in sources
    ]
    return sorted(found, key=lambda pair: -pair[1])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

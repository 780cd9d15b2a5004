import io
import json

import pytest
from pipeline_fakes import Bench
from rich.console import Console

from trivium.errors import ArtifactError
from trivium.pipeline.lineage import lineage, render


def names(node) -> dict:
    return {child.stage: names(child) for child in node.inputs}


def test_the_tree_holds_everything_an_artifact_was_made_from(bench: Bench):
    made = bench.run()
    node = lineage(bench.root / "runs" / "demo" / "small", bench.store)
    base = {"corpus": {}, "vocab": {"corpus": {}}}
    assert names(node) == {"chat": {"base": base, "chats": {}}}
    assert node == lineage(made["small"].fingerprint[:16], bench.store)
    assert node.environment["python"] and node.metrics == made["small"].metrics
    place = [child.stage for child in node.inputs[0].inputs].index("chats")
    chats = node.inputs[0].inputs[place]
    assert chats.sources[0]["license"] == "CC0"
    plain = json.loads(json.dumps(node.as_dict()))
    assert plain["inputs"][0]["inputs"][place]["sources"] == chats.sources
    assert [child["stage"] for child in plain["inputs"]] == ["chat"]


def test_the_page_shows_licences_and_writes_shared_parts_once(bench: Bench):
    bench.run()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(lineage(bench.root / "runs/demo/small", bench.store)))
    text = console.export_text()
    assert "jsonl 100.0% (planned 100.0%): licence CC0, from here" in text
    assert "loss 0.25" in text and text.count("(as above)") == 1 and text.count("licence") == 2


def test_a_lost_input_is_shown_as_missing(bench: Bench):
    made = bench.run()
    made["corpus"].path.rename(bench.root / "elsewhere")
    node = lineage(made["vocab"].path, bench.store)
    assert [(child.stage, child.kind) for child in node.inputs] == [("corpus", "missing")]


def test_no_artifact_and_a_broken_account(bench: Bench):
    with pytest.raises(ArtifactError, match="no artifact"):
        lineage("runs/demo/nothing", bench.store)
    made = bench.run(only=["corpus"])
    (made["corpus"].path / "account.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no account of sources"):
        lineage(made["corpus"].path, bench.store)

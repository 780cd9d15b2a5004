"""A candidate is served only if its release's gates passed and its files are whole, or if somebody says otherwise aloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trivium import files
from trivium.cli import main
from trivium.cli.router import candidate_of
from trivium.errors import ArtifactError, DataError, GateError, RecipeError
from trivium.pipeline.fingerprint import fingerprint
from trivium.pipeline.released import check_release
from trivium.pipeline.store import Store
from trivium.rollout.plan import load_plan, plan_of
from trivium.rollout.server import Options, check

PLAN = Path(__file__).parents[2] / "examples" / "rollout.yaml"


def release(
    root: Path, kind: str = "release", passed: object = True, requires: tuple[str, ...] = ("safety",)
) -> Path:
    """What a release stage leaves, as far as gates go; an evaluation that it does not require has failed."""
    store = Store(root)
    identity = {"kind": kind, "passed": str(passed), "extra": {"names": ["small", *requires]}}
    name = fingerprint(identity)
    gates = {
        "safety": {"gates": {"refusals": {"passed": passed}, "leaks": {"passed": True}}},
        "early": {"gates": {"refusals": {"passed": False}}},
    }
    with store.building(name) as (out, _):
        files.write_json(out / "report.json", {"gates": gates})
        (out / "model.safetensors").write_bytes(b"weights")
        record = {"kind": kind, "stage": "out", "metrics": {}, "fingerprint": name, "identity": identity}
        return store.put(out, record).path


def test_a_release_with_passed_gates_is_taken(tmp_path: Path) -> None:
    found = check_release(release(tmp_path))
    assert found["gates"] == 2 and found["kind"] == "release" and len(found["fingerprint"]) == 64


@pytest.mark.parametrize(
    "changes", [{"passed": False}, {"passed": None}, {"kind": "quantize"}, {"requires": ()}], ids=str
)
def test_what_has_passed_no_gate_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(GateError):
        check_release(release(tmp_path, **changes))


def test_damaged_files_are_refused_whatever_is_said(tmp_path: Path) -> None:
    folder = release(tmp_path)
    (folder / "model.safetensors").write_bytes(b"weightz")
    plan = with_artifact(str(folder))
    for allowed in (False, True):
        with pytest.raises(ArtifactError, match="damaged"):
            candidate_of(plan, tmp_path, allowed)


def with_artifact(artifact: str) -> Any:
    raw = load_plan(PLAN).model_dump(mode="json")
    raw["arms"]["candidate"]["artifact"] = artifact
    return plan_of(raw)


def test_what_nobody_has_seen_needs_a_word(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="nobody has seen"):
        candidate_of(load_plan(PLAN), tmp_path, False)
    assert candidate_of(load_plan(PLAN), tmp_path, True)["url"] == "http://127.0.0.1:8002"
    failed = release(tmp_path, passed=False)
    with pytest.raises(GateError):
        candidate_of(with_artifact(failed.name), failed.parent, False)
    assert "fingerprint" not in candidate_of(with_artifact(failed.name), failed.parent, True)


def test_plans_that_cannot_be_served() -> None:
    raw = json.loads(load_plan(PLAN).model_dump_json())
    check(plan_of(raw), Options())
    with pytest.raises(RecipeError, match="who answers"):
        check(plan_of({**raw, "arms": None}), Options())
    with pytest.raises(RecipeError, match="a plan has both, or neither"):
        plan_of({**raw, "guardrails": raw["guardrails"] | {"judged": {"metric": "score"}}})
    raw["arms"]["stable"]["key"] = "SOME_KEY"
    with pytest.raises(DataError, match="own key"):
        check(plan_of(raw), Options(host="0.0.0.0"))


@pytest.mark.parametrize(
    "url", ["localhost:8001", "ftp://x", "http://", "http://user:word@host", "http://host?key=1"]
)
def test_addresses_that_are_none(url: str) -> None:
    raw = load_plan(PLAN).model_dump(mode="json")
    raw["arms"]["stable"]["url"] = url
    with pytest.raises(RecipeError):
        plan_of(raw)


def test_a_base_may_end_in_v1() -> None:
    raw = load_plan(PLAN).model_dump(mode="json")
    raw["arms"]["stable"]["url"] = "http://host:1/v1/"
    assert plan_of(raw).arms["stable"].url == "http://host:1"


def test_commands_without_a_router_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status"], ["rollback", "--reason", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["rollout", *words, "--url", "http://127.0.0.1:9"])
        assert stopped.value.code == 3 and "no router answers" in capsys.readouterr().err

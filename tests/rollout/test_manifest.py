"""What a cluster's own tools are told: the verdict with its evidence, and manifests that ask for it.

The shapes below are the fields that the manifests use, as the published CRDs have them: Argo Rollouts of August 2026, Flagger of
July 2026, KServe of August 2026, Gateway API of August 2026. The whole schemas have half a million characters each.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from routed import Arm, Site, answers, in_loop, site, until, whole

from trivium.cli.app import main
from trivium.errors import RecipeError
from trivium.rollout.manifest import ACCOUNT, Place, manifests
from trivium.rollout.plan import RolloutPlan, plan_of
from trivium.rollout.server import Options

PLAN: dict[str, Any] = {
    "name": "chat",
    "arms": {
        "stable": {"url": "http://chat-primary.models:8000"},
        "candidate": {"url": "http://chat-canary:8000"},
    },
    "stages": [
        {"share": 0, "shadow": True, "decide": False, "max_time": "1d"},
        {"share": 0.05, "decide": False, "max_time": "1d"},
        {"share": 0.5, "max_time": "7d"},
    ],
    "guardrails": {"errors": {"metric": "error", "within": 0.01}},
}
PLACE = Place("http://chat-router:8100", "models", "registry.example/chat:2", gateway="front")
CONTAINER = {
    "name": str, "image": str, "ports": [{"containerPort": int}], "command": [str],
}  # fmt: skip
META = {"name": str, "namespace": str, "annotations": {"serving.kserve.io/enable-tag-routing": str}}
SHAPES: dict[str, Any] = {
    "argoproj.io/v1alpha1 AnalysisTemplate": {
        "args": [{"name": str}],
        "metrics": [
            {
                "name": str, "interval": str, "successCondition": str, "failureCondition": str, "consecutiveSuccessLimit": int,
                "failureLimit": int, "inconclusiveLimit": int, "consecutiveErrorLimit": int,
                "provider": {"web": {"url": str, "jsonPath": str, "timeoutSeconds": int}},
            }
        ],
    },
    "argoproj.io/v1alpha1 Rollout": {
        "replicas": int,
        "selector": {"matchLabels": {"app": str}},
        "template": {"metadata": {"labels": {"app": str}}, "spec": {"containers": [CONTAINER]}},
        "strategy": {
            "canary": {
                "stableService": str, "canaryService": str,
                "steps": [
                    {"setWeight": int, "analysis": {"templates": [{"templateName": str}], "args": [{"name": str, "value": str}]}}
                ],
            }
        },
    },
    "v1 Service": {"selector": {"app": str}, "ports": [{"port": int, "targetPort": int}]},
    "flagger.app/v1beta1 Canary": {
        "provider": str,
        "targetRef": {"apiVersion": str, "kind": str, "name": str},
        "service": {"port": int},
        "analysis": {
            "interval": str, "threshold": int, "iterations": int,
            "webhooks": [{"name": str, "type": str, "url": str, "timeout": str}],
        },
    },
    "gateway.networking.k8s.io/v1 HTTPRoute": {
        "parentRefs": [{"name": str}],
        "rules": [{"backendRefs": [{"name": str, "port": int}]}],
    },
    "serving.kserve.io/v1beta1 InferenceService": {
        "predictor": {"containers": [CONTAINER], "canaryTrafficPercent": int},
    },
    "batch/v1 Job": {
        "template": {"spec": {"serviceAccountName": str, "restartPolicy": str, "containers": [CONTAINER]}},
    },
    "v1 ServiceAccount": None,
    "rbac.authorization.k8s.io/v1 Role": None,
    "rbac.authorization.k8s.io/v1 RoleBinding": None,
}  # fmt: skip


def check(value: Any, shape: Any, where: str) -> None:
    """Whether a value has no field but those of the shape, each of its type."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) <= set(shape), (where, set(value) - set(shape))
        for name, inner in value.items():
            check(inner, shape[name], f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list) and value, where
        for number, inner in enumerate(value):
            check(inner, shape[0], f"{where}[{number}]")
    else:
        assert type(value) is shape, (where, value)


def written(kind: str, capsys: pytest.CaptureFixture[str], folder: Path) -> list[dict[str, Any]]:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    words = [
        "--for",
        kind,
        "--router",
        PLACE.router,
        "--image",
        str(PLACE.image),
        "--namespace",
        "models",
        "--gateway",
        "front",
    ]
    with pytest.raises(SystemExit) as stopped:
        main(["rollout", "manifest", str(path), *words])
    assert stopped.value.code == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.mark.parametrize("kind", ["argo", "flagger", "kserve"])
def test_manifests_have_the_fields_of_their_schemas(
    kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = written(kind, capsys, tmp_path)
    assert made == manifests(plan_of(PLAN), kind, PLACE)
    for manifest in made:
        name = f"{manifest['apiVersion']} {manifest['kind']}"
        check(manifest["metadata"], META, name)
        assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
        assert set(manifest) <= {"apiVersion", "kind", "metadata", "spec", "rules", "roleRef", "subjects"}
        if SHAPES[name] is not None:
            check(manifest["spec"], SHAPES[name], name)
    assert made[-1]["kind"] == "HTTPRoute" and made[-1]["spec"]["rules"][0]["backendRefs"][0]["port"] == 8100


def test_pods_keep_pace_with_the_stages() -> None:
    template, rollout, *services = manifests(plan_of(PLAN), "argo", PLACE)[:-1]
    canary = rollout["spec"]["strategy"]["canary"]
    assert [step["setWeight"] for step in canary["steps"][::2]] == [1, 5, 50]  # a shadow needs a pod, too
    assert [step["analysis"]["args"][0]["value"] for step in canary["steps"][1::2]] == ["1", "2", "3"]
    assert [service["metadata"]["name"] for service in services] == ["chat-primary", "chat-canary"]
    metric = template["spec"]["metrics"][0]
    assert (
        metric["inconclusiveLimit"] * 10 >= 7 * 86_400
    )  # a hold is no verdict until the plan's own time is over


@pytest.mark.parametrize(
    ("kind", "change", "place", "says"),
    [
        ("helm", {}, {}, "argo, flagger or kserve"),
        ("argo", {"arms": None}, {}, "no Service"),
        (
            "argo",
            {"arms": {name: {"url": "http://127.0.0.1:1"} for name in ("stable", "candidate")}},
            {},
            "no Service",
        ),
        ("argo", {}, {"image": None}, "need an image"),
        ("argo", {}, {"router": "chat-router"}, "no address"),
        (
            "flagger",
            {"arms": {name: {"url": f"http://chat-{name}:1"} for name in ("stable", "candidate")}},
            {},
            "-primary",
        ),
        (
            "flagger",
            {"arms": None, "goal": "errors", "stages": [{"share": {"a": 0.1, "b": 0.1}, "max_time": "1d"}]},
            {},
            "knows one candidate",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(kind: str, change: Any, place: Any, says: str) -> None:
    fields = {"router": PLACE.router, "image": PLACE.image} | place
    with pytest.raises(RecipeError) as refused:
        manifests(plan_of(PLAN | change), kind, Place(**fields))
    assert says in f"{refused.value} {refused.value.fix}"


STAGES = [{"share": 0.3, "min_units": 10_000, "decide": False}, {"share": 0.5, "min_units": 10_000}]


async def measured(here: Site, stage: int) -> str:
    """What Argo Rollouts would call the measurement of the metric that is written for it."""
    arms = {"stable": {"url": "http://a"}, "candidate": {"url": "http://b"}}
    plan = plan_of(PLAN | {"arms": arms, "stages": STAGES})
    metric = manifests(plan, "argo", Place(here.url, image="x"))[0]["spec"]["metrics"][0]
    url = metric["provider"]["web"]["url"].replace("{{args.stage}}", str(stage))
    assert metric["provider"]["web"]["jsonPath"] == "{$.verdict}"
    async with here.http.get(url) as response:
        assert response.status == 200 and response.content_type == "application/json"
        result = (await response.json())["verdict"]
    for phase, condition in (("Successful", "successCondition"), ("Failed", "failureCondition")):
        found = re.fullmatch('result == "(.*)"', metric[condition])
        if found is not None and found[1] == result:
            return phase
    return "Inconclusive"


async def hook(here: Site, kind: str) -> int:
    """The status that Flagger's webhook of that type gets."""
    canary = manifests(plan_of(PLAN), "flagger", Place(here.url))[0]
    found = next(each for each in canary["spec"]["analysis"]["webhooks"] if each["type"] == kind)
    body = {"name": "chat", "namespace": "models", "phase": "Progressing", "metadata": {}}
    async with here.http.post(found["url"], json=body) as response:
        return response.status


@in_loop
async def test_the_verdict_of_every_state_reaches_those_who_move_pods(tmp_path: Path) -> None:
    async with site(tmp_path / "log.jsonl", stages=STAGES) as here:
        assert [await measured(here, stage) for stage in (1, 2)] == ["Inconclusive"] * 2
        assert (await hook(here, "confirm-promotion"), await hook(here, "rollback")) == (409, 409)
        async with here.http.get(f"{here.url}/rollout/evidence") as response:
            told = await response.json()
        assert told["verdict"] == "hold" and "of 10000 units" in told["reason"]
        assert (
            told["guardrails"]["errors"]["harm"]["limit"] > 0
            and told["candidates"]["candidate"]["share"] == 0.3
        )
        await here.do("promote")
        assert [await measured(here, stage) for stage in (1, 2)] == ["Successful", "Inconclusive"]
        await here.do("hold", reason="lunch")
        async with here.http.get(f"{here.url}/rollout/evidence?stage=2") as response:
            assert (await response.json())["reason"] == "held: lunch"
        await here.do("resume")
        await here.do("promote")
        assert [await measured(here, stage) for stage in (1, 2)] == ["Successful"] * 2
        assert (await hook(here, "confirm-promotion"), await hook(here, "rollback")) == (200, 409)
        await here.do("rollback", reason="complaints")
        assert [await measured(here, stage) for stage in (1, 2)] == ["Failed"] * 2
        assert (await hook(here, "confirm-promotion"), await hook(here, "rollback")) == (409, 200)
        for query in ("stage=0", "stage=3", "stage=x", "stage=²", "who=ann", "stage=99999999999"):
            async with here.http.get(f"{here.url}/rollout/evidence?{query}") as response:
                assert response.status == 400, query
        async with here.http.delete(f"{here.url}/rollout/evidence") as response:
            assert response.status == 405
        assert (
            len([e for e in await here.written() if e["event"] == "verdict"]) == 5
        )  # looking writes nothing


@in_loop
async def test_evidence_needs_a_key_unless_it_is_open(tmp_path: Path) -> None:
    keys = tmp_path / "admins.txt"
    keys.write_text("")
    for opened, status in ((False, 401), (True, 200)):
        options = Options(admin_keys=keys, open_evidence=opened)
        async with site(tmp_path / f"{opened}.jsonl", options=options) as here:
            for path, wanted in (("evidence", status), ("status", 401)):
                async with here.http.get(f"{here.url}/rollout/{path}") as response:
                    assert response.status == wanted


@in_loop
async def test_a_candidate_that_fails_is_told_to_argo_and_flagger(tmp_path: Path) -> None:
    async with site(tmp_path / "log.jsonl", candidate=answers(whole("")), stages=STAGES) as here:
        for n in range(200):
            if here.ledger.share == 0:
                break
            await here.ask(str(n))
        await until(lambda: here.ledger.share == 0)
        assert await measured(here, 1) == "Failed" and await hook(here, "rollback") == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("action", "patched"), [("promote", "null"), ("rollback", "0")])
@in_loop
async def test_kserve_is_patched_with_the_verdict(tmp_path: Path, action: str, patched: str) -> None:
    """The Job's own script, with the cluster's API played by a stub that refuses the first call."""
    api = Arm()

    async def handler(request: web.Request, body: Any) -> web.StreamResponse:
        return web.Response(status=503 if len(api.seen) == 1 else 200)

    api.handler = handler
    await api.start()
    (tmp_path / "token").write_text("of-the-account")
    plan: RolloutPlan = plan_of(PLAN)
    async with site(tmp_path / "log.jsonl", stages=STAGES[1:]) as here:
        job = manifests(plan, "kserve", Place(here.url, "models", "x", 1))[-1]
        script = job["spec"]["template"]["spec"]["containers"][0]["command"][2]
        assert script.count(ACCOUNT) == 2 and "https://kubernetes.default.svc/" in script
        script = script.replace(f"--cacert {ACCOUNT}/ca.crt", "").replace(ACCOUNT, str(tmp_path))
        script = script.replace("https://kubernetes.default.svc", f"http://127.0.0.1:{api.port}")
        running = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
        try:
            await until(lambda: here.router is not None and running.poll() is None)
            assert not api.seen  # nothing has been decided
            await here.do(action)
            await until(lambda: running.poll() is not None)
        finally:
            running.kill()
    await api.stop()
    assert running.returncode == 0 and len(api.seen) == 2
    value = api.seen[-1]["spec"]["predictor"]["canaryTrafficPercent"]
    assert value == (None if patched == "null" else 0)
    assert {name.lower(): text for name, text in api.heads[-1].items()}[
        "authorization"
    ] == "Bearer of-the-account"

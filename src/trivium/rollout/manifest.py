"""Manifests for what moves the pods of a cluster while the router moves the requests: Argo Rollouts, Flagger, KServe. Pure.

The router keeps the split: it is sticky, exact and goes back at once. Of the cluster's tool it takes what it cannot do: new pods,
and the end of the old ones. That tool asks the router's evidence (`/rollout/evidence`) and does what the verdict says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trivium.errors import RecipeError
from trivium.rollout.assign import STABLE
from trivium.rollout.plan import RolloutPlan

Manifest = dict[str, Any]
FOREVER = 1_000_000
"""Measurements that may be undecided where the plan has no longest time."""
AWAY = 30
"""Measurements in a row in which the router may be away."""
WATCHER = "curlimages/curl:8.16.0"
"""Image of what tells KServe the verdict: it needs a shell and curl."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds the account that it acts as."""


@dataclass(frozen=True)
class Place:
    """Where the manifests are for. `router`: its address in the cluster; `image`: what the pods run; `interval`: seconds between
    two questions."""

    router: str
    namespace: str = "default"
    image: str | None = None
    interval: int = 10
    gateway: str | None = None
    """Of the Gateway API: the gateway whose requests are led to the router."""


def manifests(plan: RolloutPlan, kind: str, place: Place) -> list[Manifest]:
    """Of `argo`, `flagger` or `kserve`. RecipeError where the plan cannot be one of theirs."""
    made = {"argo": _argo, "flagger": _flagger, "kserve": _kserve}.get(kind)
    if made is None:
        raise RecipeError(
            f"there are no manifests for {kind!r}", where="--for", fix="argo, flagger or kserve"
        )
    if len(plan.candidates) > 1:
        raise RecipeError(
            f"{kind} knows one candidate, and the plan has {len(plan.candidates)}",
            fix="write a plan for one of them",
        )
    parts = urlsplit(place.router)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise RecipeError(f"{place.router!r} is no address", where="--router", fix="http://chat-router:8100")
    return made(plan, place) + ([] if place.gateway is None else [_route(plan, place, place.gateway)])


def _route(plan: RolloutPlan, place: Place, gateway: str) -> Manifest:
    """By which a gateway leads to the router."""
    router = urlsplit(place.router)
    port = router.port or (443 if router.scheme == "https" else 80)
    backend = {"name": str(router.hostname).split(".")[0], "port": port}
    route = {"parentRefs": [{"name": gateway}], "rules": [{"backendRefs": [backend]}]}
    return _made("gateway.networking.k8s.io/v1", "HTTPRoute", f"{plan.name}-router", place, route)


def _argo(plan: RolloutPlan, place: Place) -> list[Manifest]:
    """A Rollout whose pods keep pace with the stages, and the AnalysisTemplate that asks whether a stage has been passed."""
    (stable, port), (candidate, _) = _services(plan)
    template = f"{plan.name}-evidence"
    steps: list[Manifest] = []
    for number, stage in enumerate(plan.stages, start=1):
        steps.append({"setWeight": max(1, math.ceil(100 * stage.total))})  # no pod, no evidence
        asked = [{"name": "stage", "value": str(number)}]
        steps.append({"analysis": {"templates": [{"templateName": template}], "args": asked}})
    longest = [stage.max_time for stage in plan.stages]
    limit = FOREVER if None in longest else math.ceil(max(t or 0 for t in longest) / place.interval) + AWAY
    metric = {
        "name": "evidence",
        "interval": f"{place.interval}s",
        "successCondition": 'result == "promote"',
        "failureCondition": 'result == "roll back"',
        "consecutiveSuccessLimit": 1,
        "failureLimit": 0,
        "inconclusiveLimit": limit,
        "consecutiveErrorLimit": AWAY,
        "provider": {
            "web": {
                "url": f"{place.router.rstrip('/')}/rollout/evidence?stage={{{{args.stage}}}}",
                "jsonPath": "{$.verdict}",
                "timeoutSeconds": 5,
            }
        },
    }
    pod = {"containers": [{"name": "server", "image": _image(place), "ports": [{"containerPort": port}]}]}
    rollout = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": plan.name}},
        "template": {"metadata": {"labels": {"app": plan.name}}, "spec": pod},
        "strategy": {"canary": {"stableService": stable, "canaryService": candidate, "steps": steps}},
    }
    return [
        _made(
            "argoproj.io/v1alpha1",
            "AnalysisTemplate",
            template,
            place,
            {"args": [{"name": "stage"}], "metrics": [metric]},
        ),
        _made("argoproj.io/v1alpha1", "Rollout", plan.name, place, rollout),
        *(_service(name, plan.name, port, place) for name in (stable, candidate)),
    ]


def _flagger(plan: RolloutPlan, place: Place) -> list[Manifest]:
    """A Canary without a mesh: its promotion waits for the router's, and it fails when the router rolls back."""
    (stable, port), (candidate, _) = _services(plan)
    name = stable.removesuffix("-primary")
    if (stable, candidate) != (f"{name}-primary", f"{name}-canary"):
        raise RecipeError(
            f"Flagger calls its Services {name}-primary and {name}-canary, and the plan's arms {stable} and {candidate}",
            where="arms",
            fix=f"stable: {{url: http://{name}-primary:{port}}}, candidate: {{url: http://{name}-canary:{port}}}",
        )
    evidence = f"{place.router.rstrip('/')}/rollout/evidence"
    hooks = [
        {"name": "promoted", "type": "confirm-promotion", "url": f"{evidence}/promote", "timeout": "5s"},
        {"name": "rolled-back", "type": "rollback", "url": f"{evidence}/rollback", "timeout": "5s"},
    ]
    canary = {
        "provider": "kubernetes",
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "service": {"port": port},
        "analysis": {"interval": f"{place.interval}s", "threshold": AWAY, "iterations": 1, "webhooks": hooks},
    }
    return [_made("flagger.app/v1beta1", "Canary", name, place, canary)]


def _kserve(plan: RolloutPlan, place: Place) -> list[Manifest]:
    """An InferenceService whose revisions the router reaches by their tags, and a Job that hands it the verdict."""
    pod = {"containers": [{"name": "kserve-container", "image": _image(place)}], "canaryTrafficPercent": 0}
    service = _made("serving.kserve.io/v1beta1", "InferenceService", plan.name, place, {"predictor": pod})
    service["metadata"]["annotations"] = {"serving.kserve.io/enable-tag-routing": "true"}
    name = f"{plan.name}-verdict"
    where = f"https://kubernetes.default.svc/apis/serving.kserve.io/v1beta1/namespaces/{place.namespace}/inferenceservices"
    script = f"""set -u
told() {{ curl -fsS -m 5 -o /dev/null "{place.router.rstrip("/")}/rollout/evidence/$1"; }}
patch() {{
  until curl -fsS --cacert {ACCOUNT}/ca.crt -H "Authorization: Bearer $(cat {ACCOUNT}/token)" -o /dev/null \\
    -H 'Content-Type: application/merge-patch+json' -X PATCH -d "$1" {where}/{plan.name}; do sleep {place.interval}; done
}}
while sleep {place.interval}; do
  if told promote; then patch '{{"spec":{{"predictor":{{"canaryTrafficPercent":null}}}}}}'; exit 0; fi
  if told rollback; then patch '{{"spec":{{"predictor":{{"canaryTrafficPercent":0}}}}}}'; exit 0; fi
done
"""
    container = {"name": "verdict", "image": WATCHER, "command": ["sh", "-c", script]}
    job = {
        "template": {
            "spec": {"serviceAccountName": name, "restartPolicy": "OnFailure", "containers": [container]}
        }
    }
    allowed = {
        "apiGroups": ["serving.kserve.io"],
        "resources": ["inferenceservices"],
        "resourceNames": [plan.name],
    }
    role = _made("rbac.authorization.k8s.io/v1", "Role", name, place) | {
        "rules": [allowed | {"verbs": ["get", "patch"]}]
    }
    binding = _made("rbac.authorization.k8s.io/v1", "RoleBinding", name, place) | {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": place.namespace}],
    }
    account = _made("v1", "ServiceAccount", name, place)
    return [service, account, role, binding, _made("batch/v1", "Job", name, place, job)]


def _made(version: str, kind: str, name: str, place: Place, spec: Manifest | None = None) -> Manifest:
    made: Manifest = {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": place.namespace},
    }
    return made if spec is None else made | {"spec": spec}


def _service(name: str, app: str, port: int, place: Place) -> Manifest:
    return _made(
        "v1",
        "Service",
        name,
        place,
        {"selector": {"app": app}, "ports": [{"port": port, "targetPort": port}]},
    )


def _image(place: Place) -> str:
    if place.image is None:
        raise RecipeError("the pods need an image", where="--image", fix="--image REGISTRY/NAME:TAG")
    return place.image


def _services(plan: RolloutPlan) -> list[tuple[str, int]]:
    """Name and port of the Services behind stable and the candidate. RecipeError where the plan's arms are none."""
    found = []
    for name in (STABLE, plan.candidates[0]):
        parts = urlsplit(plan.arms[name].url if plan.arms is not None else "")
        host = (parts.hostname or "").split(".")[0]
        if not host or host.isdigit() or host == "localhost":
            raise RecipeError(
                f"the {name} arm is no Service of a cluster",
                where=f"arms.{name}.url",
                fix=f"name it as the cluster does, such as http://{plan.name}-{name}:8000",
            )
        found.append((host, parts.port or (443 if parts.scheme == "https" else 80)))
    return found

"""The manifests that the documentation shows are such that Kubernetes takes them, and mistakes in them are found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

validator = pytest.importorskip("kubernetes_validate")
yaml = pytest.importorskip("yaml")

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs/examples/kubernetes"
RAY_SCHEMA = json.loads((REPOSITORY / "tests/raycluster.schema.json").read_text())
VERSION = "1.34"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))

Json = dict[str, Any]


def read(name: str) -> list[Json]:
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document is not None]


def documents() -> list[Any]:
    return [
        pytest.param(document, id=f"{name}-{document['kind']}-{document['metadata']['name']}")
        for name in FILES
        for document in read(name)
    ]


def check(document: Json) -> None:
    """Raise an error of one of the validators."""
    if document["apiVersion"] != "ray.io/v1":
        validator.validate(document, VERSION, strict=True)
        return
    jsonschema.validate(document, RAY_SCHEMA)
    groups = [document["spec"]["headGroupSpec"], *document["spec"].get("workerGroupSpecs", ())]
    for group in groups:
        # A definition of its own has no schema there; its pod templates are those of any workload.
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": group["template"]}
        validator.validate(template, VERSION, strict=True)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return each container in a document, and each key or index of it."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [one for key in keys for one in places(value[key])]


def refused(document: Json) -> bool:
    try:
        check(document)
    except (jsonschema.ValidationError, validator.ValidationError):
        return True
    return False


@pytest.mark.parametrize("document", documents())
def test_manifests_are_valid(document: Json) -> None:
    check(document)


def misspelled(container: Any, key: Any) -> bool:
    if not isinstance(container, dict):
        return False
    container[f"{key}x"] = container.pop(key)
    return True


def of_wrong_shape(container: Any, key: Any) -> bool:
    if not isinstance(container[key], (dict, list)):
        return False
    container[key] = "no such thing"
    return True


FREE = {"labels", "matchLabels", "annotations", "rayStartParams", "requests", "limits", "selector"}
"""Objects with any names in them."""


@pytest.mark.parametrize("corrupt", [misspelled, of_wrong_shape])
@pytest.mark.parametrize("document", documents())
def test_each_mistake_in_a_manifest_is_found(document: Json, corrupt: Callable[[Any, Any], bool]) -> None:
    free = [id(container[key]) for container, key in places(document) if key in FREE]
    tried = 0
    for number, (container, key) in enumerate(places(document)):
        if id(container) in free or key in ("apiVersion", "kind"):
            continue
        broken = copy.deepcopy(document)
        if corrupt(*places(broken)[number]):
            tried += 1
            assert refused(broken), f"{corrupt.__name__} {key} is taken"
    assert tried


def test_kernels_and_gateway_are_told_apart() -> None:
    by_kind: dict[str, list[Json]] = {}
    for document in read("enterprise-gateway.yaml"):
        by_kind.setdefault(document["kind"], []).append(document)
    (deployment,) = by_kind["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (service,) = by_kind["Service"]
    # Enterprise Gateway gives its kernels' pods the same app.
    assert labels["component"] != "kernel"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    (binding,) = by_kind["RoleBinding"]
    accounts = {one["metadata"]["name"]: one for one in by_kind["ServiceAccount"]}
    assert {one["name"] for one in binding["subjects"]} == {
        deployment["spec"]["template"]["spec"]["serviceAccountName"]
    }
    assert accounts["kernel"]["automountServiceAccountToken"] is False


def test_only_workers_may_make_namespaces() -> None:
    (cluster,) = (one for one in read("ray-cluster.yaml") if one["kind"] == "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        context = pod["containers"][0]["securityContext"]
        # Kubernetes refuses an unmasked /proc in the node's own user namespace.
        assert (pod["hostUsers"], context["procMount"]) == (False, "Unmasked")
        assert context["seccompProfile"]["type"] == "Unconfined"
        assert (context["runAsNonRoot"], context["capabilities"]) == (True, {"drop": ["ALL"]})

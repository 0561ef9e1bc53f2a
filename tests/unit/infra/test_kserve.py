"""Tests of the InferenceService of KServe.

kserve.json lists the fields of a predictor besides those of a pod, which are checked by the schema of Kubernetes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.unit.infra.test_manifests import K8S, VERSIONS, build, one

SCHEMA = json.loads((Path(__file__).parent / "kserve.json").read_text())
OWN = set(SCHEMA["properties"]["spec"]["properties"]["predictor"]["properties"])
"""Fields of a predictor that are not those of a pod."""


@pytest.fixture(scope="module")
def resources() -> list[dict[str, Any]]:
    return build(K8S / "kserve")


@pytest.fixture(scope="module")
def pods() -> dict[str, Any]:
    """The Deployment whose pods those of KServe are."""
    return one(build(K8S / "overlays" / "cpu"), "Deployment")


def validate(service: dict[str, Any], deployment: dict[str, Any]) -> None:
    """Check an InferenceService with the Deployment that KServe makes of it."""
    predictor = service["spec"]["predictor"]
    own = {name: value for name, value in predictor.items() if name in OWN}
    jsonschema.validate({**service, "spec": {**service["spec"], "predictor": own}}, SCHEMA)
    made = copy.deepcopy(deployment)
    made["spec"]["strategy"] = predictor["deploymentStrategy"]
    made["spec"]["template"]["spec"] = {name: value for name, value in predictor.items() if name not in OWN}
    for version in VERSIONS:
        kubernetes_validate.validate(made, version, strict=True)


def test_the_manifests_are_valid(resources, pods):
    validate(one(resources, "InferenceService"), pods)
    for resource in resources:
        if resource["kind"] != "InferenceService":
            kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("place", [["spec"], ["spec", "predictor"], ["spec", "predictor", "containers", 0]])
def test_the_schema_check_can_fail(resources, pods, place):
    service = copy.deepcopy(one(resources, "InferenceService"))
    part = service
    for key in place:
        part = part[key]
    part["readynessProbe"] = {}
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(service, pods)


def test_the_pods_are_those_of_the_overlay(resources, pods):
    service, template = one(resources, "InferenceService"), copy.deepcopy(pods["spec"]["template"])
    (expected,) = template["spec"]["containers"]
    expected["name"] = "kserve-container"
    expected["env"].insert(0, {"name": "PROTOCOL", "value": "v2"})
    predictor = service["spec"]["predictor"]
    assert {name: value for name, value in predictor.items() if name not in OWN} == template["spec"]
    assert predictor["annotations"] == template["metadata"]["annotations"]
    assert predictor["deploymentStrategy"] == {"type": "RollingUpdate", **pods["spec"]["strategy"]}


def test_everything_else_selects_what_kserve_creates(resources):
    service = one(resources, "InferenceService")
    assert "Deployment" not in {resource["kind"] for resource in resources}
    labels = service["metadata"]["labels"].items()  # KServe copies them to pods
    assert one(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert one(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    scaled = one(resources, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", f"{service['metadata']['name']}-predictor")
    # KServe publishes the first port as 80, and others under their own numbers.
    first, *others = service["spec"]["predictor"]["containers"][0]["ports"]
    assert (first["name"], [port["containerPort"] for port in others]) == ("http", [8001, 8002])


def test_kserve_sets_no_limits_of_its_own(resources):
    (container,) = one(resources, "InferenceService")["spec"]["predictor"]["containers"]
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])

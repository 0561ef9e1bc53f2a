"""Tests of the Kubernetes manifests against the API schema and image."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests import ROOT

K8S = ROOT / "infra" / "k8s"
VERSIONS = ("1.30", "1.36")
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
DOCKER = ROOT / "infra" / "docker"


def read(path: Path) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(path) if document is not None]


def build(folder: Path) -> list[dict[str, Any]]:
    """Return the documents that ``kubectl kustomize`` prints.

    Supports what the overlays use: resources, JSON patches, and patches that delete a resource.
    """
    (kustomization,) = read(folder / "kustomization.yaml")
    assert set(kustomization) <= {"apiVersion", "kind", "resources", "patches"}
    resources: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        resources += build(path) if path.is_dir() else read(path)
    for patch in kustomization.get("patches", []):
        change = YAML(typ="safe").load(patch["patch"]) if "patch" in patch else read(folder / patch["path"])[0]
        target = patch.get("target") or {"kind": change["kind"], "name": change["metadata"]["name"]}
        (index,) = [
            i
            for i, each in enumerate(resources)
            if (each["kind"], each["metadata"]["name"]) == (target["kind"], target["name"])
        ]
        if isinstance(change, dict):
            assert change["$patch"] == "delete"
            del resources[index]
        else:
            resources[index] = jsonpatch.apply_patch(copy.deepcopy(resources[index]), change)
    return resources


def one(resources: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [each for each in resources if each["kind"] == kind]
    return found


def container(resources: list[dict[str, Any]]) -> dict[str, Any]:
    (only,) = one(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_valid(overlay, version):
    resources = build(K8S / "overlays" / overlay)
    assert {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= {r["kind"] for r in resources}
    for resource in resources:
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_schema_check_can_fail():
    deployment = one(build(K8S / "base"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_every_file_belongs_to_something():
    named = {K8S / "monitoring" / "adapter.yaml"}  # values of a Helm chart
    named |= set(K8S.glob("ray/*.yaml"))  # applied one by one
    for path in K8S.rglob("kustomization.yaml"):
        (kustomization,) = read(path)
        named |= {(path.parent / name).resolve() for name in kustomization["resources"]} | {path}
        named |= {path.parent / patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}
    assert set(K8S.rglob("*.yaml")) == {path for path in named if path.is_file()}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_ports_and_settings_fit(overlay):
    resources = build(K8S / "overlays" / overlay)
    template = one(resources, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    assert one(resources, "Service")["spec"]["selector"].items() <= labels
    for kind in ("PodDisruptionBudget", "Deployment"):
        assert one(resources, kind)["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {port["name"] for port in container(resources)["ports"]}
    assert {port["targetPort"] for port in one(resources, "Service")["spec"]["ports"]} == ports
    probes = [container(resources)[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "readiness", "liveness")]
    assert set(probes) <= ports
    mounted = {mount["name"] for mount in container(resources)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    # What the start script reads is what the configuration gives.
    read_by_image = set(re.findall(r"\$\{?([A-Z_]+)", (DOCKER / "serve.sh").read_text()))
    given = set(one(resources, "ConfigMap")["data"]) - {"AWS_DEFAULT_REGION"}  # Triton's own S3 client reads it
    assert given <= read_by_image
    assert "MODEL_REPOSITORY" in given


def test_a_gpu_is_asked_for_where_it_should_be():
    wants = {
        name: "nvidia.com/gpu" in container(build(K8S / "overlays" / name))["resources"]["limits"] for name in OVERLAYS
    }
    assert wants == {"cpu": False, "gpu": True, "volume": True}


def test_the_autoscaler_reads_the_metric_that_the_adapter_makes():
    (metric,) = one(build(K8S / "base"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    (adapter,) = read(K8S / "monitoring" / "adapter.yaml")
    assert metric["pods"]["metric"]["name"] == adapter["rules"]["custom"][0]["name"]["as"]


def test_requests_under_way_have_time_to_end():
    spec = one(build(K8S / "base"), "Deployment")["spec"]["template"]["spec"]
    before = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    exit_timeout = int(one(build(K8S / "base"), "ConfigMap")["data"]["EXIT_TIMEOUT"])
    assert spec["terminationGracePeriodSeconds"] > before + exit_timeout

"""Tests of the Ray clusters on Kubernetes.

kuberay.json lists the fields of the API ray.io/v1 that manifests may use; pods are checked by the schema of Kubernetes.
"""

from __future__ import annotations

import copy
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from albef.config import DistributedConfig, from_dict
from tests import ROOT
from tests.unit.infra.test_manifests import VERSIONS, read

FOLDER = ROOT / "infra" / "k8s" / "ray"
SCHEMA = json.loads((Path(__file__).parent / "kuberay.json").read_text())
FILES = {"pretrain": "RayJob", "cluster": "RayCluster"}


def _document(name: str) -> dict[str, Any]:
    (document,) = read(FOLDER / f"{name}.yaml")
    return dict(document)


def _validate(document: dict[str, Any]) -> None:
    kind = document["kind"]
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/{kind}"})


def _cluster(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec.get("rayClusterSpec", spec)


def _pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = _cluster(document)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


@pytest.mark.parametrize("name", FILES)
def test_manifests_are_valid(name: str) -> None:
    document = _document(name)
    assert document["kind"] == FILES[name]
    _validate(document)
    for pod in _pods(document):
        resource = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **copy.deepcopy(pod)}
        for release in VERSIONS:
            kubernetes_validate.validate(resource, release, strict=True)


def test_the_schema_check_can_fail() -> None:
    document = _document("pretrain")
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError):
        _validate(document)


@pytest.mark.parametrize("name", FILES)
def test_clusters_ask_for_a_token_and_have_the_version_of_ray(name: str) -> None:
    cluster = _cluster(_document(name))
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")


@pytest.mark.parametrize("name", FILES)
def test_pods_are_restricted_and_share_their_files(name: str) -> None:
    (image,) = re.findall(r"docker build .* -t (\S+) ", (ROOT / "infra/docker/worker.Dockerfile").read_text())
    for pod in _pods(_document(name)):
        (container,) = pod["spec"]["containers"]
        assert container["image"] == image
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            each["name"] for each in pod["spec"]["volumes"]
        }
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("name", FILES)
def test_there_are_the_devices_that_the_parameters_ask_for(name: str) -> None:
    text = (FOLDER / "pretrain.yaml").read_text()
    (line,) = re.findall(r"#   (distributed: .*)", text)
    settings = from_dict(YAML(typ="safe").load(line)["distributed"], DistributedConfig)
    (group,) = _cluster(_document(name))["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    devices = container["resources"]["limits"]["nvidia.com/gpu"]
    assert group["maxReplicas"] * devices == settings.world_size * settings.gpus_per_worker
    if name == "pretrain":
        assert group["minReplicas"] * devices == settings.min_world_size
    assert int(container["resources"]["requests"]["cpu"]) >= devices * settings.cpus_per_worker

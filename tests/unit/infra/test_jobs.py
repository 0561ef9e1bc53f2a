"""Tests of the Kubernetes job template of the Prefect work pool."""

from __future__ import annotations

import json
import re
from typing import Any

import kubernetes_validate
import pytest

from tests import ROOT
from tests.unit.infra.test_manifests import VERSIONS

TEMPLATE = json.loads((ROOT / "infra" / "k8s" / "prefect" / "job-template.json").read_text())
PROPERTIES = TEMPLATE["variables"]["properties"]


def filled(value: Any) -> Any:
    """Replace variables by their defaults, as Prefect does.

    A string that consists of one variable takes the type of its default.
    """
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each) for each in value]
    if not isinstance(value, str):
        return value
    values = {name: each.get("default", "python -m prefect.engine") for name, each in PROPERTIES.items()}
    if whole := re.fullmatch(r"\{\{ (\w+) \}\}", value):
        return values[whole[1]]
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: str(values[found[1]]), value)


def test_every_variable_is_used_and_every_use_is_a_variable():
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(PROPERTIES)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_is_valid(version):
    job = filled(TEMPLATE["job_configuration"]["job_manifest"])
    container = job["spec"]["template"]["spec"]["containers"][0]
    # The worker turns these two into a list.
    container["env"], container["args"] = [], container["args"].split()
    kubernetes_validate.validate(job, version, strict=True)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1

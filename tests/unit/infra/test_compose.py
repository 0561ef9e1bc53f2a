"""Tests of the compose files against the Compose specification."""

from __future__ import annotations

import re
from typing import Any

import compose_spec
import pytest
from ruamel.yaml import YAML

from tests import ROOT
from tests.errors import refuses

INFRA = ROOT / "infra"
FILES = sorted(INFRA.glob("compose*.yaml"))
VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


def interpolated(text: str) -> str:
    """Replace variables by their defaults, as compose does."""
    return VARIABLE.sub(r"\1", text)


def parse(text: str) -> dict[str, Any]:
    """A file's content, its YAML merges applied; ValueError names what the specification does not know."""
    found = compose_spec.PyOptions(apply_merge=True).from_yaml(interpolated(text))
    found.validate()
    found.validate_volumes()
    return YAML(typ="safe").load(interpolated(text))


def services() -> dict[str, Any]:
    return parse((INFRA / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_follow_the_specification(path):
    assert parse(path.read_text())["services"]


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("shm_size: 1gb", "shmsize: 1gb", "shmsize"),
        ("start_period: 120s", "startperiod: 120s", "startperiod"),
        ("condition: service_started", "condition: started", "started"),
        ("restart: unless-stopped", "restart: perhaps", "perhaps"),
    ],
)
def test_the_check_can_fail(right, wrong, named):
    text = (INFRA / "compose.yaml").read_text()
    assert right in text
    with refuses(ValueError, named):
        parse(text.replace(right, wrong))


def test_overrides_change_services_that_there_are():
    for path in FILES:
        assert set(parse(path.read_text())["services"]) <= set(services())


def test_everything_named_is_there():
    document = parse((INFRA / "compose.yaml").read_text())
    for name, service in document["services"].items():
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        if "build" in service:
            assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                made_later = source in ("../artifacts", "./secrets")
                assert made_later or (INFRA / source).exists(), f"{name}: {source}"
            else:
                assert source in document["volumes"], f"{name}: {source}"


def test_ports_are_published_on_loopback_alone():
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert len(ports) >= 7
    assert all(port.startswith("127.0.0.1:") for port in ports)
    published = [port.split(":")[1] for port in ports]
    assert len(published) == len(set(published))


def test_images_have_a_version():
    images = [service["image"] for service in services().values()]
    assert len(images) == len(services())
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)


def test_what_waits_for_health_waits_for_a_service_that_tells():
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[other], f"{name} waits for {other}"

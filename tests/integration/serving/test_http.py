"""The HTTP side of a real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from albef.serving.service import Service
from albef.tasks import registry
from tests import ROOT
from tests.docs import blocks

LINES = [line for block in blocks(ROOT / "docs" / "http.md", "bash") for line in block.splitlines()]


def get(service: Service, path: str) -> str:
    with urllib.request.urlopen(f"{service.http_url}{path}", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("line", LINES)
def test_examples_of_the_documentation_are_answered(service: Service, model, tmp_path: Path, line: str) -> None:  # type: ignore[no-untyped-def]
    images = tmp_path / "artifacts/exported/images/test"
    images.mkdir(parents=True)
    for number in range(2):
        shutil.copy(model.folder / "images" / f"{number}.png", images / f"{number:06}.png")
    command = line.replace("http://127.0.0.1:8000", str(service.http_url)).replace("curl ", "curl --silent --fail ")
    done = subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["ready"] if "/health" in line else len(answer["answers"]) == 1


def test_answers_are_those_over_grpc(service: Service, client) -> None:  # type: ignore[no-untyped-def]
    request = urllib.request.Request(
        f"{service.http_url}/v1/retrieval",
        json.dumps({"texts": ["red above blue", "green"], "k": 4}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.load(answer)["answers"]
    expected = client.retrieve_many(["red above blue", "green"], k=4)
    assert [[each["id"] for each in row] for row in found] == [[match.id for match in row] for row in expected]


@pytest.mark.parametrize(("priority", "status"), [(1, 200), (2, 200), (3, 400)])
def test_priorities_are_accepted(service: Service, priority: int, status: int) -> None:
    curl = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--json", '{"texts": ["red"]}']
    done = subprocess.run([*curl, f"{service.http_url}/v1/embed?priority={priority}"], capture_output=True, check=True)
    assert int(done.stdout) == status


def test_every_endpoint_is_described(service: Service) -> None:
    description = json.loads(get(service, "/openapi.json"))
    served = [path.removeprefix("/v1/") for path in description["paths"] if path.startswith("/v1/")]
    assert sorted(served) == sorted(registry.endpoints())
    page = get(service, "/docs")
    assert not re.findall(r"(?:src|href)=[\"']https?://", page)  # readable without the internet
    for path in re.findall(r"(?:src|href)=[\"'](/[^\"']+)", page):
        assert get(service, path) if not path.endswith(".png") else True


def test_health_names_every_endpoint(service: Service) -> None:
    health = json.loads(get(service, "/health"))
    assert health["ready"] is True
    assert sorted(health["endpoints"]) == sorted(registry.endpoints())
    for name, state in health["endpoints"].items():
        expected = {"ready": True, "version": 1, "device": "cpu"} | ({"index": 1} if name == "retrieval" else {})
        assert state == expected

"""Tests of the container files against the local server, without Docker."""

from __future__ import annotations

import re
from pathlib import Path

from albef.serving.runtime import Runtime
from albef.serving.server import TritonServer
from tests.unit.test_layers import ROOT

DOCKER = ROOT / "infra" / "docker"
LOCAL = {"backend-directory", "cache-directory", "allow-gpu-metrics", "backend-config", "trace-config"}
"""Options of the runtime without a container, and of one run."""


def options(lines: list[str]) -> set[str]:
    names = {found[1] for line in lines if (found := re.match(r" *--([\w-]+)", line))}
    return {name for name in names if not name.endswith(("-address", "-port"))} - LOCAL


def test_the_container_starts_the_server_as_albef_serve_does() -> None:
    server = TritonServer(Path("models"), runtime=Runtime(Path("runtime")))
    assert options((DOCKER / "serve.sh").read_text().splitlines()) == options(server.command())


def test_the_container_has_the_packages_of_the_endpoints() -> None:
    wanted = re.findall(r"^([\w-]+)", (ROOT / "infra" / "triton" / "requirements.in").read_text(), re.MULTILINE)
    (line,) = re.findall(r"^ +(faiss-cpu .*) \\$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert set(line.split()) == set(wanted) - {"onnxruntime"}  # the container has its own backend

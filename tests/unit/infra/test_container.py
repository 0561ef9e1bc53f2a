"""Tests of the container files against the local server, without Docker."""

from __future__ import annotations

import re
import subprocess
import sys

from albef import cli
from tests.unit.test_layers import ROOT

DOCKER = ROOT / "infra" / "docker"
ABSENT = ("torch", "transformers", "timm", "datasets", "pyarrow", "pandas", "simplejpeg", "mlflow", "prefect", "ray")
"""Packages of the project that the container does not have."""
SERVING = ("cli", "serving.service", "serving.proxy", "serving.http_app", "serving.watchdog", "serving.gateway")


def test_the_container_starts_albef_serve_with_options_that_it_has() -> None:
    names = re.findall(r"^ +--([\w-]+)(?:=(\S+))? \\$", (DOCKER / "serve.sh").read_text(), re.MULTILINE)
    values = {"cache-bytes": "1", "grace": "1"}
    words = [f"--{name}" if not value else f"--{name}={values.get(name, 'value')}" for name, value in names]
    args = cli.parser().parse_args(["serve", *words])
    assert (args.gateway, args.cache_bytes, args.grace) == (True, 1, 1.0)


def test_serving_needs_none_of_the_packages_that_the_container_lacks() -> None:
    absent = "".join(f"sys.modules[{name!r}] = None\n" for name in ABSENT)
    code = f"import sys\n{absent}" + "".join(f"import albef.{name}\n" for name in SERVING)
    code += "from albef.tasks import registry\n[registry.client(name) for name in registry.endpoints()]\n"
    code += "albef.cli.main(['serve', '--repository', 'none', '--address', '0.0.0.0'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "--tls-cert" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_container_has_the_packages_of_the_endpoints() -> None:
    wanted = re.findall(r"^([\w-]+)", (ROOT / "infra" / "triton" / "requirements.in").read_text(), re.MULTILINE)
    (line,) = re.findall(r"^ +(faiss-cpu .*) \\$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert set(line.split()) == set(wanted) - {"onnxruntime"}  # the container has its own backend

"""NVIDIA's perf_analyzer: download to ``.runtime/``, run, and read its per-request records.

The binary comes from an older wheel of the Triton client, the last one that runs on the glibc of Debian 12. The two
libraries that the wheel lacks are taken from the server's wheel.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import serialize_byte_tensor

from albef.serving.runtime import DEFAULT, Runtime, RuntimeSetupError, find_uv
from benchmarks.load.loop import Run

REQUIREMENTS = Path(__file__).with_name("perf.txt")
PLATFORM = "x86_64-manylinux_2_34"
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12.*"}
"""Libraries that the binary needs, and their names in the server's wheel."""
TIME_LIMIT = 60.0
TRIES = 5
"""Attempts per measurement: at concurrency 64 the binary sometimes hangs after all requests are answered."""


class LoadGeneratorError(ValueError):
    """The load generator is not available, or failed."""


def ensure(runtime: Runtime, folder: Path = DEFAULT / "perf") -> Path:
    """Return the binary, downloading it to ``folder`` if missing or outdated.

    Raises:
        LoadGeneratorError: If it cannot be downloaded or does not run on this machine.
    """
    program, marker = folder / "wheel" / "bin" / "perf_analyzer", folder / "inputs"
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    if not marker.is_file() or marker.read_text(encoding="utf-8") != requirements:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "lib").mkdir(parents=True)
        try:
            options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--link-mode", "copy"]
            target = ["--python-platform", PLATFORM, "--python", sys.executable, "--target", str(folder / "wheel")]
            command = [find_uv(), "pip", "install", *options, *target, "-r", str(REQUIREMENTS)]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (RuntimeSetupError, subprocess.CalledProcessError) as error:
            message = f"cannot download {requirements.split()[0]}: {getattr(error, 'stderr', error)}"
            raise LoadGeneratorError(message) from error
        for name, pattern in LIBRARIES.items():
            library = next((runtime.package / "nvidia_pytriton.libs").glob(pattern), None)
            if library is None:
                raise LoadGeneratorError(f"{runtime.package}: no {pattern}, which perf_analyzer needs")
            (folder / "lib" / name).symlink_to(library.resolve())
        program.chmod(0o755)
        _run([str(program), "--version"], folder / "lib")
        marker.write_text(requirements, encoding="utf-8")
    return program


def _run(command: list[str], libraries: Path) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT)
    except OSError as error:
        raise LoadGeneratorError(f"perf_analyzer does not run on this machine: {error}") from error
    if done.returncode:
        raise LoadGeneratorError(
            f"perf_analyzer failed with status {done.returncode}: {(done.stdout + done.stderr)[-800:]}"
        )
    return done.stdout


def write_inputs(path: Path, requests: Sequence[Mapping[str, Any]]) -> None:
    """Write one-row requests, such as `albef.serving.requests.Request.arrays`.

    perf_analyzer adds the batch dimension.
    """

    def content(row: Any) -> bytes:
        return bytes(serialize_byte_tensor(row).item() if row.dtype == object else np.ascontiguousarray(row).tobytes())

    data = [
        {
            name: {
                "content": {"b64": base64.b64encode(content(array[0])).decode()},
                "shape": list(array.shape[1:]),
            }
            for name, array in feeds.items()
        }
        for feeds in requests
    ]
    path.write_text(json.dumps({"data": data}), encoding="utf-8")


def read_profile(data: Mapping[str, Any]) -> Run:
    """Return the requests of an exported profile; those without answer are failures."""
    run = Run()
    (experiment,) = data["experiments"]
    requests = experiment["requests"]
    for request in requests:
        if request.get("response_timestamps"):
            run.latencies.append((request["response_timestamps"][-1] - request["timestamp"]) / 1e9)
        else:
            run.failures["no answer"] += 1
    ends = [request["response_timestamps"][-1] for request in requests if request.get("response_timestamps")]
    run.seconds = (max(ends) - min(request["timestamp"] for request in requests)) / 1e9 if ends else 0.0
    return run


def measure(program: Path, url: str, model: str, inputs: Path, concurrency: int, requests: int) -> Run:
    """Send ``requests`` requests to a model over gRPC, ``concurrency`` at a time.

    Raises:
        LoadGeneratorError: If a request fails, or the load generator hangs in every attempt.
    """
    with tempfile.TemporaryDirectory(prefix="albef-perf-") as folder:
        out = Path(folder) / "profile.json"
        load = ["--concurrency-range", f"{concurrency}:{concurrency}", "--request-count", str(requests)]
        export = ["--input-data", str(inputs), "--profile-export-file", str(out)]
        command = [str(program), "-m", model, "-u", url, "-i", "grpc", "-b", "1", *load, *export]
        for left in reversed(range(TRIES)):
            try:
                _run(command, program.parents[2] / "lib")
                break
            except subprocess.TimeoutExpired as error:
                if not left:
                    raise LoadGeneratorError(f"perf_analyzer hung {TRIES} times for {TIME_LIMIT:g} s") from error
        return read_profile(json.loads(out.read_text(encoding="utf-8")))

"""Description of the machine that ran a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from albef.serving.runtime import CHECKOUT, Runtime

LIBRARIES = ("numpy", "onnxruntime", "pillow", "tokenizers")
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "amx_fp16")
"""CPU features that affect the speed of low-precision arithmetic."""


def processor(text: str) -> dict[str, Any]:
    """Return name and features of the first processor in ``/proc/cpuinfo``."""
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.split("\n\n")[0].splitlines() if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    return {"cpu": fields.get("model name", "unknown"), "flags": [flag for flag in FLAGS if flag in flags]}


def libraries(python: str) -> dict[str, str]:
    """Return the versions of the numeric libraries of another Python."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {LIBRARIES!r}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def describe(runtime: Runtime | None = None) -> dict[str, Any]:
    """Return hardware, current load, commit, and the libraries of both sides."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True)
    description = {
        **processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "commit": commit.stdout.strip() or "unknown",
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    if runtime is not None:
        description["server_libraries"] = libraries(str(runtime.root / "stub" / "bin" / "python"))
    return description


def heading(machine: dict[str, Any]) -> str:
    """Format the description as a paragraph."""
    text = (
        f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['flags'])}), "
        f"load {machine['load'][0]} before; commit {machine['commit']}"
    )
    for side, key in (("in process", "libraries"), ("server", "server_libraries")):
        if key in machine:
            text += f"\n{side}: " + ", ".join(f"{name} {number}" for name, number in machine[key].items())
    return text

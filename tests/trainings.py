"""Trainings as processes of their own, which tests kill."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch

from albef.weights import checkpoint


def command(world: Path, out: Path, scratch: Path, *task: str) -> list[str]:
    """Command line of a training in a world with ``params.yaml``."""
    return [
        sys.executable, "-m", "albef.cli", *task, "--params", str(world / "params.yaml"),
        "--lists", str(world / "lists"), "--images", str(world), "--tokenizer", str(world / "tokenizer"),
        "--out", str(out), "--work-dir", str(scratch), "--tracking-uri", "none",
    ]  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Weights of the model in a folder of results."""
    return dict(checkpoint.read(out / "model.pth")[0])


def wait_for(path: Path, process: subprocess.Popen[str], count: int) -> None:
    """Wait until a file has been written ``count`` times."""
    seen: set[int] = set()
    deadline = time.monotonic() + 120
    while len(seen) < count:
        assert process.poll() is None, f"ended before it was to be killed: {process.communicate()}"
        assert time.monotonic() < deadline, f"{path} not written {count} times"
        for found in path.parent.parent.glob(f"*/{path.name}"):
            seen.add(found.stat().st_mtime_ns)
        time.sleep(0.005)

"""Where a result comes from, as tags of MLflow runs and of registered models."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path


def origin() -> dict[str, str]:
    """The commit (``git_commit``) and the hash of the pipeline's lock file (``dvc_lock``), as far as there are any."""
    tags = {"git_commit": _git_commit() or ""}
    if (lock := Path("dvc.lock")).is_file():
        tags["dvc_lock"] = hashlib.md5(lock.read_bytes(), usedforsecurity=False).hexdigest()
    return {key: value for key, value in tags.items() if value}


def run_tags(name: str) -> dict[str, str]:
    """Tags that every tracked run has.

    Args:
        name: ``stage`` outside of DVC, which knows that of a pipeline.

    Returns:
        ``stage``; those of `origin`, the commit also where MLflow shows it; ``flow_run``, where ``ALBEF_FLOW_RUN`` has
        the name of a Prefect run that this is a part of.
    """
    tags = {"stage": os.environ.get("DVC_STAGE", name), **origin()}
    if "git_commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git_commit"]
    if flow := os.environ.get("ALBEF_FLOW_RUN"):
        tags["flow_run"] = flow
    return tags


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file, read once as long as it stays the same."""
    state = path.stat()
    return _digest(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def data_hash(files: Iterable[Path]) -> str:
    """One hash of the lists that something was made from, by their names and content; needs no DVC."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(path.name.encode() + b"\0" + file_digest(path))
    return total.hexdigest()

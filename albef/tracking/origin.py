"""Provenance of results, as tags of MLflow runs and registered models."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from albef.io import file_hash


def origin() -> dict[str, str]:
    """Return the commit (``git_commit``) and the hash of ``dvc.lock`` (``dvc_lock``), if available."""
    tags = {"git_commit": _git_commit() or ""}
    if (lock := Path("dvc.lock")).is_file():
        tags["dvc_lock"] = hashlib.md5(lock.read_bytes(), usedforsecurity=False).hexdigest()
    return {key: value for key, value in tags.items() if value}


def run_tags(name: str) -> dict[str, str]:
    """Return the tags common to all tracked runs.

    Args:
        name: Value of ``stage`` outside of DVC; DVC sets the stage name in ``DVC_STAGE``.

    Returns:
        ``stage``; the tags of `origin`, with the commit also under the name that MLflow displays; ``flow_run``, the
        name of the surrounding Prefect run, if ``ALBEF_FLOW_RUN`` is set.
    """
    tags = {"stage": os.environ.get("DVC_STAGE", name), **origin()}
    if "git_commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git_commit"]
    if flow := os.environ.get("ALBEF_FLOW_RUN"):
        tags["flow_run"] = flow
    return tags


def _git_commit() -> str | None:
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def data_hash(files: Iterable[Path]) -> str:
    """Return one SHA-256 over names and contents of data files, as hex."""
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        total.update(path.name.encode() + b"\0" + bytes.fromhex(file_hash(path)))
    return total.hexdigest()

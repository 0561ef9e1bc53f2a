from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT


def _checkout(folder: Path) -> Path:
    """Make a checkout whose command line prints its arguments and what it is told by variables."""
    program = folder / ".venv" / "bin" / "albef"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s|" "$@" "$ALBEF_WORK_DIR" "$MLFLOW_TRACKING_URI"\n')
    program.chmod(0o755)
    (folder / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "albef.sh", folder / "infra")
    return folder


def _run(folder: Path, **variables: str) -> list[str]:
    command = ["sh", "infra/albef.sh", "report", "--out", "a b"]
    environment = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("|")[:-1]


def test_the_environment_of_the_checkout_is_used(tmp_path: Path) -> None:
    assert _run(_checkout(tmp_path / "with a space")) == ["report", "--out", "a b", "", ""]


@pytest.mark.parametrize("place", ["tmpabc", "standalone/tmpabc"])
def test_an_experiment_keeps_its_state_in_the_checkout(tmp_path: Path, place: str) -> None:
    checkout = _checkout(tmp_path / "with a space")
    copy = checkout / ".dvc" / "tmp" / "exps" / place
    shutil.copytree(checkout / "infra", copy / "infra")
    assert _run(copy)[3:] == [f"{checkout}/scratch", f"sqlite:///{checkout}/mlflow.db"]
    assert _run(copy, ALBEF_WORK_DIR="w", MLFLOW_TRACKING_URI="none")[3:] == ["w", "none"]


def test_a_missing_environment_is_said(tmp_path: Path) -> None:
    shutil.copytree(_checkout(tmp_path / "a") / "infra", tmp_path / "b" / "infra")
    done = subprocess.run(
        ["sh", "infra/albef.sh"], cwd=tmp_path / "b", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 127
    assert "make setup" in done.stderr

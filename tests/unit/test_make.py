"""Tests of the Makefile: error messages and reinstallation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that installing depends on, and nothing else."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "VIRTUAL_ENV", "PYTHON"))}
    environment["PATH"] = path or os.environ["PATH"]
    # Outside any repository, wherever the temporary folder lies.
    environment["GIT_CEILING_DIRECTORIES"] = str(folder.parent)
    return subprocess.run(
        [str(shutil.which("make")), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_clone_it_says_so(folder: Path) -> None:
    done = make(folder, "git")
    assert done.returncode != 0
    assert "git init" in done.stderr


def test_in_a_clone_it_says_nothing(folder: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    done = make(folder, "git")
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_python_it_says_which_will_do(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tools = tmp_path_factory.mktemp("bin")
    for old in ("python3.11", "python3.12", "python3", "python3.13"):
        script(tools / old, "exit 1")  # as a shim that leads nowhere
    done = make(folder, ".venv/bin/uv", path=f"{tools}:{os.defpath}:/usr/bin:/bin")
    assert done.returncode != 0
    assert all(version in done.stderr for version in ("3.11", "3.12", "3.13"))
    assert not (folder / ".venv").exists()


def test_a_python_that_does_not_work_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = script(tmp_path_factory.mktemp("bin") / "python", "exit 1")
    done = make(folder, ".venv/bin/uv", f"PYTHON={python}")
    assert f"PYTHON={python}" in done.stderr


def test_a_python_without_venv_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = script(tmp_path_factory.mktemp("bin") / "python", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = make(folder, ".venv/bin/uv", f"PYTHON={python}")
    assert done.returncode != 0
    assert "python3-venv" in done.stderr
    assert not (folder / ".venv").exists()


def test_it_installs_once_and_again_after_a_change(folder: Path) -> None:
    uv = script(folder / ".venv/bin/uv", 'echo "$@" >> installs')
    for _ in range(2):
        assert make(folder, ".venv/.installed").returncode == 0
    installs = (folder / "installs").read_text().splitlines()
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]
    newer = (folder / ".venv/.installed").stat().st_mtime + 10
    os.utime(folder / "constraints.txt", (newer, newer))
    assert make(folder, ".venv/.installed").returncode == 0
    assert len((folder / "installs").read_text().splitlines()) == 2

    uv.write_text("#!/bin/sh\nexit 1\n")  # an installation that fails leaves no mark
    os.utime(folder / "constraints.txt", (newer + 10, newer + 10))
    os.utime(folder / ".venv/.installed", (newer, newer))
    assert make(folder, ".venv/.installed").returncode != 0
    assert make(folder, ".venv/.installed").returncode != 0


def test_clean_leaves_environment_cache_and_history(folder: Path) -> None:
    for name in ("artifacts/data/x", "scratch/x", ".venv/x", ".dvc/cache/x", "mlflow.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert make(folder, "clean").returncode == 0
    left = {path.name for path in folder.iterdir()} - {"Makefile", "pyproject.toml", "constraints.txt"}
    assert left == {".venv", ".dvc", "mlflow.db"}


def test_processes_share_the_tests_by_file(request: pytest.FixtureRequest) -> None:
    """Distribution by file keeps module fixtures from being built by every process."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@" + str(request.path))  # as xdist notes the group

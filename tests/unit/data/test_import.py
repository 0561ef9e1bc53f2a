"""Tests of the DVC import of the raw data."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests import ROOT


def test_a_fresh_clone_imports_the_sprites(tmp_path: Path) -> None:
    for name in ("data.dvc", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    before = (tmp_path / "data.dvc").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "data.dvc"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # The pinned hash is that of the sprites as they are: after changing one, run `dvc repro data.dvc` and commit it.
    assert (tmp_path / "data.dvc").read_bytes() == before
    originals = ROOT / "samples" / "emoji"
    for path in originals.rglob("*"):
        if path.is_file():
            assert (tmp_path / "data" / path.relative_to(originals)).read_bytes() == path.read_bytes()

"""A copy of the working tree in which the pipeline runs on a tiny scale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests import ROOT


def copy_sources(target: Path) -> None:
    """Copy what git tracks or would track, so that a test never sees what an earlier run left."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass(frozen=True)
class Tree:
    """The copy.

    Args:
        root: Its folder.
        record: Folder where stages leave the names of the parameters they read.
    """

    root: Path
    record: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of commands in the copy: its code comes before the installed one, and nothing is tracked."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join([str(self.root), str(self.root / "tests/e2e/recorder")]),
            "ALBEF_RECORD": str(self.record),
            "MLFLOW_TRACKING_URI": "none",
        }

    def run(self, *command: str, ok: bool = True) -> str:
        """Output of a command, both streams; fails the test where its exit status is not as expected."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert (done.returncode == 0) is ok, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def dvc(self, *arguments: str, ok: bool = True) -> str:
        """Output of a DVC command."""
        return self.run(sys.executable, "-m", "dvc", *arguments, ok=ok)

    def params(self) -> Any:
        """Content of ``params.yaml``."""
        return YAML(typ="safe").load(self.root / "params.yaml")

    def set_param(self, key: str, value: Any) -> Any:
        """Change one parameter; returns its old value."""
        yaml = YAML()
        data = yaml.load(self.root / "params.yaml")
        *parents, last = key.split(".")
        section = data
        for parent in parents:
            section = section[parent]
        old, section[last] = section.get(last), value
        yaml.dump(data, self.root / "params.yaml")
        return old


def create(root: Path) -> Tree:
    """A fresh copy with the tiny parameters, as a git repository of its own."""
    tree = Tree(root / "tree", root / "record")
    tree.root.mkdir()
    tree.record.mkdir()
    copy_sources(tree.root)
    (tree.root / "dvc.lock").unlink(missing_ok=True)
    shutil.copyfile(ROOT / "tests/presets/tiny.yaml", tree.root / "params.yaml")
    tree.run("git", "init", "-q")
    return tree


def ran(output: str) -> list[str]:
    """Stages that a ``dvc repro`` ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def skipped(output: str) -> list[str]:
    """Stages that a ``dvc repro`` found unchanged."""
    return [line.split("'")[1] for line in output.splitlines() if line.endswith("didn't change, skipping")]

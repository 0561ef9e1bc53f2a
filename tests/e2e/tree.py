"""Copy of the working tree with a tiny pipeline."""

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

TASKS = ("retrieval", "nlvr2")
"""Tasks of the tiny pipeline: one starts from the pretrained model, the other from a stage of its own."""
VERBS = ("tune", "finetune", "evaluate", "export")
NAMES = [
    *("inspect", "prepare", "validate", "tokenizer", "reference", "pretrain", "text_assignment"),
    *(f"{verb}@{task}" for verb in VERBS for task in TASKS),
    *("behavior", "repository", "report"),
]
"""Stages of the tiny pipeline."""


def copy_sources(target: Path) -> None:
    """Copy all files that git tracks or would track, without outputs of earlier runs."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass(frozen=True)
class Tree:
    """Copy of the working tree.

    Args:
        root: Its folder.
        record: Folder of the names of the parameters that each stage reads.
    """

    root: Path
    record: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands in the copy, which import its code and track nothing."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": os.pathsep.join([str(self.root), str(self.root / "tests/e2e/recorder")]),
            "ALBEF_RECORD": str(self.record),
            "MLFLOW_TRACKING_URI": "none",
        }

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command, check its exit status, and return its output and errors."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert (done.returncode == 0) is ok, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def dvc(self, *arguments: str, ok: bool = True) -> str:
        """Run a DVC command, and return its output."""
        return self.run(sys.executable, "-m", "dvc", *arguments, ok=ok)

    def params(self) -> Any:
        """Return the content of ``params.yaml``."""
        return YAML(typ="safe").load(self.root / "params.yaml")

    def set_param(self, key: str, value: Any) -> Any:
        """Change one parameter, and return its old value."""
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
    """Create a copy with the tiny parameters in its own git repository."""
    tree = Tree(root / "tree", root / "record")
    tree.root.mkdir()
    tree.record.mkdir()
    copy_sources(tree.root)
    (tree.root / "dvc.lock").unlink(missing_ok=True)
    shutil.copyfile(ROOT / "tests/presets/tiny.yaml", tree.root / "params.yaml")
    for section in ("tasks", "release.metrics"):
        parameters = tree.params()
        for part in section.split("."):
            parameters = parameters[part]
        tree.set_param(section, {task: parameters[task] for task in TASKS if task in parameters})
    tree.set_param("tune.tasks", ["retrieval"])
    tree.run("git", "init", "-q")
    return tree


def ran(output: str) -> list[str]:
    """Return the stages that `dvc repro` ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def skipped(output: str) -> list[str]:
    """Return the stages that `dvc repro` found unchanged."""
    return [line.split("'")[1] for line in output.splitlines() if line.endswith("didn't change, skipping")]

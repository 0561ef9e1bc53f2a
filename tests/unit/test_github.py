"""Tests of the files for GitHub and for citations."""

from __future__ import annotations

import json
import re

import pytest
from ruamel.yaml import YAML

import albef
from tests import ROOT

TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
FILES = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_yaml(path) -> None:
    assert YAML(typ="safe").load(path)


def test_workflows_run_targets_of_make() -> None:
    found = []
    for path in (ROOT / ".github/workflows").iterdir():
        for job in YAML(typ="safe").load(path)["jobs"].values():
            found += [step["run"] for step in job["steps"] if "run" in step]
    targets = [command.split()[1] for command in found if command.startswith("make ")]
    assert {"lint", "test-unit", "test", "docs"} == set(targets) <= set(TARGETS)


def test_the_development_container_is_set_up_by_make() -> None:
    program, target = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["postCreateCommand"].split()
    assert program == "make"
    assert target in TARGETS


def test_the_citation_names_this_version() -> None:
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == albef.__version__

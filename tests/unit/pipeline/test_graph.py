"""Tests of the dependencies declared in `dvc.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from albef import cli
from albef.tasks import registry
from tests.unit.pipeline.code import arguments_of, of_command
from tests.unit.test_layers import ROOT

OUTPUT_OPTIONS = {"out", "metrics"}
NOT_INPUTS = {"params", "work_dir"}


@cache
def stages() -> dict[str, Any]:
    """Stages as DVC resolves them, by address."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        return {stage.addressing: stage for stage in repo.index.stages if not stage.is_data_source}


def paths(items: Any) -> set[Path]:
    """Paths of dependencies or outputs, from the root."""
    return {Path(item.def_path) for item in items if not hasattr(item, "params")}


def covers(paths: set[Path], path: Path) -> bool:
    """Return whether one of ``paths`` is ``path`` or a folder around it."""
    return any(path.is_relative_to(each) for each in paths)


def related(paths: set[Path], path: Path) -> bool:
    """Return `covers`, or whether one of ``paths`` lies in the folder ``path``."""
    return covers(paths, path) or any(each.is_relative_to(path) for each in paths)


TASKS = ("retrieval", "vqa", "entailment", "nlvr2", "grounding")
NAMES = [
    *("inspect", "prepare", "validate", "tokenizer", "reference", "pretrain", "text_assignment"),
    *(f"{verb}@{task}" for verb in ("tune", "finetune", "evaluate", "export") for task in TASKS),
    *("behavior", "repository", "report"),
]


def test_the_stages_are_these() -> None:
    assert set(stages()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_depends_on_the_code_it_runs(name: str) -> None:
    deps = paths(stages()[name].deps)
    missing = sorted(str(path) for path in of_command(stages()[name].cmd) if not covers(deps, path))
    assert not missing, f"add to the deps of {name} in dvc.yaml: {missing}"


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_depends_on_no_other_code(name: str) -> None:
    # The tasks of a `foreach` have one list: what none of them imports is idle.
    group = [other for other in NAMES if other.partition("@")[0] == name.partition("@")[0]]
    used = {file for other in group for file in of_command(stages()[other].cmd, everything=True)}
    code = {path for path in paths(stages()[name].deps) if path.parts[0] in ("albef", "infra", "flows")}
    code = {path for path in code if path.parts[:2] != ("albef", "tasks") or len(path.parts) < 4}  # not `${item.code}`
    idle = sorted(str(path) for path in code if not any(file.is_relative_to(path) for file in used))
    assert not idle, f"{name} would run again for nothing when these change: {idle}"


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_depends_on_the_files_it_names(name: str) -> None:
    stage = stages()[name]
    arguments = vars(cli.parser().parse_args(arguments_of(stage.cmd)))
    deps, outs = paths(stage.deps), paths(stage.outs)
    deps |= {Path(item.def_path) for item in stage.deps if hasattr(item, "params")}
    named = {arguments[option] for option in OUTPUT_OPTIONS if arguments.get(option)}
    assert all(covers(named, out) for out in outs), f"{name}: an output is not below {named}"
    for option, value in arguments.items():
        if option in OUTPUT_OPTIONS and value:
            assert related(outs, value), f"{name}: --{option} {value} is no output"
        elif isinstance(value, Path) and option not in NOT_INPUTS:
            assert related(deps, value), f"{name}: --{option} {value} is no dependency"


def test_raw_data_is_never_written() -> None:
    for name, stage in stages().items():
        assert not covers({Path("data")}, next(iter(paths(stage.outs)))), name
        assert all(path.parts[0] == "artifacts" for path in paths(stage.outs))


def test_every_task_has_its_stages() -> None:
    tasks = {spec.name for spec in registry.fine_tuned()}
    assert tasks == {name for name in registry.names() if name not in ("pretrain", "text_assignment")}
    for verb in ("tune", "finetune", "evaluate", "export"):
        assert {name.partition("@")[2] for name in stages() if name.startswith(f"{verb}@")} == tasks


def test_the_rule_sees_lazy_imports_and_copied_files() -> None:
    # If these were not found, the tests above could not fail for them.
    assert Path("albef/validation/suites.py") in of_command(stages()["validate"].cmd)
    assert Path("albef/tasks/retrieval/train.py") in of_command(stages()["finetune@retrieval"].cmd)
    assert Path("albef/tasks/retrieval/train.py") not in of_command(stages()["pretrain"].cmd)
    served = of_command(stages()["repository"].cmd)
    assert {Path("albef/tasks/retrieval/endpoint.py"), Path("albef/data/text.py")} <= served
    assert {Path("albef/report/figures.py"), Path("albef/tasks/vqa/report.py")} <= of_command(stages()["report"].cmd)


@pytest.mark.parametrize("folder", ["serving", "report", "inference/gradcam.py", "weights/official.py"])
def test_pretraining_does_not_depend_on_what_comes_after_it(folder: str) -> None:
    assert not related(paths(stages()["pretrain"].deps), Path("albef") / folder)

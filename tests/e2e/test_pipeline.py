"""The whole pipeline in a new copy of the tree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from albef.data.commands import export
from albef.data.tables import RecordTable
from tests.e2e.tree import NAMES, TASKS, VERBS, Tree, ran, skipped
from tests.unit.pipeline.test_graph import stages

READ_BY_OTHER_TASKS = {"model.official_quirks", *(f"tasks.{task}.evaluate" for task in TASKS)}
"""Parameters of `export` and `repository` that only tasks outside the tiny pipeline read, such as VQA."""


@contextmanager
def changed(tree: Tree, key: str, value: Any) -> Iterator[None]:
    """Change one parameter, and restore it afterwards."""
    old = tree.set_param(key, value)
    try:
        yield
    finally:
        tree.set_param(key, old)


def stale(tree: Tree) -> set[str]:
    """Return the stages that DVC reports as changed."""
    from dvc.repo import Repo

    with Repo(str(tree.root)) as repo:
        return {name.rpartition("dvc.yaml:")[2] for name in repo.status()}


def declared(name: str) -> set[str]:
    """Return the keys of ``params.yaml`` that a stage depends on."""
    return {key for dep in stages()[name].deps if hasattr(dep, "params") for key in dep.params}


def test_every_stage_ran_once_in_order(tree: Tree, first_run: str) -> None:
    order = ran(first_run)
    assert sorted(order) == sorted(NAMES)
    chain = ["prepare", "validate", "pretrain", "text_assignment", "finetune@nlvr2", "evaluate@nlvr2", "report"]
    assert [name for name in order if name in chain] == chain
    lock = YAML(typ="safe").load(tree.root / "dvc.lock")
    assert set(lock["stages"]) == set(NAMES)


def test_results_are_there(tree: Tree) -> None:
    root = tree.root / "artifacts"
    metrics = json.loads((root / "evaluate/retrieval/metrics.json").read_text())
    assert 0 <= metrics["ir_r1"] <= metrics["ir_r5"] <= metrics["ir_r10"] <= 1
    for task in TASKS:
        parity = json.loads((root / f"export/{task}/parity.json").read_text())
        assert parity["max_abs"] <= parity["tolerance"] == tree.params()["export"]["tolerance"]
        if task != "retrieval":
            assert 0 <= json.loads((root / f"evaluate/{task}/metrics.json").read_text())["accuracy"] <= 1
    tests = json.loads((root / "behavior/tests.json").read_text())["tests"]
    assert {row["task"] for row in tests if row["cases"]} == set(TASKS)
    assert json.loads((root / "behavior/pseudo_targets.json").read_text())
    assert (root / "repository/retrieval/config.pbtxt").is_file()
    assert (root / "validated/docs/index.html").is_file()
    page = (root / "report/index.html").read_text()
    for name in (
        "losses.svg",
        "recall.svg",
        "text_to_image.png",
        "image_to_text.png",
        "scenes.png",
        "pseudo_words.png",
    ):
        assert name in page
        assert (root / f"report/{name}").stat().st_size > 1000


def test_code_in_the_model_repository_is_a_dependency_of_it(tree: Tree) -> None:
    sources = {path.read_bytes(): path.relative_to(tree.root) for path in tree.root.glob("albef/**/*.py")}
    deps = {Path(dep.def_path) for dep in stages()["repository"].deps}
    copied = [path for path in (tree.root / "artifacts/repository").rglob("albef/**/*.py") if path.stat().st_size > 200]
    assert len(copied) > 3
    neutral = {"albef/__init__.py", "albef/config.py", "albef/config_data.py", "albef/config_parsing.py"}
    neutral.add("albef/models/architecture.py")
    for path in copied:
        source = sources[path.read_bytes()]
        listed = any(source.is_relative_to(dep) for dep in deps) or str(source) in neutral
        assert listed, f"{source} is copied into the repository, but no dependency of it"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "report"])
def test_a_stage_declares_the_parameters_it_reads(tree: Tree, name: str) -> None:
    read = set(json.loads((tree.record / f"{name}.json").read_text()))
    keys = declared(name)
    if name.startswith(("pretrain", "text_assignment", "tune", "finetune")):
        # Only names the folder of checkpoints; the tokenizer itself is a dependency.
        read = {key for key in read if not key.startswith("tokenizer.")}
    read -= {f"tasks.{task}" for task in ("vqa", "entailment", "grounding")}  # absent here, so not sections but values
    if name.startswith("evaluate"):  # results do not depend on how many workers share the work
        read = {key for key in read if not key.startswith("distributed.")}
    hidden = sorted(key for key in read if not any(f"{key}.".startswith(f"{known}.") for known in keys))
    assert not hidden, f"{name} reads {hidden}: add them to its params in dvc.yaml"
    verb, _, task = name.partition("@")
    if verb == "tune":
        return  # neither of the two is searched, which reads almost nothing
    # The tasks of a `foreach` have one list of parameters: what none of them reads is idle.
    for other in TASKS if task else ():
        seen = json.loads((tree.record / f"{verb}@{other}.json").read_text())
        read |= {key.replace(f"tasks.{other}.", f"tasks.{task}.") for key in seen}
    keys -= READ_BY_OTHER_TASKS
    idle = sorted(known for known in keys if not any(f"{key}.".startswith(f"{known}.") for key in read))
    assert not idle, f"{name} never reads {idle}"


def test_nothing_runs_twice(tree: Tree) -> None:
    again = tree.dvc("repro")
    assert ran(again) == []
    assert set(NAMES) <= set(skipped(again))
    assert stale(tree) == set()


def test_metrics_and_plots_show_what_the_stages_wrote(tree: Tree) -> None:
    shown = tree.dvc("metrics", "show").rstrip().splitlines()
    assert {"Path", *TASKS} == set(shown[-2].split())
    assert max(map(len, shown[-2:])) <= 120
    page = tree.dvc("plots", "show", "--out", str(tree.record / "plots")).strip().splitlines()[-1]
    text = Path(page.removeprefix("file://")).read_text()
    for title in ("pretraining losses", "fine-tuning losses", "retrieval recall", "NLVR2 confusion"):
        assert title in text


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("prepare.seed", 8, {"inspect", "prepare"}),
        ("validate.max_caption_words", 59, {"validate"}),
        ("tokenizer.vocab_size", 399, {"tokenizer"}),
        ("pretrain.optim.lr", 2e-3, {"pretrain"}),
        (
            "model.temperature",
            0.08,
            {"pretrain", "text_assignment", *(f"{verb}@{task}" for verb in VERBS[:2] for task in TASKS)},
        ),
        ("text_assignment.epochs", 2, {"text_assignment"}),
        ("tasks.nlvr2.evaluate.batch_size", 4, {*(f"{verb}@nlvr2" for verb in VERBS), "behavior", "repository"}),
        (
            "tasks.retrieval.evaluate.score",
            "itm+itc",
            {*(f"{verb}@retrieval" for verb in VERBS), "behavior", "repository"},
        ),
        ("export.parity_samples", 3, {f"export@{task}" for task in TASKS}),
        ("serve.max_k", 19, {"repository"}),
    ],
)
def test_a_parameter_reaches_the_stages_that_read_it(tree: Tree, key: str, value: Any, expected: set[str]) -> None:
    with changed(tree, key, value):
        assert stale(tree) == expected


def test_a_changed_parameter_reruns_what_depends_on_it_and_no_more(tree: Tree) -> None:
    before = (tree.root / "artifacts/pretrain/model.pth").stat().st_mtime_ns
    with changed(tree, "tasks.nlvr2.evaluate.batch_size", 3):
        assert ran(tree.dvc("repro", "evaluate@nlvr2")) == [f"{verb}@nlvr2" for verb in VERBS[:3]]
        assert (tree.root / "artifacts/pretrain/model.pth").stat().st_mtime_ns == before
    # Back to the old value: the run cache has it, nothing is computed.
    assert ran(tree.dvc("repro")) == []


def own_data(tree: Tree, tmp_path: Path) -> tuple[Tree, Path]:
    """Copy the tree with own lists and images as raw data, as documented."""
    own = tmp_path / "own"
    export(tree.root / "artifacts/validated/lists", tree.root / "artifacts/data", own)
    copy = Tree(tmp_path / "tree", tree.record)
    left = {"artifacts", "data", "scratch"}
    shutil.copytree(tree.root, copy.root, ignore=lambda folder, _: left if folder == str(tree.root) else set())
    names = [path.stem for path in own.glob("*.json")]
    copy.set_param("prepare.source", "lists")
    copy.set_param("prepare.lists", {"image_root": ".", "files": {name: [f"{name}.json"] for name in names}})
    copy.dvc("import-url", "--force", str(own), "data")
    return copy, own


def test_own_data_replace_the_built_in_ones_and_a_broken_record_stops_them(tree: Tree, tmp_path: Path) -> None:
    copy, own = own_data(tree, tmp_path)
    # The same records and images as the built-in ones, only elsewhere: tokens come from the run cache.
    assert ran(copy.dvc("repro", "tokenizer")) == ["inspect", "prepare", "validate"]
    kept = RecordTable(copy.root / "artifacts/validated/lists/pretrain.arrow")
    assert list(kept) == json.loads((own / "pretrain.json").read_text())

    rows = json.loads((own / "pretrain.json").read_text())
    rows[3]["image"] = "images/pretrain/broken.png"
    (own / rows[3]["image"]).write_text("no image")
    (own / "pretrain.json").write_text(json.dumps(rows))
    copy.dvc("update", "data.dvc")
    output = copy.dvc("repro", ok=False)
    assert ran(output)[-1] == "validate"
    assert "pretrain" in output
    assert "row 3" in output
    assert "broken.png" in output
    assert not (copy.root / "artifacts/validated/lists").exists()
    report = json.loads((copy.root / "artifacts/validated/report.json").read_text())
    assert report["success"] is False

"""Fixtures, environment and test order of the whole suite."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from albef.cli import _QUIET as QUIET
from tests import ROOT, SHARED
from tests.e2e.tree import Tree, create
from tests.served import Served, served

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # else other tests leave the workers of a test no time
gc.set_threshold(100_000)  # imports make millions of objects
hypothesis.settings.register_profile("albef", deadline=None)  # machines differ in speed
hypothesis.settings.load_profile("albef")

_TIERS = ("integration", "e2e")
"""Folders of slow tests, in the order in which they run; all others come first."""
_LONG = ("_pipeline", "test_distributed.py")
"""Fixtures and files of the tests that take longest."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit tests first and distribute tests to processes by file.

    With several processes, the longest run first, so that none runs alone at the end. All tests that need the pipeline
    run in one process; so do all that need Prefect, because its server takes long to start. Tests of training come
    before these, since loading processes cannot be forked from a process that has run Prefect.
    """

    def tier(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return 1 + _TIERS.index(folder) if folder in _TIERS else 0

    items.sort(key=tier)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    groups: dict[Path, str] = {}
    for item in items:
        for fixture in {"_pipeline", "prefect_harness"} & {*getattr(item, "fixturenames", ())}:
            groups[item.path] = fixture
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, str(item.path))))

    def place(item: pytest.Item) -> int:
        name = groups.get(item.path, item.path.name)
        if name in _LONG:
            return _LONG.index(name)
        return len(_LONG) + (item.path.parent != ROOT / "tests" / "integration" / "training")

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set the folder that all processes of the test run share."""
    base = tmp_path_factory.getbasetemp()
    os.environ[SHARED] = str(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(scope="session")
def model() -> Served:
    """An exported model with random weights and its Triton repository."""
    return served()


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """A Prefect database and API of their own, once for all tests of flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def _pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, str]:
    tree = create(tmp_path_factory.mktemp("pipeline"))
    return tree, tree.dvc("repro")


@pytest.fixture(scope="session")
def tree(_pipeline: tuple[Tree, str]) -> Tree:
    """Copy of the sources with a finished tiny pipeline; tests must not change it."""
    return _pipeline[0]


@pytest.fixture(scope="session")
def first_run(_pipeline: tuple[Tree, str]) -> str:
    """Output of the pipeline run in `tree`."""
    return _pipeline[1]

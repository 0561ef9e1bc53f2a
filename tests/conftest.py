"""What every test shares: quiet dependencies, and the order in which tests run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from albef.cli import _QUIET as QUIET
from tests import SHARED
from tests.e2e.tree import Tree, create
from tests.served import Served, served

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)
os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are shared

_ORDER = ("slow", "server", "pipeline")


@pytest.hookimpl(tryfirst=True)  # xdist takes the groups after this, or none
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds. Several processes share them by file.

    Whatever needs the pipeline that ran once stays in the process that ran it, which starts with it: it takes longest.
    """

    def cost(item: pytest.Item) -> int:
        return max((1 + _ORDER.index(m) for m in _ORDER if item.get_closest_marker(m)), default=0)

    items.sort(key=cost)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    shared = [item for item in items if "_pipeline" in getattr(item, "fixturenames", ())]
    files = {item.path for item in shared}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("pipeline" if item.path in files else str(item.path)))
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder of the whole run, for what its processes build once."""
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
    """A copy of the sources in which the whole pipeline ran on a tiny scale; leave it as it was."""
    return _pipeline[0]


@pytest.fixture(scope="session")
def first_run(_pipeline: tuple[Tree, str]) -> str:
    """What that first run printed."""
    return _pipeline[1]

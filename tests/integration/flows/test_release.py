"""The release flow with a real server, registry and Prefect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from albef.registry import gate
from albef.serving.client import Client
from albef.serving.release import versions
from albef.serving.runtime import ensure
from albef.serving.server import TritonServer
from flows import _dvc
from flows.release import release
from tests import ROOT
from tests.errors import refuses
from tests.integration.registry.test_registry import altered, evaluations
from tests.served import copy_endpoints, served

pytestmark = [pytest.mark.usefixtures("prefect_harness")]
TASKS = ("retrieval", "vqa")


@dataclass(frozen=True)
class Place:
    """A checkout with pipeline results, and a server of an earlier version."""

    root: Path
    served: Path
    url: str
    store: str

    def release(self, **options: str) -> int:
        return release(str(self.served), url=self.url, refresh=False, **options)

    def champions(self) -> dict[str, int]:
        return {v.endpoint: v.number for which, v in gate.aliased_versions(self.store) if which == "champion"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    model, root = served(), tmp_path_factory.mktemp("checkout")
    artifacts, live = root / "artifacts", root / "served"
    for target in (artifacts / "repository", live):
        copy_endpoints(model.repository, target, *TASKS)
    shutil.copytree(model.folder / "lists", artifacts / "validated" / "lists")
    shutil.copyfile(ROOT / "tests/presets/tiny.yaml", root / "params.yaml")
    evaluations(artifacts / "evaluate")
    shutil.copytree(model.folder / "models", artifacts / "finetune")
    altered(live, root / "other")
    store = f"sqlite:///{root}/mlflow.db"
    with (
        pytest.MonkeyPatch.context() as patch,
        TritonServer(live, runtime=ensure()) as server,
    ):
        patch.setattr(_dvc, "ROOT", root)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.setenv("PYTHONPATH", str(ROOT))
        yield Place(root, live, server.grpc_url, store)


def artifact(key: str) -> str:
    """Return the latest Prefect artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.request("GET", f"/artifacts/{key}/latest")
    return str(found.json()["data"])


def test_what_is_no_worse_takes_over_and_what_is_worse_does_not(place: Place) -> None:
    probes = place.root / "probes.json"
    shutil.copyfile(served().folder / "images" / "0.png", place.root / "red.png")
    probes.write_text(json.dumps([{"endpoint": "vqa", "image": "red.png", "text": "red"}]))
    assert place.release(probes=str(probes)) == 2
    assert versions(place.served / "vqa") == [1, 2]
    first = dict.fromkeys(TASKS, 1)
    assert place.champions() == first
    rows = json.loads(artifact("champions"))
    assert {row["endpoint"] for row in rows} == set(first)
    assert "there is no champion yet" in artifact("verdicts")
    assert "Version 2 is served" in artifact("served")

    evaluations(place.root / "artifacts/evaluate", vqa=0.4)
    with refuses(_dvc.StageError, "vqa", "0.1000", "release.max_regression", 0.02):
        place.release(new="other")
    assert "0.1000" in artifact("refused")
    assert place.champions() == first
    assert versions(place.served / "vqa") == [1, 2]

    with Client(place.url) as client:
        assert client.retrieve(text="red")


def test_without_a_registry_to_tell_the_server_goes_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations(place.root / "artifacts/evaluate")
    real = _dvc.albef

    def albef(name: str, *arguments: str) -> str:
        if name == "promote":  # the database is gone after the load
            monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        return real(name, *arguments)

    monkeypatch.setattr(_dvc, "albef", albef)
    before, champions = versions(place.served / "vqa")[-1], place.champions()
    with refuses(_dvc.StageError, "http://127.0.0.1:9"):
        place.release(new="other")
    assert versions(place.served / "vqa") == [before]  # older ones are gone, too
    with Client(place.url) as client:
        assert client.ready()
        assert client.retrieve(text="red")
    monkeypatch.undo()
    assert place.champions() == champions

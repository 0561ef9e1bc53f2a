"""Logging to MLflow stores that fail, hang or are killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from albef import cli
from albef.tracking import tracker as tracking
from albef.tracking.mlflow_sync import BufferUpload, connect, sync_abandoned
from albef.tracking.offline_buffer import OfflineBuffer
from albef.tracking.tracker import Tracker
from tests.integration.tracking.stores import files, free_port, kill, runs, server, values

KILLED = """
import os, signal, sys
from pathlib import Path
from albef.tracking.tracker import Tracker
folder = Path(sys.argv[2])
(folder / "note.txt").write_text("kept")
tracker = Tracker(sys.argv[1], "killed", {"lr": 0.1}, {"stage": "s"}, folder)
for step in range(int(sys.argv[3]), int(sys.argv[4])):
    tracker.log_metrics({"loss": float(step)}, step)
tracker.log_artifact(folder / "note.txt", "notes")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _die(uri: str, folder: Path, *steps: int) -> None:
    """Run a process that logs and then kills itself."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [str(step) for step in steps or (0, 500)]
    done = subprocess.run([sys.executable, "-c", KILLED, uri, str(folder), *words])
    assert done.returncode == -9


def _has_loss(uri: str) -> bool:
    client = connect(uri)
    experiment = client.get_experiment_by_name("albef")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return any("loss" in run.data.metrics for run in found)


def _header(uri: str, **values: Any) -> dict[str, Any]:
    return {
        "uri": uri, "key": "k", "experiment": "albef", "name": "n", "params": {}, "tags": {}, "start": 1, "parent": None
    } | values  # fmt: skip


def _metrics(step: int, **metrics: float) -> dict[str, Any]:
    return {"kind": "metrics", "metrics": metrics, "step": step, "time": 5}


def test_a_server_that_dies_loses_nothing(tmp_path: Path, store: str) -> None:
    (tmp_path / "mlflow.db").rename(tmp_path / "server.db")
    port = free_port()
    uri, scratch = f"http://127.0.0.1:{port}", tmp_path / "scratch"
    (scratch / "first").mkdir(parents=True)
    image = tmp_path / "image.png"
    image.write_bytes(b"png")
    with server(tmp_path, port) as process:
        tracker = Tracker(uri, "first", {"lr": 0.1}, {}, scratch / "first").__enter__()
        tracker.log_metrics({"loss": 0.0}, 0)
        deadline = time.monotonic() + 60
        while not _has_loss(uri):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill(process)
        before = time.monotonic()
        for step in range(1, 50):
            tracker.log_metrics({"loss": float(step)}, step)
        tracker.log_artifact(image, "images")
        assert time.monotonic() - before < 5  # logging never waits for the store
        image.unlink()
        _die(uri, scratch / "killed")  # another process, of which the store never heard
        _die(uri, scratch / "killed", 490, 600)  # resumed, and killed again
        tracker.__exit__(None, None, None)
        assert len(list((scratch / "tracking").glob("*.jsonl"))) == 3

    with server(tmp_path, port):
        with Tracker(uri, "later", {}, {}, scratch / "later"):
            pass
        assert values(uri, "first", "loss") == [(step, float(step)) for step in range(50)]
        assert files(uri, "first") == {"images/image.png"}
        assert values(uri, "killed", "loss") == [(step, float(step)) for step in range(600)]
        assert files(uri, "killed") == {"notes/note.txt"}
        found = runs(uri)
        assert {name: run.info.status for name, run in found.items()} == {
            "first": "FINISHED",
            "killed": "KILLED",
            "later": "FINISHED",
        }
        assert (found["killed"].data.params, found["killed"].data.tags["stage"]) == ({"lr": "0.1"}, "s")
    assert not (scratch / "tracking").exists()


def test_data_that_is_sent_twice_is_there_once(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "scratch" / "tracking"
    _die(store, tmp_path / "scratch" / "killed")
    copy = shutil.copytree(root, tmp_path / "copy")
    assert cli.main(["tracking", "sync", "--tracking-uri", store, "--work-dir", str(tmp_path / "scratch")]) == 0
    assert capsys.readouterr().out == "1 runs synced\n"
    run_id = runs(store)["killed"].info.run_id
    shutil.copytree(copy, root)  # as if the sender had been killed before it could delete anything
    assert sync_abandoned(connect(store), store, root) == 1
    assert runs(store)["killed"].info.run_id == run_id
    assert values(store, "killed", "loss") == [(step, float(step)) for step in range(500)]
    assert files(store, "killed") == {"notes/note.txt"}


def test_flush_waits_for_processes_that_are_about_to_end(tmp_path: Path, store: str) -> None:
    folder, root = tmp_path / "killed", tmp_path / "tracking"
    folder.mkdir()
    slow = "import time\nimport albef.tracking.tracker as t\nt.connect = lambda uri: time.sleep(60)\n"
    lingering = slow + KILLED.replace("os.kill(", "time.sleep(3)\nos.kill(")
    with subprocess.Popen([sys.executable, "-c", lingering, store, str(folder), "0", "500"]):
        while len(list(root.glob("*/*/note.txt"))) < 1:
            time.sleep(0.05)
        tracking.flush(store, tmp_path, 60)
    assert values(store, "killed", "loss") == [(step, float(step)) for step in range(500)]
    assert not root.exists()
    left = OfflineBuffer.create(root, _header(store))  # of a process that goes on
    before = time.monotonic()
    tracking.flush("none", tmp_path, 60)
    tracking.flush(store, tmp_path, 1)
    left.release()
    tracking.flush(f"http://127.0.0.1:{free_port()}", tmp_path, 0)
    assert time.monotonic() - before < 20
    assert left.path.exists()


def test_a_rejected_metric_holds_up_nothing(tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "tracking"
    buffer = OfflineBuffer.create(root, _header(store))
    for step, name in enumerate(("good", "b@d", "good")):
        buffer.append(_metrics(step, **{name: 1.0}))
    upload = BufferUpload(connect(store), buffer)
    upload.send()
    assert values(store, "n", "good") == [(0, 1.0), (2, 1.0)]
    (warning,) = caplog.records
    assert "b@d" in warning.getMessage()
    buffer.append(_metrics(3, good=1.0))
    upload.send()
    assert len(caplog.records) == 1
    assert values(store, "n", "good") == [(0, 1.0), (2, 1.0), (3, 1.0)]
    upload.client.delete_run(upload.run_id)
    BufferUpload(connect(store), buffer).send()  # instead of a deleted run, another one is made
    assert values(store, "n", "good") == [(0, 1.0), (2, 1.0), (3, 1.0)]


def test_a_child_run_may_be_sent_before_its_parent(tmp_path: Path, store: str) -> None:
    root = tmp_path / "tracking"
    parent = {"key": "a", "name": "above", "start": 5}
    tags = {"stage": "s"}
    for name in ("first", "second"):
        child = OfflineBuffer.create(root, _header(store, key=name, name=name, tags=tags, parent=parent))
        BufferUpload(connect(store), child).send()
    assert runs(store)["above"].data.params == {}
    late = OfflineBuffer.create(root, _header(store, **parent, params={"lr": "0.1"}))
    late.append({"kind": "end", "status": "FINISHED", "time": 9})
    BufferUpload(connect(store), late).send()
    found = runs(store)
    assert sorted(found) == ["above", "first", "second"]
    assert found["above"].data.params == {"lr": "0.1"}
    assert (found["above"].info.status, found["above"].info.start_time) == ("FINISHED", 5)
    for name in ("first", "second"):
        assert found[name].data.tags["mlflow.parentRunId"] == found["above"].info.run_id
        assert found[name].data.tags["stage"] == "s"


def test_a_store_that_never_answers_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 1.0)
    (tmp_path / "a.txt").touch()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        before = time.monotonic()
        with Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "n", {}, {}, tmp_path / "run") as tracker:
            for step in range(100):
                tracker.log_metrics({"loss": 1.0}, step)
            tracker.log_artifact(tmp_path / "a.txt")
            assert time.monotonic() - before < 5
        assert time.monotonic() - before < 20
    (left,) = (tmp_path / "tracking").glob("*.jsonl")
    assert len(left.read_text().split()) > 100


def test_sync_reports_an_unreachable_store_and_keeps_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    buffer = OfflineBuffer.create(tmp_path / "tracking", _header(uri))
    buffer.append(_metrics(1, loss=1.0))
    buffer.release()
    assert cli.main(["tracking", "sync", "--tracking-uri", uri, "--work-dir", str(tmp_path)]) == 2
    assert str(tmp_path / "tracking") in capsys.readouterr().err
    (left,) = OfflineBuffer.abandoned(tmp_path / "tracking")
    assert left.items()[0] == [_metrics(1, loss=1.0)]


def test_an_unwritable_folder_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with Tracker(uri, "n", {}, {}, tmp_path / "file" / "run") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.log_artifact(tmp_path / "file")
    assert len(caplog.records) == 1
    assert not (tmp_path / "mlflow.db").exists()


def test_a_run_ends_as_its_block_does(tmp_path: Path, store: str) -> None:
    for name, error in (("failed", ValueError), ("stopped", SystemExit)):
        with pytest.raises(error), Tracker(store, name, {}, {}, tmp_path / name):
            raise error
    ended = Tracker(store, "ended", {}, {}, tmp_path / "ended")
    ended.end("FINISHED")
    with pytest.raises(SystemExit), ended:
        raise SystemExit
    statuses = {name: run.info.status for name, run in runs(store).items()}
    assert statuses == {"failed": "FAILED", "stopped": "KILLED", "ended": "FINISHED"}

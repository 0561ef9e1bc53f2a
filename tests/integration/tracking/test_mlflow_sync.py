"""Logging to MLflow stores that fail, hang or are killed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from albef import cli
from albef.tracking import tracker as tracking
from albef.tracking.mlflow_sync import BufferUpload, connect, sync_abandoned
from albef.tracking.offline_buffer import OfflineBuffer
from albef.tracking.tracker import MlflowTracker, tracked
from tests.integration.tracking.stores import files, free_port, kill, runs, server, values

KILLED = """
import os, signal, sys
from pathlib import Path
from albef.tracking.tracker import MlflowTracker
tracker = MlflowTracker(sys.argv[1], "killed", {"lr": "0.1"}, {"stage": "s"}, Path(sys.argv[2]))
for step in range(500):
    tracker.log_metrics({"loss": float(step)}, step)
tracker.log_text("kept", "note.txt", "notes")
os.kill(os.getpid(), signal.SIGKILL)
"""


def _die(uri: str, folder: Path) -> None:
    """Run a process that logs and then kills itself."""
    folder.mkdir(parents=True)
    done = subprocess.run([sys.executable, "-c", KILLED, uri, str(folder)])
    assert done.returncode == -9


def test_a_server_that_dies_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    uri, scratch = f"http://127.0.0.1:{port}", tmp_path / "scratch"
    (scratch / "first").mkdir(parents=True)
    image = tmp_path / "image.png"
    image.write_bytes(b"png")
    with server(tmp_path, port) as process:
        tracker = MlflowTracker(uri, "first", {"lr": "0.1"}, {}, scratch / "first")
        tracker.log_metrics({"loss": 0.0}, 0)
        told = scratch / "first" / "mlflow-run-id"
        deadline = time.monotonic() + 60
        while not told.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert told.read_text() == runs(uri)["first"].info.run_id
        kill(process)
        before = time.monotonic()
        for step in range(1, 50):
            tracker.log_metrics({"loss": float(step)}, step)
        tracker.log_artifact(image, "images")
        assert time.monotonic() - before < 5  # logging never waits for the store
        image.unlink()
        _die(uri, scratch / "killed")  # another process meanwhile, of which the store never heard
        tracker.close("FINISHED")
        assert len(list((scratch / "tracking").iterdir())) == 2

    with server(tmp_path, port):
        with tracked("later", scratch / "later", uri, {}, {}):
            pass
        assert values(uri, "first", "loss") == [(step, float(step)) for step in range(50)]
        assert files(uri, "first") == {"images/image.png"}
        assert values(uri, "killed", "loss") == [(step, float(step)) for step in range(500)]
        assert files(uri, "killed") == {"notes/note.txt"}
        found = runs(uri)
        assert {name: run.info.status for name, run in found.items()} == {
            "first": "FINISHED",
            "killed": "KILLED",
            "later": "FINISHED",
        }
        assert (found["killed"].data.params, found["killed"].data.tags["stage"]) == ({"lr": "0.1"}, "s")
    assert not (scratch / "tracking").exists()


def test_what_is_delivered_twice_is_there_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "scratch" / "tracking"
    _die(uri, tmp_path / "scratch" / "killed")
    (left,) = root.iterdir()
    shutil.rmtree(tmp_path / "scratch" / "killed")
    copy = shutil.copytree(left, tmp_path / "copy")
    assert cli.main(["tracking", "sync", "--tracking-uri", uri, "--work-dir", str(tmp_path / "scratch")]) == 0
    assert capsys.readouterr().out == "1 runs synced\n"
    run_id = runs(uri)["killed"].info.run_id
    # As if the process that delivered had been killed before it could note anything down, even the run's id.
    shutil.copytree(copy, root / "again")
    assert sync_abandoned(connect(uri), uri, root) == 1
    assert runs(uri)["killed"].info.run_id == run_id
    assert values(uri, "killed", "loss") == [(step, float(step)) for step in range(500)]
    assert files(uri, "killed") == {"notes/note.txt"}


def test_what_a_process_leaves_that_is_about_to_end_is_waited_for(tmp_path: Path) -> None:
    uri, folder, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "killed", tmp_path / "tracking"
    folder.mkdir()
    slow = "import time\nimport albef.tracking.tracker as t\nt.connect = lambda uri: time.sleep(60)\n"
    lingering = slow + KILLED.replace("os.kill(", "time.sleep(3)\nos.kill(")
    header = {"uri": uri, "key": "other", "experiment": "albef", "name": "other", "params": {}, "tags": {}, "start": 1}
    other = OfflineBuffer.create(root, header)  # that lives on
    with subprocess.Popen([sys.executable, "-c", lingering, uri, str(folder)]):
        while len(list(root.glob("*/files/*/note.txt"))) < 1:
            time.sleep(0.05)
        tracking.flush_runs(uri, tmp_path, [folder, tmp_path / "none"], 60)
    assert values(uri, "killed", "loss") == [(step, float(step)) for step in range(500)]
    assert [path.parent for path in root.glob("*/run.json")] == [other.folder]
    _die(uri, tmp_path / "again")
    before = time.monotonic()
    tracking.flush_runs("none", tmp_path, [tmp_path / "again"], 60)
    tracking.flush_runs(f"http://127.0.0.1:{free_port()}", tmp_path, [tmp_path / "again"], 0)
    assert time.monotonic() - before < 20
    assert len(list(root.glob("*/run.json"))) == 2


def test_a_refused_metric_holds_up_nothing_and_a_deleted_run_is_made_anew(tmp_path: Path) -> None:
    uri, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "tracking"
    header = {"uri": uri, "key": "k", "experiment": "albef", "name": "n", "params": {}, "tags": {}, "start": 1}
    buffer = OfflineBuffer.create(root, {**header, "run_id": "0" * 32, "described": True})
    for step, name in enumerate(("good", "b@d", "good")):
        buffer.append({"kind": "metrics", "metrics": {name: 1.0}, "step": step, "time": 5})
    BufferUpload(connect(uri), buffer).send(buffer.unsent())
    assert values(uri, "n", "good") == [(0, 1.0), (2, 1.0)]
    assert '"b@d": 1.0' in (root / "refused.jsonl").read_text()
    assert buffer.unsent() == []


def test_a_run_is_below_another_of_which_the_store_hears_later(tmp_path: Path) -> None:
    uri, root = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "tracking"
    above = {"key": "a", "name": "above", "start": 5}
    common = {"uri": uri, "experiment": "albef", "tags": {"stage": "s"}}
    for name in ("first", "second"):
        below = OfflineBuffer.create(
            root, {**common, "key": name, "name": name, "start": 7, "params": {}, "parent": above}
        )
        BufferUpload(connect(uri), below).send([])
    assert runs(uri)["above"].data.params == {}
    late = OfflineBuffer.create(root, {**common, **above, "params": {"lr": "0.1"}, "parent": None})
    late.append({"kind": "end", "status": "FINISHED", "time": 9})
    BufferUpload(connect(uri), late).send(late.unsent())
    found = runs(uri)
    assert sorted(found) == ["above", "first", "second"]
    assert found["above"].data.params == {"lr": "0.1"}
    assert (found["above"].info.status, found["above"].info.start_time) == ("FINISHED", 5)
    for name in ("first", "second"):
        assert found[name].data.tags["mlflow.parentRunId"] == found["above"].info.run_id
        assert found[name].data.tags["stage"] == "s"


def test_a_store_that_never_answers_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_CLOSE_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        tracker = MlflowTracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "n", {}, {}, tmp_path / "run")
        before = time.monotonic()
        for step in range(100):
            tracker.log_metrics({"loss": 1.0}, step)
        tracker.log_text("text", "a.txt")
        assert time.monotonic() - before < 5
        tracker.close("FINISHED")
        assert time.monotonic() - before < 20
        (left,) = (tmp_path / "tracking").iterdir()
        assert len((left / "journal.jsonl").read_text().splitlines()) == 102


def test_delivery_says_that_the_store_is_away_and_keeps_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    header = {"uri": uri, "key": "k", "experiment": "albef", "name": "n", "params": {}, "tags": {}, "start": 1}
    buffer = OfflineBuffer.create(tmp_path / "tracking", header)
    buffer.append({"kind": "metrics", "metrics": {"loss": 1.0}, "step": 1, "time": 5})
    buffer.release()
    assert cli.main(["tracking", "sync", "--tracking-uri", uri, "--work-dir", str(tmp_path)]) == 2
    assert f"stays in {tmp_path / 'tracking'}" in capsys.readouterr().err
    (left,) = OfflineBuffer.abandoned(tmp_path / "tracking")
    assert len(left.unsent()) == 1


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with tracked("n", tmp_path / "file" / "run", f"sqlite:///{tmp_path / 'mlflow.db'}", {}, {}) as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.log_text("text", "a.txt")
    assert "nothing is tracked" in caplog.text

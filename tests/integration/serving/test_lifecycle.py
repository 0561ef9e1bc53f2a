"""Start, stop, crash and invalid repositories of a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from albef.serving import access
from albef.serving.client import Client, ServerUnavailableError
from albef.serving.runtime import Runtime
from albef.serving.server import ServerError, TritonServer
from albef.serving.service import Access, Service
from tests import ROOT
from tests.errors import refuses


def listening(pid: int) -> set[tuple[str, int]]:
    found = psutil.Process(pid).net_connections("tcp")
    return {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}


def test_triton_listens_in_a_private_folder_and_the_rest_on_loopback(service):
    assert listening(service.server.pid) == {("127.0.0.1", service.server.metrics_port)}
    folder = service.server.folder
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name for path in folder.iterdir() if path.is_socket()} == {"triton:1", "proxy"}
    parts = {name: listening(part.pid) for name, part in service._parts.items()}
    assert parts["http_app"] == {("127.0.0.1", service.http_port)}
    assert parts["proxy"] <= {("127.0.0.1", service.grpc_port), ("::ffff:127.0.0.1", service.grpc_port)} != set()


def family(group: int) -> list[int]:
    """Return the running processes of a process group."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def gone(group: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while family(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not family(group)


def test_a_server_that_crashes_as_it_starts_is_tried_again_and_a_killed_one_leaves_nothing(
    retrieval_alone, runtime, tmp_path
):
    class Flaky(Runtime):
        """Runtime whose server aborts at its first start."""

        @property
        def server(self) -> Path:
            script, mark = tmp_path / "tritonserver", tmp_path / "started"
            text = f'[ -e "{mark}" ] && exec "{runtime.server}" "$@"\ntouch "{mark}"\nkill -ABRT $$\n'
            script.write_text(f"#!/bin/sh\n{text}")
            script.chmod(0o755)
            return script

    server = TritonServer(retrieval_alone, runtime=Flaky(runtime.root))
    server.start()
    assert (tmp_path / "started").exists()
    pid = server.pid
    assert len(family(pid)) == 1 + len(list(retrieval_alone.iterdir()))  # the server, and a stub a model
    assert server.segments()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    with Client(server.grpc_url, timeout=5, retries=1) as client, pytest.raises(ServerUnavailableError):
        client.retrieve(text="red")
    folder = server.folder
    assert server.stop() == -signal.SIGKILL
    assert not folder.exists()
    assert gone(pid)
    assert not server.segments()


def command(repository: Path | str, *options: str) -> list[str]:
    """Return ``albef serve`` at free ports."""
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    return [sys.executable, "-m", "albef.cli", "serve", "--repository", str(repository), *ports, *options]


def children(pid: int) -> dict[str, int]:
    """Return the processes that ``albef serve`` has started, by name."""
    found = {}
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            found[words[2] if words[1:2] == ["-m"] else child.name()] = child.pid
    return found


def triton(pid: int) -> list[int]:
    return [child for name, child in children(pid).items() if name == "tritonserver"]


def address(line: str) -> str:
    """Return the gRPC address in the line that ``albef serve`` prints."""
    (found,) = re.findall(r"gRPC ([^,]+)", line)
    return found


def test_command_stops_cleanly(retrieval_alone, runtime):
    # The checkout as working directory: the endpoint must import what lies beside it, not this.
    with subprocess.Popen(command(retrieval_alone), cwd=ROOT, stdout=subprocess.PIPE, text=True) as serving:
        try:
            url = address(serving.stdout.readline())
            ask = ["ask", "retrieval", "red above blue", "-k", "2", "--url", url]
            done = subprocess.run([sys.executable, "-m", "albef.cli", *ask], capture_output=True, text=True, check=True)
            assert done.stdout.count("images/") == 2
            started = children(serving.pid)
            assert {"tritonserver", "albef.serving.proxy", "albef.serving.http_app"} <= set(started)
            mine, key = f"albef_{serving.pid}_*", access.key_file(int(url.rpartition(":")[2]))
            assert list(Path("/dev/shm").glob(mine))
            assert key.stat().st_mode & 0o077 == 0
            serving.send_signal(signal.SIGINT)
            assert serving.wait(30) == 0
        finally:
            serving.kill()
    assert all(gone(group) for group in started.values())
    assert not list(Path("/dev/shm").glob(mine))
    assert not key.exists()


def test_command_can_be_stopped_while_starting(retrieval_alone, runtime):
    with subprocess.Popen(command(retrieval_alone), cwd=ROOT, stdout=subprocess.PIPE) as serving:
        try:
            deadline = time.monotonic() + 20
            while not (servers := triton(serving.pid)) and time.monotonic() < deadline:
                time.sleep(0.01)
            serving.terminate()
            assert serving.wait(30) == 0
            assert serving.stdout.read() == b""  # it never said that it serves
        finally:
            serving.kill()
    assert gone(servers[0])


def test_taken_port_is_named(retrieval_alone, runtime):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with refuses(ServerError, f"127.0.0.1:{port}"):
            TritonServer(retrieval_alone, runtime=runtime, metrics_port=port).start()
        with refuses(ServerError, f"127.0.0.1:{port}"):
            Service(TritonServer(retrieval_alone, runtime=runtime), Access(grpc_port=port)).start()


def test_folder_without_models_is_refused(tmp_path, runtime):
    with refuses(ServerError, tmp_path):
        TritonServer(tmp_path, runtime=runtime).start()


def refused(repository: Path, runtime) -> str:
    server = TritonServer(repository, runtime=runtime)
    with pytest.raises(ServerError) as caught:
        server.start()
    assert server.pid is None
    return str(caught.value)


def test_parts_of_another_model_are_refused(retrieval_alone, runtime, tmp_path):
    repository = tmp_path / "elsewhere"
    shutil.copytree(retrieval_alone, repository)
    manifest = repository / "retrieval" / "1" / "index" / "manifest.json"
    text = manifest.read_text()
    data = json.loads(text)
    manifest.write_text(json.dumps({**data, "model_hash": "f" * 64}))
    assert "model_hash is ffffffffffff in the index" in refused(repository, runtime)
    manifest.write_text(text)
    settings = repository / "retrieval" / "1" / "settings.json"
    known = settings.read_text()
    settings.write_text(json.dumps({**json.loads(known), "model_hash": "e" * 64}))
    assert "but retrieval expects eeeeeeeeeeee" in refused(repository, runtime)
    settings.write_text(known)
    words = repository / "retrieval" / "1" / "tokenizer" / "tokenizer.json"
    words.write_text(words.read_text() + " ")
    assert "tokenizer.json: not the tokenizer of the model" in refused(repository, runtime)


def test_moved_repository_answers_alike(retrieval_alone, runtime, tmp_path, client):
    repository = tmp_path / "moved" / "models"
    shutil.copytree(retrieval_alone, repository)
    with TritonServer(repository, runtime=runtime, log=tmp_path / "server.log") as server:
        with Client(server.grpc_url) as other:
            assert other.retrieve(text="red") == client.retrieve(text="red")
        pid = server.pid
        assert server.stop() == 0
        assert gone(pid)
    assert "successfully unloaded" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize(("status", "shown"), [(1, ["E1 refused"]), (-11, ["E1 refused", "I1 models", "I2 leaving"])])
def test_a_refusal_is_told_though_the_server_crashes_afterwards(runtime, tmp_path, status, shown):
    server = TritonServer(tmp_path, runtime=runtime)
    server.log = tmp_path / "log"
    server.log.write_text("I0 begins\nE0 no CUDA\nE1 refused\nI1 models\nI2 leaving\n")
    server._child = SimpleNamespace(poll=lambda: status)
    assert server.log_excerpt(limit=2).splitlines() == shown
    server._child = None

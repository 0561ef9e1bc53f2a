"""``albef serve`` as a whole: encryption, tokens, supervision, and stopping under load."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import trustme
from tritonclient import grpc as triton_grpc

from albef import cli
from albef.serving.access import Tls
from albef.serving.client import Client, DeniedError, ServerUnavailableError, ServingError
from albef.serving.server import TritonServer
from albef.serving.service import Access, Service
from albef.serving.watchdog import Watchdog
from tests import ROOT
from tests.integration.serving.test_lifecycle import address, children, command, gone

TOKEN = "0123456789abcdef-token"
TEXT = "red above blue"


# -- encryption and tokens


@dataclass(frozen=True)
class Pki:
    """Certificates of a server and a client, and of the authority that signed them."""

    folder: Path

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    @property
    def server(self) -> Tls:
        return Tls(cert=self.file("server"), key=self.file("server-key"))

    @property
    def client(self) -> Tls:
        return Tls(self.file("ca"), self.file("client"), self.file("client-key"))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    found, authority = Pki(tmp_path_factory.mktemp("pki")), trustme.CA()
    authority.cert_pem.write_to_path(str(found.file("ca")))
    for name in ("server", "client"):
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.cert_chain_pems[0].write_to_path(str(found.file(name)))
        issued.private_key_pem.write_to_path(str(found.file(f"{name}-key")))
    return found


@pytest.fixture(scope="module")
def protected(retrieval_alone, runtime, pki) -> Iterator[Service]:
    allowed = Access(http_port=0, tls=pki.server, tokens=[TOKEN])
    with Service(TritonServer(retrieval_alone, runtime=runtime), allowed) as running:
        yield running


def test_clients_with_token_and_certificate_are_answered(protected, pki, client, tmp_path, capsys):
    expected = client.retrieve(TEXT)
    with Client(protected.grpc_url, tls=pki.file("ca"), token=TOKEN) as own:
        assert own.retrieve(TEXT) == expected
    with triton_grpc.InferenceServerClient(
        protected.grpc_url, ssl=True, root_certificates=str(pki.file("ca"))
    ) as plain:
        text = triton_grpc.InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[TEXT.encode()]], dtype=object))
        result = plain.infer("retrieval", [text], headers={"authorization": f"Bearer {TOKEN}"})
        assert [each.decode() for each in result.as_numpy("ids")[0]] == [match.id for match in expected]
    body = json.dumps({"texts": [TEXT]})
    curl = ["curl", "--silent", "--fail", "--cacert", str(pki.file("ca")), "--json", body]
    curl += ["--header", f"Authorization: Bearer {TOKEN}", f"{protected.http_url}/v1/retrieval"]
    answers = json.loads(subprocess.run(curl, capture_output=True, check=True).stdout)["answers"]
    assert [each["id"] for each in answers[0]] == [match.id for match in expected]
    tokens = tmp_path / "token"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    options = ["--url", protected.grpc_url, "--tls-ca", str(pki.file("ca")), "--token-file", str(tokens)]
    assert cli.main(["ask", "retrieval", TEXT, "-k", "10", *options]) == 0
    assert expected[0].id in capsys.readouterr().out


@pytest.mark.parametrize("token", [None, "", TOKEN + "x", TOKEN[:-1]])
def test_other_tokens_are_refused(protected, pki, token):
    with Client(protected.grpc_url, tls=pki.file("ca"), token=token) as other, pytest.raises(DeniedError):
        other.retrieve(TEXT)
    curl = ["curl", "--silent", "--cacert", str(pki.file("ca")), "--json", '{"texts": ["red"]}', "--output", os.devnull]
    curl += ["--write-out", "%{http_code}", "--header", f"Authorization: Bearer {token or ''}"]
    done = subprocess.run([*curl, f"{protected.http_url}/v1/retrieval"], capture_output=True, text=True, check=True)
    assert done.stdout == "401"


def test_clients_without_encryption_or_with_another_authority_do_not_connect(protected, pki, tmp_path):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for tls in (None, True, tmp_path / "other.pem"):
        other = Client(protected.grpc_url, tls=tls, token=TOKEN, timeout=5, retries=0)
        with other, pytest.raises(ServerUnavailableError):
            other.retrieve(TEXT)


def test_clients_without_the_required_certificate_do_not_connect(retrieval_alone, runtime, pki):
    mutual = Access(http_port=0, tls=replace(pki.server, ca=pki.file("ca")))
    with Service(TritonServer(retrieval_alone, runtime=runtime), mutual) as running:
        with Client(running.grpc_url, tls=pki.client) as known:
            assert known.retrieve(TEXT)
        unknown = Client(running.grpc_url, tls=pki.file("ca"), timeout=5, retries=0)
        with unknown, pytest.raises(ServerUnavailableError):
            unknown.retrieve(TEXT)
        curl = ["curl", "--silent", "--cacert", str(pki.file("ca")), f"{running.http_url}/health"]
        assert subprocess.run(curl, capture_output=True).returncode != 0
        curl += ["--cert", str(pki.file("client")), "--key", str(pki.file("client-key"))]
        assert json.loads(subprocess.run(curl, capture_output=True, check=True).stdout)["ready"]


def test_an_open_network_address_is_refused(retrieval_alone, runtime, capsys):
    options = ["serve", "--repository", str(retrieval_alone), "--address", "0.0.0.0"]
    assert cli.main(options) == 2
    assert "--tokens" in capsys.readouterr().err


# -- priorities


def test_requests_of_low_priority_are_overtaken(service, model):
    image, questions = model.folder / "images/0.png", [f"is it {number}" for number in range(8)]
    with (
        Client(service.grpc_url, priority=2) as low,
        Client(service.grpc_url) as normal,
        ThreadPoolExecutor(12) as pool,
    ):
        bulk = [pool.submit(low.answer_many, image, questions, generate=True) for _ in range(12)]
        wait(bulk, return_when=FIRST_COMPLETED)
        expected = normal.answer_many(image, questions, generate=True)
        overtaken = sum(not each.done() for each in bulk)
        assert all(each.result() == expected for each in bulk)
    assert overtaken >= 4  # of eleven; without priorities this request is the last


# -- supervision


class Load:
    """Callers that ask all the time, each with the client's own retries."""

    def __init__(self, url: str, callers: int = 4, **options: Any) -> None:
        self.url, self.options = url, options
        self.outcomes: Counter[str] = Counter()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._ask) for _ in range(callers)]

    def _ask(self) -> None:
        with Client(self.url, **self.options) as client:
            while not self.over.is_set():
                try:
                    client.retrieve(TEXT)
                    outcome = "answered"
                except ServingError as error:
                    outcome = f"{type(error).__name__}: {error}"
                    time.sleep(0.02)
                self.outcomes[outcome] += 1

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@contextmanager
def served(repository: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """Run ``albef serve``; yield its process, its gRPC address and the file of its errors."""
    errors = tmp_path / "errors"
    with (
        errors.open("w") as file,
        subprocess.Popen(command(repository), cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True) as serving,
    ):
        try:
            assert serving.stdout is not None
            yield serving, address(serving.stdout.readline()), errors
        finally:
            serving.kill()


def stubs(pid: int) -> dict[str, int]:
    """Return the processes of Triton's models by name."""
    found = {}
    for child in psutil.Process(children(pid)["tritonserver"]).children():
        with suppress(psutil.NoSuchProcess):  # of which a zombie is one
            if match := re.search(r"/(\w+)/\d+/model\.", " ".join(child.cmdline())):
                found[match[1]] = child.pid
    return found


def until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_killed_processes_are_replaced_under_load(retrieval_alone, runtime, tmp_path):
    with served(retrieval_alone, tmp_path) as (serving, url, errors), Load(url, timeout=60) as load:
        for name in ("albef.serving.proxy", "albef.serving.http_app", "tritonserver"):
            until(lambda: name in children(serving.pid))  # noqa: B023
            old, answered = children(serving.pid)[name], load.outcomes["answered"]
            os.kill(old, signal.SIGKILL)
            until(lambda: children(serving.pid).get(name, old) != old)  # noqa: B023
            until(lambda: load.outcomes["answered"] > answered + 8)  # noqa: B023
        load.over.set()
    assert set(load.outcomes) == {"answered"}  # clients have tried again by themselves
    lines = errors.read_text().splitlines()
    assert len(lines) == 3  # each said once
    assert all("SIGKILL" in line for line in lines)


@pytest.mark.parametrize("name", ["retrieval", "retrieval_fusion", "retrieval_vision"])
def test_dead_models_are_loaded_again(retrieval_alone, runtime, tmp_path, name):
    with served(retrieval_alone, tmp_path) as (serving, url, errors), Client(url, retries=0) as client:
        server, old = children(serving.pid)["tritonserver"], stubs(serving.pid)[name]
        os.kill(old, signal.SIGKILL)
        until(lambda: stubs(serving.pid).get(name, old) != old)
        until(client.ready)
        assert client.retrieve(TEXT)
        assert children(serving.pid)["tritonserver"] == server
        assert name in errors.read_text()


def test_the_watchdog_leaves_release_candidates_and_unloaded_models_alone(retrieval_alone, runtime, tmp_path):
    repository, name = tmp_path / "repository", "retrieval_candidate"
    shutil.copytree(retrieval_alone, repository)
    shutil.copytree(repository / "retrieval", repository / name)
    config = repository / name / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "retrieval"', f'name: "{name}"', 1))
    reports: list[dict[str, bool]] = []
    with TritonServer(repository, runtime=runtime) as server, Client(server.grpc_url) as client:
        watchdog = Watchdog(reports.append)
        watchdog.round(client)
        client.triton.unload_model("retrieval")
        until(lambda: not client.models()["retrieval"])
        watchdog.round(client)
        assert [model for model, loaded in client.models().items() if not loaded] == ["retrieval"]
    assert reports == [{"retrieval": True}, {}]


def test_a_killed_service_leaves_nothing_behind(retrieval_alone, runtime, tmp_path):
    with served(retrieval_alone, tmp_path) as (serving, url, _), Load(url, timeout=1, retries=0):
        started = children(serving.pid)
        groups = [pid for name, pid in started.items() if name != "sh"]
        serving.kill()
        assert all(gone(group, 10) for group in groups)
    assert not list(Path("/dev/shm").glob(f"albef_{serving.pid}_*"))


def test_a_service_that_keeps_dying_ends_with_its_own_status(retrieval_alone, runtime, tmp_path):
    with served(retrieval_alone, tmp_path) as (serving, _, errors):
        while serving.poll() is None:
            if proxy := children(serving.pid).get("albef.serving.proxy"):
                os.kill(proxy, signal.SIGKILL)
            time.sleep(0.3)
        assert serving.returncode == 3
    assert "6th crash" in errors.read_text()


def test_stopping_under_load_answers_what_is_in_progress(retrieval_alone, runtime, tmp_path):
    with served(retrieval_alone, tmp_path) as (serving, url, _), Load(url, callers=8, retries=0) as load:
        until(lambda: load.outcomes["answered"] > 20)
        serving.terminate()
        stopped = time.monotonic()
        assert serving.wait(20) == 0
        assert time.monotonic() - stopped < 15
    refused = [outcome for outcome in load.outcomes if outcome != "answered"]
    assert refused
    assert all(outcome.startswith("ServerUnavailableError") for outcome in refused), load.outcomes

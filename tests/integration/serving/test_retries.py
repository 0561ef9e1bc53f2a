"""Retries of clients while a server is unavailable."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from albef.serving import access, requests
from albef.serving.client import (
    AsyncClient,
    Client,
    InvalidRequestError,
    NoSuchEndpointError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from albef.serving.server import TritonServer, free_ports
from albef.serving.service import Access, Service
from tests.errors import refuses
from tests.integration.serving.test_answers import metric

TEXT = "red above blue"


def at(port: int, repository, runtime) -> Service:
    return Service(TritonServer(repository, runtime=runtime), Access(grpc_port=port))


async def asked(url: str, timeout: float):
    async with AsyncClient(url, timeout) as client:
        return await client.retrieve(TEXT)


def test_both_clients_wait_for_a_server_that_comes_late(retrieval_alone, runtime, client):
    expected, (port,) = client.retrieve(TEXT), free_ports(1)
    url, answered = f"127.0.0.1:{port}", []

    def ask(kind: str):
        with Client(url, timeout=60) as own:
            found = own.retrieve(TEXT) if kind == "threads" else asyncio.run(asked(url, 60))
        answered.append(time.monotonic())
        return found

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, kind) for kind in ("threads", "asyncio")]
        time.sleep(6)  # long enough for a channel with gRPC's own pauses to be in one of four seconds or more
        assert not any(each.done() for each in waiting)
        with at(port, retrieval_alone, runtime):
            started = time.monotonic()
            assert [each.result(60) for each in waiting] == [expected, expected]
            # A pause of the channel and one of the client.
            assert max(answered) < started + 3
            with Client(url, admin_key=access.key_of(url)) as own:
                own.triton.unload_model("retrieval", headers=own.headers)
                with refuses(ServerUnavailableError, "retrieval"), Client(url, retries=0) as impatient:
                    impatient.retrieve(TEXT)
                later = threading.Timer(1.0, own.triton.load_model, ["retrieval", own.headers])
                later.start()
                assert own.retrieve(TEXT) == expected
                later.join()


def test_restarts_go_unnoticed(retrieval_alone, runtime, client):
    expected, (port,), over = client.retrieve(TEXT), free_ports(1), threading.Event()
    url = f"127.0.0.1:{port}"

    def threads() -> list:
        with Client(url) as own:
            found = []
            while not over.is_set():
                found.append(own.retrieve(TEXT))
                time.sleep(0.01)
            return found

    async def gather() -> list:
        async with AsyncClient(url) as own:
            found = []
            while not over.is_set():
                found += await asyncio.gather(*(own.retrieve(TEXT) for _ in range(4)))
            return found

    with at(port, retrieval_alone, runtime) as service, ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(threads), pool.submit(asyncio.run, gather())]
        try:
            for end in ("stopped", "killed"):
                time.sleep(1)
                if end == "killed":
                    os.kill(service.server.pid, signal.SIGKILL)
                    service.server.restart()
                else:
                    service.stop()
                    service.start()
                time.sleep(2.5)
        finally:
            over.set()
        for each in asking:
            answers = each.result(60)
            assert len(answers) > 10
            assert all(answer == expected for answer in answers)


def test_without_a_server_it_is_tried_until_the_timeout():
    (port,) = free_ports(1)
    for retries, least, most in ((None, 2.0, 10.0), (0, 0.0, 3.0)):
        with Client(f"127.0.0.1:{port}", timeout=4, retries=retries) as client:
            began = time.monotonic()
            with refuses(ServerUnavailableError, f"127.0.0.1:{port}", "retrieval"):
                client.retrieve(TEXT)
            assert least <= time.monotonic() - began <= most


def test_nothing_else_is_tried_again(server, client, model, monkeypatch):
    sent: Counter[str] = Counter()
    infer = client.triton.infer

    def counted(**arguments):
        sent[arguments["model_name"]] += 1
        return infer(**arguments)

    monkeypatch.setattr(client.triton, "infer", counted)
    with pytest.raises(InvalidRequestError):
        client.retrieve("")
    call = requests.build("retrieval", texts=["red"], k=1, rerank=True)
    with refuses(NoSuchEndpointError, "'captions'"):
        client.ask(dataclasses.replace(call, spec=dataclasses.replace(call.spec, name="captions")))
    image = (model.folder / "images" / "3.png").read_bytes()
    client.timeout = 0.01
    with pytest.raises(ServerTimeoutError):
        client.answer(image, "red", candidates=[f"red {number}" for number in range(4000)])
    assert sent == {"retrieval": 1, "captions": 1, "vqa": 1}
    assert metric(server, "nv_inference_request_success", "vqa") > 0  # it answered its probe, and serves on

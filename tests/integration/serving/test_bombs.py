"""Requests that are small for a client and large for a server, beside requests of others."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
from PIL import Image
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from albef.export import repository
from albef.serving import metrics
from albef.serving.client import Client
from albef.serving.server import TritonServer
from tests.errors import refuses
from tests.integration.serving import hostile
from tests.integration.serving.hostile import encoded, png, scene
from tests.integration.serving.hostile_requests import pair, strings
from tests.integration.serving.test_hostile import inputs_of, stub
from tests.integration.serving.test_lifecycle import family
from tests.integration.serving.test_metrics import counted, grown, key
from tests.worlds import tiny_config

ROWS = 16
SECONDS = 1.5
"""CPU time for an image, far below what the slow image takes."""


@pytest.fixture(scope="module")
def exposed(model, runtime, tmp_path_factory):
    """A server with the limits of the demo, except for the time of an image."""
    limits = {key: value for key, value in vars(tiny_config().serve).items() if key.startswith("max_")}
    serve = dataclasses.replace(
        model.config.serve, **limits | {"max_batch_size": 8, "max_queries": ROWS, "decode_seconds": SECONDS}
    )
    config, folder = dataclasses.replace(model.config, serve=serve), model.folder
    target = tmp_path_factory.mktemp("exposed") / "repository"
    repository.run(config, model.exported, folder / "lists", folder, folder / "tokenizer", target)
    with TritonServer(target, runtime=runtime) as server:
        yield server


@pytest.fixture
def triton(exposed):
    with grpc.InferenceServerClient(exposed.grpc_url) as connected:
        yield connected


def rows(files: list[bytes], **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": strings(*files), "text": strings(*[b"red"] * len(files)), **more}


def run_length(row: int) -> bytes:
    return hostile.run_length_bmp(40_000_000, 1) + bytes([row])


def forty_megapixels(row: int) -> bytes:
    return encoded(Image.new("1", (8000, 5000 - row)))


def candidates(count: int, total: int) -> dict[str, np.ndarray]:
    return pair(count, candidates=np.array([[b"%d" % number for number in range(total)]] * count, np.object_))


def nothing(total: int) -> dict[str, np.ndarray]:
    return pair(candidates=np.broadcast_to(np.array(b"", np.object_), (1, total)))


ATTACKS = {
    "run-length bmp": (lambda: rows([run_length(0)]), ("'image'", "BMP")),
    "sixteen run-length bmp": (lambda: rows([run_length(row) for row in range(ROWS)]), ("'image'", "BMP")),
    "pgm of comments": (lambda: rows([b"P5 " + b"#\n" * 8_000_000]), hostile.UNKNOWN_FORMAT),
    "pgm of 255 values": (lambda: rows([b"P5 4000 4000 254\n" + bytes(16_000_000)]), hostile.UNKNOWN_FORMAT),
    "jpeg of segments": (lambda: rows([hostile.jpeg_of_segments(4_000_000, 0)]), ("'image'", "JPEG", 10_000)),
    "png of chunks": (lambda: rows([hostile.png_of_chunks(1_500_000)]), ("'image'", "PNG", 10_000)),
    "gif of comments": (lambda: rows([hostile.gif_of_comments(9_000_000)]), ("'image'", "GIF", 2_000)),
    "sixteen png": (lambda: rows([forty_megapixels(row) for row in range(ROWS)]), ("'image'", 160_000_000)),
    "jpeg of scans": (lambda: rows([hostile.jpeg_of_scans(90, 6000)]), ("'image'", SECONDS)),
    "candidates": (lambda: candidates(ROWS, 10_000), ("'candidates'", 10_000, ROWS, 4000)),
    "candidates of nothing": (lambda: nothing(4_500_000), ("'candidates'", 4_500_000, 4000)),
    "boxes": (
        lambda: pair(ROWS, boxes=np.ones((ROWS, 70_000, 4), np.float32)),
        ("'boxes'", 70_000, ROWS, 4000),
    ),
}
"""Requests, and what the error message names."""
ENDPOINT = {"candidates": "vqa", "candidates of nothing": "vqa", "boxes": "grounding"}


@contextmanager
def neighbors(exposed, endpoint):
    """Ask another question again and again; yield the seconds that each answer took."""
    inputs = inputs_of(grpc, rows([encoded(scene(64, 64), "JPEG")]))
    stop, seconds = threading.Event(), []

    def ask() -> None:
        with grpc.InferenceServerClient(exposed.grpc_url) as other:
            while not stop.is_set():
                start = time.monotonic()
                other.infer(endpoint, inputs, client_timeout=60)
                seconds.append(time.monotonic() - start)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            while not seconds and not asking.done():
                time.sleep(0.01)
            yield seconds
        finally:
            stop.set()
        asking.result()


@pytest.mark.parametrize("name", ATTACKS)
def test_bombs_harm_nobody(exposed, triton, name):
    arrays, names = ATTACKS[name]
    endpoint = ENDPOINT.get(name, "entailment")
    inputs = inputs_of(grpc, arrays())
    before = counted(exposed)
    with neighbors(exposed, endpoint) as seconds:
        start = time.monotonic()
        with refuses(InferenceServerException, *names) as caught:
            triton.infer(endpoint, inputs, client_timeout=60)
        taken = time.monotonic() - start
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    print(f"{name}: {taken:.2f} s; {len(seconds)} others up to {max(seconds):.2f} s")
    assert taken < 4 * SECONDS + 2
    # Without the limits these take up to minutes; a busy machine may delay anything by a second.
    assert max(seconds) < 1.5
    found = grown(before, counted(exposed))
    assert found[key(metrics.REQUESTS, endpoint)] == 1 + len(seconds)
    assert key(metrics.FAILURES, endpoint) not in found


def test_many_slow_images_leave_room_for_others(exposed):
    """Twenty callers send slow images, more than wait for a worker."""
    inputs = inputs_of(grpc, rows([hostile.jpeg_of_scans(90, 6000)]))

    def attack(number: int) -> str:
        with grpc.InferenceServerClient(exposed.grpc_url) as triton:
            with pytest.raises(InferenceServerException) as caught:
                triton.infer("entailment", inputs, client_timeout=4)
            return caught.value.status().removeprefix("StatusCode.")

    with neighbors(exposed, "entailment") as seconds, ThreadPoolExecutor(20) as pool:
        found = set(pool.map(attack, range(20)))
    assert found <= {"INVALID_ARGUMENT", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert "UNAVAILABLE" in found
    assert len(seconds) > 20
    assert max(seconds) < 1.5


def workers(exposed, endpoint) -> list[int]:
    children = psutil.Process(stub(exposed, endpoint)).children()
    return [child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE]


def large(extra: int = 0) -> bytes:
    return png(2000, 1500 + extra, bytes((1500 + extra) * 6001))


def test_killed_workers_are_replaced(exposed):
    with Client(exposed.grpc_url) as client:
        expected = client.entail(large(), "red")
        for pid in (before := workers(exposed, "entailment")):
            os.kill(pid, signal.SIGKILL)
        assert client.entail(large(), "red") == expected
    assert before
    assert not {*before} & {*workers(exposed, "entailment")}


def until(found, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(result)


@pytest.mark.parametrize("how", ["canceled", "expired"])
def test_nothing_is_computed_for_callers_that_left(exposed, triton, how):
    """Sixteen large images, of which few are decoded before the caller leaves."""
    files = [large(row) for row in range(ROWS)]
    before = counted(exposed)
    left = threading.Event()
    call = triton.async_infer(
        "entailment",
        inputs_of(grpc, rows(files)),
        callback=lambda result, error: left.set(),
        client_timeout=0.4 if how == "expired" else 60,
    )
    time.sleep(0.4)
    if how == "canceled":
        call.cancel()
    assert left.wait(10)
    assert until(lambda: key(metrics.CANCELED, "entailment") in grown(before, counted(exposed)))
    found = grown(before, counted(exposed))
    assert found[key(metrics.CANCELED, "entailment")] == 1
    assert key(metrics.IMAGES, "entailment", outcome="decoded") not in found
    assert key(metrics.FAILURES, "entailment") not in found


def test_workers_end_with_the_endpoint(model, runtime, exposed):
    with TritonServer(exposed.repository, runtime=runtime) as server:
        with Client(server.grpc_url) as client:
            client.entail(large(), "red")
        endpoint, found = stub(server, "entailment"), workers(server, "entailment")
        assert found
        os.kill(endpoint, signal.SIGKILL)
        assert until(lambda: not {*found} & {*family(server.pid)})

"""Images in shared memory, with a real server."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from albef.serving.client import AsyncClient, Client, InvalidRequestError, ServerTimeoutError, SharedMemoryError
from albef.serving.server import TritonServer
from albef.serving.shared_memory import Pool, Region


def image_path(model, number=5) -> Path:
    return model.folder / "images" / f"{number}.png"


def segments() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("albef_client_*")}


@pytest.fixture
def shared(server):
    before = segments()
    with Client(server.grpc_url, shared_memory=True) as client:
        yield client
        assert segments() > before
        assert len(client.triton.get_system_shared_memory_status().regions) == len(segments() - before)
    assert segments() == before
    with Client(server.grpc_url) as client:
        assert not client.triton.get_system_shared_memory_status().regions


def test_answers_are_those_of_images_in_the_request(client, shared, model):
    image = image_path(model)
    assert shared.entail(image, "red") == client.entail(image, "red")
    assert shared.retrieve(image=image) == client.retrieve(image=image)
    questions = ["what is it", "is it red", "what color"]
    assert shared.answer_many(image, questions) == client.answer_many(image, questions)
    assert shared.retrieve("red") == client.retrieve("red")  # no image at all


def test_many_threads_share_a_client(client, shared, model):
    numbers = list(range(3, 23))
    expected = [client.entail(image_path(model, number), "red") for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: shared.entail(image_path(model, number), "red"), numbers))
    assert found == [pytest.approx(each, abs=1e-5) for each in expected]
    assert len(segments()) <= 8 + 1


def test_mistakes_are_those_of_images_in_the_request(shared, model):
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="not a readable image"):
            shared.entail(b"no image", "red")
    assert shared.entail(image_path(model), "red")
    assert len(shared._pool.regions()) == 1  # one region did for all


def test_asyncio(server, client, model):
    before = segments()

    async def ask():
        async with AsyncClient(server.grpc_url, shared_memory=True) as connected:
            calls = [connected.entail(image_path(model, number), "red") for number in (3, 4, 5, 6)]
            return await asyncio.gather(*calls)

    found = asyncio.run(ask())
    expected = [client.entail(image_path(model, number), "red") for number in (3, 4, 5, 6)]
    assert found == [pytest.approx(each, abs=1e-5) for each in expected]
    assert segments() == before


def test_a_server_that_was_started_again_is_told_again(model, runtime):
    with TritonServer(model.repository, runtime=runtime) as first:
        client = Client(first.grpc_url, shared_memory=True)
        expected = client.entail(image_path(model), "red")
        http, grpc, metrics = first.ports
    with (
        TritonServer(model.repository, runtime=runtime, http_port=http, grpc_port=grpc, metrics_port=metrics),
        client,
    ):
        assert client.entail(image_path(model), "red") == expected


def test_a_server_elsewhere_is_explained(server, model, monkeypatch):
    monkeypatch.setattr(Region, "key", "/albef_client_of_another_host")
    with (
        Client(server.grpc_url, shared_memory=True) as client,
        pytest.raises(SharedMemoryError, match="no access to this machine's shared memory"),
    ):
        client.entail(image_path(model), "red")


def test_a_region_that_may_still_be_read_is_not_lent_again(server, model):
    many = [f"red {number}" for number in range(9000)]  # more than a second
    with Client(server.grpc_url, timeout=0.1, shared_memory=True) as client:
        for _ in range(2):
            with pytest.raises(ServerTimeoutError, match="vqa"):
                client.answer(image_path(model), "red", candidates=many)
        assert len(client._pool.regions()) == 2


def test_regions_grow_with_what_they_hold():
    pool = Pool()
    small = pool.take([b"a", b"bc"])
    assert bytes(small.memory.buf[: small.used]) == b"\1\0\0\0a\2\0\0\0bc"
    pool.give(small)
    large = pool.take([b"x" * 100_000])
    assert large is not small
    assert large.size == 2**17
    assert pool.take([b"y"]) is small
    pool.close()

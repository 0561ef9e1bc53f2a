"""Tests of decoding in worker processes."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import psutil
import pytest

from albef.data.images import ImageError, decode, to_bytes
from albef.serving.decode_worker import Decoded
from albef.serving.decoding import INLINE_COST, MAX_WAITING, SMALL_COST, BusyError, DecodePool
from albef.serving.image_guard import read_header
from albef.serving.sample import image_stats
from tests import ROOT
from tests.errors import refuses
from tests.integration.serving import hostile
from tests.integration.serving.hostile import encoded, scene

SIZE = 48
MAX_PIXELS = 40_000_000


_pools: list[DecodePool] = []


def pool(workers: int = 2, seconds: float = 10.0, max_pixels: int = MAX_PIXELS) -> DecodePool:
    _pools.append(DecodePool(workers, seconds, SIZE, max_pixels))
    return _pools[-1]


async def ask(decoder: DecodePool, data: bytes, *, stats: bool = False) -> Decoded:
    return await decoder.decode(data, read_header(data, MAX_PIXELS, "upload"), "upload", stats=stats)


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # as of one that has just ended
            found += [child] if "decode_worker" in " ".join(child.cmdline()) else []
    return found


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    while _pools:
        _pools.pop().close()
    assert not workers()


def small() -> bytes:
    return encoded(scene(200, 100), "JPEG")


def medium() -> bytes:
    return encoded(scene(1000, 900), "PNG")


def large() -> bytes:
    return encoded(scene(2000, 1500), "PNG")


@functools.cache
def slow() -> bytes:
    """A file that takes a decoder seconds."""
    return hostile.jpeg_of_scans(80, 4000)


@pytest.mark.parametrize("file", [small, medium, large])
def test_results_are_those_of_decoding_here(file: Callable[[], bytes]) -> None:
    data = file()
    found = asyncio.run(ask(pool(), data, stats=True))
    image = decode(data)
    np.testing.assert_array_equal(found.pixels, to_bytes(image, SIZE))
    assert (found.size, found.stats) == (image.size, image_stats(image, len(data)))


def test_the_files_are_of_different_kinds() -> None:
    costs = [read_header(file(), MAX_PIXELS, "upload").cost for file in (small, medium, large)]
    assert costs[0] <= INLINE_COST < costs[1] <= SMALL_COST < costs[2]


def test_damaged_files_leave_the_worker_alive() -> None:
    async def run() -> None:
        decoder = pool(1)
        for _ in range(3):
            with refuses(ImageError, "upload"):
                await ask(decoder, large()[:-3000])
        (worker,) = workers()
        await ask(decoder, large())
        assert workers() == [worker]

    asyncio.run(run())


def test_a_slow_image_ends_its_worker_alone() -> None:
    async def run() -> None:
        decoder = pool(seconds=0.4)
        started = time.monotonic()
        late = asyncio.ensure_future(ask(decoder, slow()))
        while time.monotonic() < started + 0.3:
            await ask(decoder, medium())
        with refuses(ImageError, "upload", 0.4):
            await late
        assert time.monotonic() < started + 8
        await ask(decoder, large())

    asyncio.run(run())


@pytest.mark.parametrize("file", [medium, large])
def test_killed_workers_are_replaced(file: Callable[[], bytes]) -> None:
    async def run() -> None:
        decoder = pool(1)
        await ask(decoder, file())
        (worker,) = workers()
        worker.kill()
        await ask(decoder, file())
        assert worker not in workers()

    asyncio.run(run())


def test_an_image_that_ends_workers_is_refused() -> None:
    async def kill() -> None:
        for _ in range(2):
            while not (found := workers()):
                await asyncio.sleep(0.01)
            found[0].send_signal(signal.SIGSEGV)
            while found[0] in workers():
                await asyncio.sleep(0.01)

    async def run() -> None:
        decoder = pool(1)
        with refuses(ImageError, "upload", "JPEG"):
            await asyncio.gather(ask(decoder, slow()), kill())
        await ask(decoder, large())

    asyncio.run(run())


def test_memory_is_limited() -> None:
    data = hostile.png(8000, 5000, bytes(5000 * (1 + 8 * 8000)), depth=16, color=6)
    with refuses(ImageError, "upload", "memory"):
        asyncio.run(ask(pool(max_pixels=1000), data))
    assert asyncio.run(ask(pool(), data)).size == (8000, 5000)


def test_a_worker_that_does_not_start_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albef.serving.decoding._PROGRAM", "import sys; sys.exit(3)")
    with refuses(RuntimeError, 3):
        asyncio.run(ask(pool(), large()))


def test_large_images_leave_a_worker_to_others() -> None:
    async def run() -> None:
        decoder = pool(2, seconds=2.0)
        heavy = [asyncio.ensure_future(ask(decoder, slow())) for _ in range(1 + MAX_WAITING)]
        await asyncio.sleep(0.1)
        with pytest.raises(BusyError):
            await ask(decoder, large())
        await ask(decoder, medium())
        assert not any(each.done() for each in heavy)
        for each in heavy:
            each.cancel()
        await asyncio.gather(*heavy, return_exceptions=True)

    asyncio.run(run())


PARENT = """
import asyncio, os, sys
from albef.serving.decoding import DecodePool
from albef.serving.image_guard import read_header
data = sys.stdin.buffer.read()
async def run():
    pool = DecodePool(1, 10.0, 48, 40_000_000)
    await pool.decode(data, read_header(data, 40_000_000, "upload"), "upload")
    print(pool._idle[0].process.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(run())
"""


def test_workers_end_with_their_parent() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], input=large(), capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    worker, deadline = int(done.stdout), time.monotonic() + 10
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            if psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.02)
        pytest.fail("the worker outlives its parent")


def test_workers_see_no_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")

    async def run() -> None:
        decoder = pool(1)
        await ask(decoder, large())
        assert "hidden" not in str(workers()[0].environ())

    asyncio.run(run())


def test_claimed_sizes_must_be_true() -> None:
    data = io.BytesIO()
    scene(300, 200).save(data, "PNG")
    header = read_header(data.getvalue(), MAX_PIXELS, "upload")
    smaller = type(header)(header.kind, 30, 20)
    with refuses(ImageError, "300 x 200", 600):
        asyncio.run(pool().decode(data.getvalue(), smaller, "upload"))

"""Bound on the requests in progress."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from albef.serving.admission import Admission, CapacityError


def test_requests_beyond_the_bound_are_refused_until_one_is_answered() -> None:
    admission = Admission(max_requests=2, max_bytes=100)
    with ExitStack() as first, admission.admit("vqa", 1, 60):
        first.enter_context(admission.admit("vqa", 1, 60))
        with pytest.raises(CapacityError) as caught, admission.admit("vqa", 1, 60):
            pass
        assert 0.05 <= caught.value.retry_after <= 5
        with admission.admit("retrieval", 1, 60):  # of another endpoint
            assert admission.total == 3
        first.close()
        with admission.admit("vqa", 1, 60):
            assert admission.total == 2
    assert (admission.total, admission.bytes) == (0, 0)


def test_bytes_are_bounded_but_one_request_always_passes() -> None:
    admission = Admission(max_requests=9, max_bytes=100)
    with admission.admit("vqa", 1000, 60), pytest.raises(CapacityError), admission.admit("vqa", 1, 60):
        pass
    with ExitStack() as stack:
        stack.enter_context(admission.admit("vqa", 60, 60))
        stack.enter_context(admission.admit("vqa", 40, 60))
        with pytest.raises(CapacityError):
            stack.enter_context(admission.admit("retrieval", 1, 60))
    assert admission.bytes == 0


def test_a_failed_request_is_no_longer_in_progress() -> None:
    admission = Admission(max_requests=1, max_bytes=100)
    with pytest.raises(ZeroDivisionError), admission.admit("vqa", 1, 60):
        _ = 1 / 0
    with admission.admit("vqa", 1, 60):
        pass


def test_a_request_that_would_be_answered_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("albef.serving.admission.time.monotonic", lambda: now)
    admission = Admission(max_requests=100, max_bytes=10**6)
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(admission.admit("vqa", 1, timeout=60))
        first = ExitStack()
        first.enter_context(admission.admit("vqa", 1, timeout=60))
        now += 1.0  # the first answer of twenty-one takes a second
        first.close()
        with pytest.raises(CapacityError) as caught:
            stack.enter_context(admission.admit("vqa", 1, timeout=10))
        assert 5 * 0.999 <= caught.value.retry_after <= 5  # of twenty seconds, at most five
        stack.enter_context(admission.admit("vqa", 1, timeout=60))
    with admission.admit("vqa", 1, timeout=1):  # nothing is in progress
        pass


def test_requests_of_low_priority_wait_for_each_other_and_not_for_others() -> None:
    admission = Admission(max_requests=3, max_bytes=100)
    answered: list[int] = []

    async def low(number: int, answer: asyncio.Event, timeout: float = 60) -> None:
        async with admission.turn("vqa", 10, timeout):
            with admission.admit("vqa", 0, timeout):
                await answer.wait()
                answered.append(number)

    async def run() -> None:
        answers = [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(low(number, answer)) for number, answer in enumerate(answers)]
        await asyncio.sleep(0)
        assert (admission.total, admission.bytes) == (5, 50)
        with admission.admit("vqa", 1, 60):  # does not wait
            assert admission.total == 6
        with pytest.raises(CapacityError):
            await low(5, answers[0])  # three wait
        tasks[4].cancel()
        answers[1].set()
        await tasks[1]
        with pytest.raises(CapacityError):
            await low(6, answers[0], timeout=0.01)  # no turn in time
        for answer in answers:
            answer.set()
        await asyncio.gather(*tasks[:4])
        with pytest.raises(asyncio.CancelledError):
            await tasks[4]

    asyncio.run(run())
    assert answered == [1, 0, 2, 3]
    assert (admission.total, admission.bytes) == (0, 0)


def test_waiting_requests_take_half_of_the_memory() -> None:
    async def run() -> None:
        admission = Admission(max_requests=9, max_bytes=100)
        async with admission.turn("vqa", 40, 60):
            with pytest.raises(CapacityError):
                await admission.turn("vqa", 20, 60).__aenter__()
            with admission.admit("vqa", 60, 60):
                assert admission.bytes == 100
        assert admission.bytes == 0

    asyncio.run(run())

"""Bound on the requests in progress."""

from __future__ import annotations

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

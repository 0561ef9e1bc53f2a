"""Bound on the requests in progress."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from albef.serving.admission import Admission, CapacityError


def test_requests_beyond_the_bound_are_refused_until_one_is_answered() -> None:
    admission = Admission(max_requests=2, max_bytes=100)
    with ExitStack() as first, admission.admit("vqa", 1):
        first.enter_context(admission.admit("vqa", 1))
        with pytest.raises(CapacityError) as caught, admission.admit("vqa", 1):
            pass
        assert 0.05 <= caught.value.retry_after <= 5
        with admission.admit("retrieval", 1):  # of another endpoint
            assert admission.total == 3
        first.close()
        with admission.admit("vqa", 1):
            assert admission.total == 2
    assert (admission.total, admission.bytes) == (0, 0)


def test_bytes_are_bounded_but_one_request_always_passes() -> None:
    admission = Admission(max_requests=9, max_bytes=100)
    with admission.admit("vqa", 1000), pytest.raises(CapacityError), admission.admit("vqa", 1):
        pass
    with ExitStack() as stack:
        stack.enter_context(admission.admit("vqa", 60))
        stack.enter_context(admission.admit("vqa", 40))
        with pytest.raises(CapacityError):
            stack.enter_context(admission.admit("retrieval", 1))
    assert admission.bytes == 0


def test_a_failed_request_is_no_longer_in_progress() -> None:
    admission = Admission(max_requests=1, max_bytes=100)
    with pytest.raises(ZeroDivisionError), admission.admit("vqa", 1):
        _ = 1 / 0
    with admission.admit("vqa", 1):
        pass

"""Bound on the work that a server accepts at a time.

A server that queues everything answers too late, so that at twice its capacity no answer is of use. Requests that would
be answered too late, or are too many, are refused at once, with the time after which to try again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SHORTEST, _LONGEST = 0.05, 5.0
"""Seconds: bounds of the time that a refused client is told to wait."""
_FEW = 4
"""Requests in progress that are accepted whatever their expected time."""
_SHARE = 0.7
"""Share of a request's time that others may use up before it."""


class CapacityError(Exception):
    """The server has too many requests in progress.

    Args:
        retry_after: Seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass
class _Load:
    """Requests in progress of an endpoint.

    Args:
        interval: Moving average of the seconds between two answers of a busy endpoint.
        since: Time of the last answer, or of the first request of an idle endpoint.
    """

    running: int = 0
    interval: float = 0.0
    since: float = 0.0

    def begin(self, now: float) -> None:
        if not self.running:
            self.since = now
        self.running += 1

    def end(self, now: float) -> None:
        self.running -= 1
        seconds = now - self.since
        self.interval = 0.9 * self.interval + 0.1 * seconds if self.interval else seconds
        self.since = now


class Admission:
    """Requests in progress, by endpoint.

    Args:
        max_requests: Most requests of an endpoint at a time.
        max_bytes: Most bytes of all requests at a time; a single request is accepted whatever its size.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.bytes = 0
        self._loads: dict[str, _Load] = {}

    @property
    def total(self) -> int:
        """Number of requests in progress."""
        return sum(load.running for load in self._loads.values())

    @contextmanager
    def admit(self, endpoint: str, size: int, timeout: float) -> Iterator[None]:
        """Count a request while it is answered.

        Args:
            size: Bytes of the request.
            timeout: Seconds in which its caller needs the answer.

        Raises:
            CapacityError: If too many are in progress, or the answer would come too late.
        """
        load = self._loads.setdefault(endpoint, _Load())
        expected = load.running * load.interval
        late = load.running >= _FEW and expected > _SHARE * timeout
        if load.running >= self.max_requests or late:
            text = f"{endpoint}: {load.running} requests are in progress, try again later"
            raise _refusal(text, expected)
        if self.bytes and self.bytes + size > self.max_bytes:
            text = "the requests in progress take all memory, try again later"
            raise _refusal(text, expected)
        load.begin(time.monotonic())
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size
            load.end(time.monotonic())


def _refusal(text: str, expected: float) -> CapacityError:
    """Return a refusal until about half of the requests in progress are answered, at random."""
    return CapacityError(text, min(max(expected * random.uniform(0.25, 0.75), _SHORTEST), _LONGEST))

"""Bound on the work that a server accepts at a time.

A server that queues everything answers too late, so that at twice its capacity no answer is of use. Requests beyond the
bound are refused at once, with the time after which to try again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_SHORTEST, _LONGEST = 0.05, 5.0
"""Seconds: bounds of the time that a refused client is told to wait."""


class CapacityError(Exception):
    """The server has too many requests in progress.

    Args:
        retry_after: Seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Admission:
    """Requests in progress, by endpoint.

    Args:
        max_requests: Most requests of an endpoint at a time.
        max_bytes: Most bytes of all requests at a time; a single request is accepted whatever its size.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.running = Counter[str]()
        self.bytes = 0
        self._seconds: dict[str, float] = {}  # moving average of the time of an answer

    @property
    def total(self) -> int:
        """Number of requests in progress."""
        return self.running.total()

    @contextmanager
    def admit(self, endpoint: str, size: int) -> Iterator[None]:
        """Count a request while it is answered.

        Raises:
            CapacityError: If too many are in progress.
        """
        if self.running[endpoint] >= self.max_requests:
            raise CapacityError(
                f"{endpoint}: {self.running[endpoint]} requests are in progress, try again later", self._pause(endpoint)
            )
        if self.bytes and self.bytes + size > self.max_bytes:
            raise CapacityError("the requests in progress take all memory, try again later", self._pause(endpoint))
        self.running[endpoint] += 1
        self.bytes += size
        start = time.monotonic()
        try:
            yield
        finally:
            self.running[endpoint] -= 1
            self.bytes -= size
            seconds = time.monotonic() - start
            self._seconds[endpoint] = 0.9 * self._seconds.get(endpoint, seconds) + 0.1 * seconds

    def _pause(self, endpoint: str) -> float:
        """Return about half of the time in which the waiting requests are answered, at random."""
        expected = self._seconds.get(endpoint, 1.0)
        return min(max(expected * random.uniform(0.25, 0.75), _SHORTEST), _LONGEST)

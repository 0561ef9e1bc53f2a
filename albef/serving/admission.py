"""Bound on the work that a server accepts at a time.

A server that queues everything answers too late, so that at twice its capacity no answer is of use. Requests that would
be answered too late, or are too many, are refused at once, with the time after which to try again.

Requests of low priority wait here and not in Triton, whose queues come too late: requests in progress share the graphs,
and a graph takes as many waiting requests as fit into its next batch, whatever their priority.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

_SHORTEST, _LONGEST = 0.05, 5.0
"""Seconds: bounds of the time that a refused client is told to wait."""
_FEW = 4
"""Requests in progress that are accepted whatever their expected time."""
_SHARE = 0.7
"""Share of a request's time that others may use up before it."""
_LOW = 2
"""Most requests of low priority in progress at an endpoint: while one is decoded, the graphs have another."""


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
        waiting: Number of requests of low priority that wait for a turn.
        turns: Turns of requests of low priority.
    """

    running: int = 0
    waiting: int = 0
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LOW))
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
        """Number of requests in progress, those that wait for a turn included."""
        return sum(load.running + load.waiting for load in self._loads.values())

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
            raise _refusal(f"{endpoint}: {load.running} requests are in progress, try again later", expected)
        with self._memory(size, expected, self.max_bytes):
            load.begin(time.monotonic())
            try:
                yield
            finally:
                load.end(time.monotonic())

    @asynccontextmanager
    async def turn(self, endpoint: str, size: int, timeout: float) -> AsyncIterator[None]:
        """Let a request of low priority wait until few others of this priority are in progress.

        Its bytes count from now on. `admit` follows as for any request.

        Args:
            size: Bytes of the request.
            timeout: Seconds in which its caller needs the answer.

        Raises:
            CapacityError: If too many wait, or no turn comes in time for an answer.
        """
        load = self._loads.setdefault(endpoint, _Load())
        expected = (load.running + load.waiting) * load.interval
        text = f"{endpoint}: {load.waiting} requests of low priority are waiting, try again later"
        if load.waiting >= self.max_requests:
            raise _refusal(text, expected)
        with self._memory(size, expected, self.max_bytes // 2):  # the other half is for requests that do not wait
            load.waiting += 1
            try:
                async with asyncio.timeout(_SHARE * timeout):
                    await load.turns.acquire()
            except TimeoutError as error:
                raise _refusal(text, expected) from error
            finally:
                load.waiting -= 1
            try:
                yield
            finally:
                load.turns.release()

    @contextmanager
    def _memory(self, size: int, expected: float, most: int) -> Iterator[None]:
        if self.bytes and self.bytes + size > most:
            raise _refusal("the requests in progress take all memory, try again later", expected)
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size


def _refusal(text: str, expected: float) -> CapacityError:
    """Return a refusal until about half of the requests in progress are answered, at random."""
    return CapacityError(text, min(max(expected * random.uniform(0.25, 0.75), _SHORTEST), _LONGEST))

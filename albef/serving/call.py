"""State of a request while an endpoint answers it."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

from albef.serving.sample import Draft

MAX_GRAPH_REQUESTS = 4
"""Most graph requests of a request at a time, so that a large request does not keep the graphs from others."""
CHECK_SECONDS = 0.05
"""Least time between two questions to the server whether the caller still waits, which take 0.1 ms each."""


class CanceledError(RuntimeError):
    """The caller does not wait for the answer any more."""


class Call:
    """Request being answered.

    Args:
        draft: Image statistics and texts of the request, if it is sampled.
        probing: Whether the watchdog asks, whose requests are neither counted, sampled nor logged.
        trace: Triton's trace of the request, if it is traced.
    """

    def __init__(self, request: Any, draft: Draft | None, probing: bool = False, trace: Any = None) -> None:
        self.request, self.draft, self.probing, self.trace = request, draft, probing, trace
        self.graph_requests = asyncio.Semaphore(MAX_GRAPH_REQUESTS)
        self.answered = False
        self._checked = float("-inf")

    def check(self) -> None:
        """Stop work that nobody waits for.

        Raises:
            CanceledError: If the caller has canceled the request or its deadline has passed.
        """
        if self.answered:  # by an error elsewhere; the server has freed the request
            raise CanceledError
        now = time.monotonic()
        if now >= self._checked + CHECK_SECONDS:
            self._checked = now
            if self.request.is_cancelled():
                raise CanceledError


current: ContextVar[Call] = ContextVar("current")
"""The request that the current task answers."""

"""Metrics and logs of the endpoints; standard library only.

They complement the metrics and logs of Triton.

Every metric has the labels ``model`` and ``version``; a few have one more.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

from albef.io import utc_now

REQUESTS, ROWS = "albef_requests_total", "albef_rows_total"
REFUSALS, FAILURES = "albef_refusals_total", "albef_failures_total"
CANCELED = "albef_canceled_total"
IMAGES = "albef_images_total"
SHORTLISTED, SHORTLISTS = "albef_shortlist_candidates_total", "albef_shortlist_queries_total"

METRICS = {
    REQUESTS: "Requests, regardless of outcome",
    ROWS: "Rows of these requests",
    REFUSALS: "Invalid requests, by the invalid input (reason)",
    FAILURES: "Requests that failed with an internal error",
    CANCELED: "Requests whose caller stopped waiting before they were answered",
    IMAGES: "Images in requests, by outcome: decoded, or repeated from another row of the same request",
    SHORTLISTED: "Candidates that were re-ranked",
    SHORTLISTS: "Queries whose candidates were re-ranked",
}
"""Names and descriptions of the metrics."""

LOG_REQUESTS = "ALBEF_LOG_REQUESTS"
"""Environment variable: ``1`` logs every request; refusals and failures are always logged."""

FLUSH_SECONDS = 0.2
"""Time between two flushes of a busy endpoint."""

Labels = tuple[tuple[str, str], ...]


class Meter:
    """Counters of an endpoint.

    Counts accumulate here until `flush` passes them to the server with one call per metric.

    Args:
        backend: Module ``triton_python_backend_utils``.
    """

    def __init__(self, backend: Any, model: str, version: int) -> None:
        self._labels = {"model": model, "version": str(version)}
        kind = backend.MetricFamily.COUNTER
        self._families = {name: backend.MetricFamily(name, text, kind) for name, text in METRICS.items()}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._pending: Counter[tuple[str, Labels]] = Counter()
        self._flushed = 0.0
        for name in (REQUESTS, ROWS, FAILURES, CANCELED):  # alerts need these series before the first event
            self.add(name, 0)
        self.flush()

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to a counter."""
        self._pending[name, tuple(sorted(labels.items()))] += amount

    def flush(self, *, busy: bool = False) -> None:
        """Pass accumulated counts to the server.

        Args:
            busy: Whether more will be counted soon; then counts are passed a few times a second, as calls are slow.
        """
        now = time.monotonic()
        if busy and now < self._flushed + FLUSH_SECONDS:
            return
        self._flushed = now
        pending, self._pending = self._pending, Counter()
        for key, amount in pending.items():
            if key not in self._metrics:
                name, labels = key
                self._metrics[key] = self._families[name].Metric(labels={**self._labels, **dict(labels)})
            self._metrics[key].increment(amount)


class Log:
    """Logger of JSON lines to stderr, which is the server's log."""

    def __init__(self, model: str, version: int) -> None:
        self._common = {"model": model, "version": version}
        self.requests = os.environ.get(LOG_REQUESTS, "") not in ("", "0")

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """Write a line; ``level`` is ``info``, ``warning`` or ``error``."""
        record = {"time": utc_now(), "level": level, "event": event, **self._common, **fields}
        # A single write keeps lines of several processes apart.
        sys.stderr.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        sys.stderr.flush()

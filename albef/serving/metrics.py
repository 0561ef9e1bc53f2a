"""What the endpoints count and log, beside the server's own metrics. Standard library only.

Labels of every metric are ``model`` and ``version``; a few have one more.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from typing import Any

REQUESTS, ROWS = "albef_requests_total", "albef_rows_total"
REFUSALS, FAILURES = "albef_refusals_total", "albef_failures_total"
IMAGES = "albef_images_total"
SHORTLISTED, SHORTLISTS = "albef_shortlist_candidates_total", "albef_shortlist_queries_total"

METRICS = {
    REQUESTS: "Requests, whatever became of them",
    ROWS: "Rows of these requests: questions",
    REFUSALS: "Mistaken requests, by the input that was wrong (reason)",
    FAILURES: "Requests that failed for no fault of the caller",
    IMAGES: "Pictures of requests (outcome): decoded, or repeated by another row of the same request",
    SHORTLISTED: "Candidates that were re-ranked",
    SHORTLISTS: "Queries whose candidates were re-ranked",
}
"""Names and descriptions."""

LOG_REQUESTS = "ALBEF_LOG_REQUESTS"
"""Environment variable: ``1`` logs every request; refusals and failures are logged anyway."""

Labels = tuple[tuple[str, str], ...]


class Meter:
    """Counters of an endpoint. What is added gathers here and goes to the server at `flush`, one call a metric.

    Args:
        backend: ``triton_python_backend_utils``.
    """

    def __init__(self, backend: Any, model: str, version: int) -> None:
        self._labels = {"model": model, "version": str(version)}
        kind = backend.MetricFamily.COUNTER
        self._families = {name: backend.MetricFamily(name, text, kind) for name, text in METRICS.items()}
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._pending: Counter[tuple[str, Labels]] = Counter()
        for name in (REQUESTS, ROWS, FAILURES):  # there from the start, for alerts
            self.add(name, 0)
        self.flush()

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count something."""
        self._pending[name, tuple(sorted(labels.items()))] += amount

    def flush(self) -> None:
        """Hand over what was counted."""
        pending, self._pending = self._pending, Counter()
        for key, amount in pending.items():
            if key not in self._metrics:
                name, labels = key
                self._metrics[key] = self._families[name].Metric(labels={**self._labels, **dict(labels)})
            self._metrics[key].increment(amount)


class Log:
    """A JSON object a line, on stderr: the server's log has them between its own lines."""

    def __init__(self, model: str, version: int) -> None:
        self._common = {"model": model, "version": version}
        self.requests = os.environ.get(LOG_REQUESTS, "") not in ("", "0")

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """Write a line.

        Args:
            level: ``info``, ``warning`` or ``error``.
            event: What happened, in a word.
        """
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        record = {"time": stamp, "level": level, "event": event, **self._common, **fields}
        # One write: lines of several processes must not mix.
        sys.stderr.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        sys.stderr.flush()

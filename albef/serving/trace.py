"""Reader for the server's trace file with timings of every graph.

``albef serve --trace FILE`` writes the file when the server stops. It holds every request to an endpoint together with
the requests to graphs that the endpoint made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EMPTY = "no request in this trace"


class TraceError(ValueError):
    """The file is not a trace, or lacks the request."""


@dataclass
class Span:
    """Request to a model.

    Attributes:
        times: Timestamps in nanoseconds by Triton's event name.
        children: Requests to graphs made by this request.
    """

    model: str = "?"
    version: int = 0
    request: str = ""
    parent: int | None = None
    times: dict[str, int] = field(default_factory=dict)
    children: list[Span] = field(default_factory=list)

    @property
    def start(self) -> int:
        """Arrival of the request, in nanoseconds."""
        return self.times.get("REQUEST_START", min(self.times.values(), default=0))

    def milliseconds(self, first: str, last: str) -> float | None:
        """Return milliseconds between two events; None if one is missing."""
        if first not in self.times or last not in self.times:
            return None
        return (self.times[last] - self.times[first]) / 1e6


def read(path: Path) -> list[Span]:
    """Return the requests of a trace file in order of arrival.

    Raises:
        TraceError: If the file is not a trace.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        spans: dict[int, Span] = {}
        for record in records:
            span = spans.setdefault(record["id"], Span())
            if "model_name" in record:
                span.model, span.version = record["model_name"], int(record["model_version"])
                span.request, span.parent = record.get("request_id", ""), record.get("parent_id")
            span.times.update({event["name"]: event["ns"] for event in record.get("timestamps", [])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: not a trace of the server, or still being written ({error!r})") from error
    for span in spans.values():
        if span.parent in spans:
            spans[span.parent].children.append(span)
    for span in spans.values():
        span.children.sort(key=lambda child: child.start)
    return sorted((span for span in spans.values() if span.parent not in spans), key=lambda span: span.start)


def format_trace(path: Path, request: str | None = None, last: int = 1) -> str:
    """Format requests of a trace file as a table.

    Args:
        request: Id of the request; by default the ``last`` requests.

    Raises:
        TraceError: If the file is not a trace, or the request is not in it.
    """
    spans = [span for span in read(path) if span.model != "?" and request in (None, span.request)]
    if not spans:
        raise TraceError(f"{path}: {_EMPTY if request is None else f'no request {request!r} in this trace'}")
    lines = [f"{'model':<30}{'at':>10}{'queue':>10}{'compute':>10}{'total':>10}   milliseconds"]
    for span in spans if request else spans[-last:]:
        lines += _lines(span, span.start, 0)
    return "\n".join(lines)


def _lines(span: Span, origin: int, depth: int) -> Iterator[str]:
    columns: list[Any] = [
        (span.start - origin) / 1e6,
        span.milliseconds("QUEUE_START", "COMPUTE_START"),
        span.milliseconds("COMPUTE_START", "COMPUTE_END"),
        span.milliseconds("REQUEST_START", "REQUEST_END"),
    ]
    cells = "".join(f"{'-' if value is None else format(value, '.2f'):>10}" for value in columns)
    note = f"   request {span.request}" if span.request else ""
    if "REQUEST_END" in span.times and "COMPUTE_START" not in span.times:
        note += "   from the cache"
    yield f"{'  ' * depth + span.model + ' ' + str(span.version):<30}{cells}{note}"
    for child in span.children:
        yield from _lines(child, origin, depth + 1)

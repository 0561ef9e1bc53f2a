"""Reading the server's trace file: where the time of a request went, graph by graph.

``albef serve --trace FILE`` writes it when the server stops. Each request to an endpoint is there with the calls of
graphs that it made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EMPTY = "no request in this trace"


class TraceError(ValueError):
    """A file that is no trace, or lacks the request."""


@dataclass
class Span:
    """A request to a model.

    Attributes:
        times: Nanoseconds by the server's name of the moment.
        calls: Requests that this one made.
    """

    model: str = "?"
    version: int = 0
    request: str = ""
    parent: int | None = None
    times: dict[str, int] = field(default_factory=dict)
    calls: list[Span] = field(default_factory=list)

    @property
    def start(self) -> int:
        """When the request came."""
        return self.times.get("REQUEST_START", min(self.times.values(), default=0))

    def spent(self, first: str, last: str) -> float | None:
        """Milliseconds between two moments; None where one is missing."""
        if first not in self.times or last not in self.times:
            return None
        return (self.times[last] - self.times[first]) / 1e6


def read(path: Path) -> list[Span]:
    """The requests of a trace file, in the order in which they came.

    Raises:
        TraceError: If it is none.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        spans: dict[int, Span] = {}
        for record in records:
            span = spans.setdefault(record["id"], Span())
            if "model_name" in record:
                span.model, span.version = record["model_name"], int(record["model_version"])
                span.request, span.parent = record.get("request_id", ""), record.get("parent_id")
            span.times.update({moment["name"]: moment["ns"] for moment in record.get("timestamps", [])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: not a trace of the server, or one that is still written ({error!r})") from error
    for span in spans.values():
        if span.parent in spans:
            spans[span.parent].calls.append(span)
    for span in spans.values():
        span.calls.sort(key=lambda call: call.start)
    return sorted((span for span in spans.values() if span.parent not in spans), key=lambda span: span.start)


def show(path: Path, request: str | None = None, last: int = 1) -> str:
    """The last requests of a trace, or that with an id, as a table for people.

    Raises:
        TraceError: If the file is no trace, or has no such request.
    """
    found = [span for span in read(path) if span.model != "?" and request in (None, span.request)]
    if not found:
        raise TraceError(f"{path}: {_EMPTY if request is None else f'no request {request!r} in this trace'}")
    lines = [f"{'model':<30}{'at':>10}{'queue':>10}{'compute':>10}{'total':>10}   milliseconds"]
    for span in found if request else found[-last:]:
        lines += _lines(span, span.start, 0)
    return "\n".join(lines)


def _lines(span: Span, origin: int, depth: int) -> Iterator[str]:
    columns: list[Any] = [
        (span.start - origin) / 1e6,
        span.spent("QUEUE_START", "COMPUTE_START"),
        span.spent("COMPUTE_START", "COMPUTE_END"),
        span.spent("REQUEST_START", "REQUEST_END"),
    ]
    cells = "".join(f"{'-' if value is None else format(value, '.2f'):>10}" for value in columns)
    note = f"   request {span.request}" if span.request else ""
    if "REQUEST_END" in span.times and "COMPUTE_START" not in span.times:
        note += "   from the cache"
    yield f"{'  ' * depth + span.model + ' ' + str(span.version):<30}{cells}{note}"
    for call in span.calls:
        yield from _lines(call, origin, depth + 1)

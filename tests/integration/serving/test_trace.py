"""Traces and logs of real requests, sent to a real collector."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext

from albef.serving import sample
from albef.serving.client import Client
from albef.serving.server import TritonServer, free_ports
from albef.serving.service import Access, Service
from tests.integration.serving.test_gateway import LIMITS, curl
from tests.integration.serving.test_gateway import pytestmark as needs_nginx
from tests.integration.serving.test_metrics import logged
from tests.integration.serving.test_service import TEXT, TOKEN, pki
from tests.integration.tracking import stores

__all__ = ["pki"]
pytestmark = needs_nginx
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass(frozen=True)
class Traced:
    """Log, collected traces and span of the client after a service has stopped."""

    log: Path
    store: str
    client_span: SpanContext

    @property
    def trace(self) -> str:
        """The client's trace."""
        return f"{self.client_span.trace_id:032x}"

    def spans(self, trace: str) -> dict[str, list[Span]]:
        """Return the spans of a trace by name."""
        spans: dict[str, list[Span]] = {}
        for span in MlflowClient(self.store).get_trace(f"tr-{trace}").data.spans:
            spans.setdefault(span.name, []).append(span)
        return spans


@pytest.fixture(scope="module")
def traced(retrieval_alone, runtime, pki, model, tmp_path_factory) -> Iterator[Traced]:
    """A service behind its gateway that has answered and stopped."""
    folder, image = tmp_path_factory.mktemp("traced"), model.folder / "images" / "5.png"
    port, grpc_port, http_port = free_ports(3)
    (folder / "file").write_text("")
    allowed = Access(grpc_port=grpc_port, http_port=http_port, tls=pki.server, tokens=[TOKEN], gateway=LIMITS)
    options = {"trace": f"http://127.0.0.1:{port}/v1/traces", "trace_every": 0, "log_requests": True}
    tracer = TracerProvider().get_tracer("tests")
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests")
    with stores.server(folder, port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-mlflow-experiment-id=0")
        patch.setenv(sample.FOLDER, str(folder / "file" / "requests"))  # cannot be written
        patch.setenv(sample.FRACTION, "1")
        server = TritonServer(retrieval_alone, runtime=runtime, log=folder / "log", **options)
        with Service(server, allowed) as service:
            with Client(service.grpc_url, tls=pki.file("ca"), token=TOKEN, retries=0) as client:
                with tracer.start_as_current_span("question") as span:
                    client.retrieve(image=image)
                    client.retrieve(TEXT, image=image, rerank=True)
                client.retrieve(TEXT)
                with unsampled.start_as_current_span("question"):
                    client.retrieve(TEXT)
            for flags in ("00", "01"):
                parent = ["--header", f"traceparent: 00-{TRACE}-{PARENT}-{flags}"]
                status, _ = curl(service, pki, "/v1/retrieval", *parent, "--json", json.dumps({"texts": [TEXT, TEXT]}))
                assert status == 200
        store = MlflowClient(f"sqlite:///{folder / 'server.db'}")
        deadline = time.monotonic() + 30
        while len(store.search_traces(locations=["0"])) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)  # a busy collector may still be storing what it got
        yield Traced(folder / "log", f"sqlite:///{folder / 'server.db'}", span.get_span_context())


def parents(spans: list[Span]) -> list[str | None]:
    return sorted(span.parent_id for span in spans)


def ids(spans: list[Span]) -> list[str]:
    return sorted(span.span_id for span in spans)


def test_a_clients_span_is_the_parent_of_its_requests_and_they_of_their_graphs(traced):
    spans = traced.spans(traced.trace)
    requests, (first, second), vision = spans["InferRequest"], spans["retrieval"], spans["retrieval_vision"]
    assert parents(requests) == [f"{traced.client_span.span_id:016x}"] * 2
    assert parents([first, second]) == ids(requests)
    assert parents(vision) == ids([first, second])
    assert parents(spans["retrieval_text"]) == [second.span_id]
    assert set(parents(spans["retrieval_fusion"])) == {first.span_id, second.span_id}
    computed = set(parents(spans["compute"]))
    assert {span.parent_id for span in vision if span.span_id not in computed} == {second.span_id}  # cached
    assert computed > {first.span_id, second.span_id, *ids(spans["retrieval_fusion"])}
    assert all("QUEUE_START" in [event.name for event in span.events] for span in spans["retrieval_fusion"])


def test_the_context_passes_through_gateway_and_http_side(traced):
    (request,) = traced.spans(TRACE)["InferRequest"]  # that of the other context was not traced
    assert request.parent_id == PARENT


def test_requests_without_a_recorded_context_are_not_traced(traced):
    found = MlflowClient(traced.store).search_traces(locations=["0"])
    assert {trace.info.trace_id.removeprefix("tr-") for trace in found} == {TRACE, traced.trace}


def test_requests_are_logged_and_a_folder_that_cannot_be_written_fails_none(traced):
    lines = logged(traced.log)
    assert (lines[-1]["event"], lines[-1]["model"], lines[-1]["rows"]) == ("answered", "retrieval", 2)
    (warning,) = [line for line in lines if line["event"] == "sample"]  # once
    assert "NotADirectoryError" in warning["message"]

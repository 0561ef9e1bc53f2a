"""Trace contexts that are passed on, and the options of tracing."""

from __future__ import annotations

import pytest

from albef import cli
from albef.serving.transport import trace_context, with_trace_context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED = f"00-{TRACE}-{SPAN}-01"


def test_a_recorded_context_is_passed_on_and_nothing_else() -> None:
    metadata = {"traceparent": RECORDED, "tracestate": "a=b", "authorization": "Bearer x"}
    assert trace_context(metadata) == {"traceparent": RECORDED}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}-00",  # not recorded
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"{RECORDED}\n",
        f"{RECORDED}, {RECORDED}",
        b"\xff",
    ],
)
def test_other_contexts_are_ignored(value: object) -> None:
    assert trace_context({"traceparent": value}) == {}


def test_there_is_no_context_outside_of_a_span() -> None:
    headers = {"authorization": "Bearer x"}
    assert with_trace_context(headers) == headers


@pytest.mark.parametrize(
    ("option", "value"), [("--trace", "trace.json"), ("--trace-every", "x"), ("--trace-every", "-1")]
)
def test_wrong_options_are_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", "--repository", "r", f"{option}={value}"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"{option}:" in error
    assert f"{value!r}" in error

"""Traces of real requests."""

from __future__ import annotations

import pytest

from albef import cli
from albef.serving import trace
from albef.serving.client import Client
from albef.serving.server import TritonServer
from albef.serving.trace import TraceError
from tests.errors import refuses


def test_a_trace_tells_the_graphs_of_a_request(model, runtime, tmp_path, capsys):
    path = tmp_path / "trace.json"
    image = model.folder / "images" / "5.png"
    with TritonServer(model.repository, runtime=runtime, trace=path) as server, Client(server.grpc_url) as client:
        client.answer(image, "what is it")
        client.answer(image, "what color is it")
    first, second = trace.read(path)[-2:]
    for span in (first, second):
        assert (span.model, span.version, len(span.request)) == ("vqa", 1, 16)
        graphs = [call.model for call in span.children]
        assert graphs[:3] == ["vqa_vision", "vqa_question", "vqa_decoder"]
        total = span.milliseconds("REQUEST_START", "REQUEST_END")
        assert 0 < sum(call.milliseconds("REQUEST_START", "REQUEST_END") for call in span.children[:3]) < total
    assert first.children[0].milliseconds("COMPUTE_START", "COMPUTE_END") > 0
    assert second.children[0].milliseconds("COMPUTE_START", "COMPUTE_END") is None  # its result is cached

    assert cli.main(["trace", str(path), "--last", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines].count("vqa") == 2
    assert next(line for line in lines if "from the cache" in line).split()[0] == "vqa_vision"
    assert cli.main(["trace", str(path), "--request", first.request]) == 0
    assert "from the cache" not in capsys.readouterr().out
    with refuses(TraceError, "'nobody'"):
        trace.format_trace(path, "nobody")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"id": 1, "model_name": "a"}]', '[{"id": 1,'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "trace").write_text(text)
    with refuses(TraceError, tmp_path / "trace"):
        trace.format_trace(tmp_path / "trace")

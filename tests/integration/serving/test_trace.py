"""Traces and logs of real requests."""

from __future__ import annotations

import pytest

from albef import cli
from albef.serving import sample, trace
from albef.serving.client import Client
from albef.serving.server import TritonServer
from albef.serving.trace import TraceError
from albef.tasks import registry
from tests.errors import refuses
from tests.integration.serving.test_metrics import logged


def test_requests_are_traced_and_logged_and_a_folder_that_cannot_be_written_fails_none(
    model, runtime, tmp_path, capsys, monkeypatch
):
    path, log, image = tmp_path / "trace.json", tmp_path / "log", model.folder / "images" / "5.png"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(sample.FOLDER, str(tmp_path / "file" / "requests"))
    monkeypatch.setenv(sample.FRACTION, "1")
    with TritonServer(model.repository, runtime=runtime, trace=path, log=log, log_requests=True) as server:
        with Client(server.grpc_url, retries=0) as client:
            client.answer(image, "what is it")
            client.answer(image, "what color is it")
            client.retrieve_many(["red", "green"])
        lines = logged(log)
    assert (lines[-1]["event"], lines[-1]["model"], lines[-1]["rows"]) == ("answered", "retrieval", 2)
    warnings = [line for line in lines if line["event"] == "sample"]
    assert sorted(line["model"] for line in warnings) == sorted(registry.endpoints())  # once each
    assert "NotADirectoryError" in warnings[0]["message"]

    first, second = [span for span in trace.read(path) if span.model == "vqa"][-2:]
    for span in (first, second):
        assert (span.version, len(span.request)) == (1, 16)
        graphs = [call.model for call in span.children]
        assert graphs[:3] == ["vqa_vision", "vqa_question", "vqa_decoder"]
        total = span.milliseconds("REQUEST_START", "REQUEST_END")
        assert 0 < sum(call.milliseconds("REQUEST_START", "REQUEST_END") for call in span.children[:3]) < total
    assert first.children[0].milliseconds("COMPUTE_START", "COMPUTE_END") > 0
    assert second.children[0].milliseconds("COMPUTE_START", "COMPUTE_END") is None  # its result is cached

    assert cli.main(["trace", str(path), "--last", "3"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown].count("vqa") == 2
    assert next(line for line in shown if "from the cache" in line).split()[0] == "vqa_vision"
    assert cli.main(["trace", str(path), "--request", first.request]) == 0
    assert "from the cache" not in capsys.readouterr().out
    with refuses(TraceError, "'nobody'"):
        trace.format_trace(path, "nobody")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"id": 1, "model_name": "a"}]', '[{"id": 1,'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "trace").write_text(text)
    with refuses(TraceError, tmp_path / "trace"):
        trace.format_trace(tmp_path / "trace")

"""Metrics and logs of requests to a real server."""

from __future__ import annotations

import json
import urllib.request

import pytest

from albef.serving import metrics
from albef.serving.client import InvalidRequestError


def counted(server) -> dict[str, float]:
    """Return the ``albef_`` counters by name and labels in Prometheus format."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("albef_")}


def grown(before, after) -> dict[str, float]:
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def key(name: str, model: str, **labels: str) -> str:
    text = ",".join(f'{label}="{value}"' for label, value in sorted({"model": model, "version": "1", **labels}.items()))
    return f"{name}{{{text}}}"


def image_bytes(model, number=5) -> bytes:
    return (model.folder / "images" / f"{number}.png").read_bytes()


def test_questions_images_and_shortlists_are_counted(server, client, model):
    before = counted(server)
    assert key(metrics.FAILURES, "grounding") in before  # there before anything fails
    client.retrieve_many(["red", "green", "blue"])
    client.retrieve("red", rerank=False)
    client.answer_many(image_bytes(model), ["what is it", "is it red"])
    shortlist = model.config.serve.shortlist
    found = grown(before, counted(server))
    assert found.pop(key(metrics.SHORTLISTED, "vqa")) >= 2
    assert found == {
        key(metrics.REQUESTS, "retrieval"): 2,
        key(metrics.ROWS, "retrieval"): 4,
        key(metrics.SHORTLISTED, "retrieval"): 3 * max(shortlist, 10),
        key(metrics.SHORTLISTS, "retrieval"): 3,
        key(metrics.REQUESTS, "vqa"): 1,
        key(metrics.ROWS, "vqa"): 2,
        key(metrics.SHORTLISTS, "vqa"): 2,
        key(metrics.IMAGES, "vqa", outcome="decoded"): 1,
        key(metrics.IMAGES, "vqa", outcome="repeated"): 1,
    }


@pytest.mark.parametrize(
    ("ask", "endpoint", "reason"),
    [
        (lambda c, p: c.retrieve("red", k=0), "retrieval", "k"),
        (lambda c, p: c.retrieve("?"), "retrieval", "text"),
        (lambda c, p: c.retrieve(image=b"no image"), "retrieval", "image"),
        (lambda c, p: c.entail(p[:60], "red"), "entailment", "image"),
        (lambda c, p: c.answer(p, "red", candidates=[" "]), "vqa", "candidates"),
        (lambda c, p: c.ground(p, "red", [[0, 0, 0, 5]]), "grounding", "boxes"),
    ],
)
def test_refusals_are_counted_by_reason_and_logged(server, client, model, ask, endpoint, reason):
    before = counted(server)
    with pytest.raises(InvalidRequestError) as refused:
        ask(client, image_bytes(model))
    found = grown(before, counted(server))
    assert found[key(metrics.REFUSALS, endpoint, reason=reason)] == 1
    assert key(metrics.FAILURES, endpoint) not in found
    last = logged(server.log)[-1]
    assert last.pop("time").endswith("Z")
    assert last.pop("milliseconds") >= 0
    assert len(last.pop("request")) == 16
    assert last.pop("message") in str(refused.value)
    assert last == {
        "level": "warning",
        "event": "refused",
        "model": endpoint,
        "version": 1,
        "rows": 1,
        "reason": reason,
    }


def logged(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]

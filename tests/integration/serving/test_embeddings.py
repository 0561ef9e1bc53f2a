"""Endpoints that answer with the encoders of retrieval: features, and labels of the request."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import albef
from albef.serving import protocol, requests
from albef.serving.client import AsyncClient, InvalidRequestError
from albef.tasks import registry
from benchmarks.load.local import Local
from tests.errors import refuses
from tests.integration.serving.test_answers import metric
from tests.worlds import COLORS, write_params

TEXTS = ["red above blue", "An image: of GREEN, above-white!", "zebra"]
TEMPLATES = ["{} above", "a flag of {} and something else"]


@pytest.fixture(scope="module")
def local(model, tmp_path_factory) -> albef.Albef:
    """The model of the endpoints in this process."""
    params = write_params(model.config, tmp_path_factory.mktemp("api") / "params.yaml")
    return albef.load(model.folder / "models" / "retrieval", params=params, device="cpu")


def image_paths(model, *numbers: int) -> list[Path]:
    return [model.folder / "images" / f"{number}.png" for number in numbers]


def test_features_are_those_of_the_python_api(client, model, local):
    images = image_paths(model, 3, 20, 41)
    found = client.embed(images=images)
    assert (found.shape, found.dtype) == ((3, model.config.model.projection), np.float32)
    np.testing.assert_allclose(found, local.embed_image(images), atol=1e-5)
    np.testing.assert_allclose(client.embed(TEXTS), local.embed_text(TEXTS), atol=1e-5)


def test_features_are_those_of_the_index(client, model):
    rows = json.loads((model.folder / "lists" / "retrieval_test.json").read_text())
    names = [row["image"] for row in rows]
    size = model.config.serve.max_queries
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    own = np.concatenate([client.embed(images=[model.folder / name for name in part]) for part in parts])
    for text in TEXTS:
        scores = own @ client.embed([text])[0]
        for match in client.retrieve(text, k=5, rerank=False):
            assert scores[names.index(match.id)] == pytest.approx(match.score, abs=1e-5)


def test_an_image_that_was_embedded_is_found_and_the_reverse(client, model):
    # A response in the cache has only the outputs of the request that it answered, so all endpoints want the same.
    first, second = image_paths(model, 33, 34)
    client.embed(images=[first])
    assert client.retrieve(image=first, k=1)
    client.retrieve(image=second, k=1)
    assert client.embed(images=[second]).shape[0] == 1
    assert client.classify(second, ["red", "blue"])


@pytest.mark.parametrize("templates", [None, TEMPLATES])
def test_labels_are_those_of_the_python_api(client, model, local, templates):
    images = image_paths(model, 3, 20, 41)
    expected = local.classify(images, COLORS, templates or ["{}"])
    for image, answer in zip(images, expected, strict=True):
        found = client.classify(image, COLORS, templates)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert next(iter(found)) == answer.label
        assert found == pytest.approx(answer.probabilities, abs=1e-4)
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    if templates:
        assert found != pytest.approx(client.classify(images[-1], COLORS), abs=1e-3)


def test_labels_keep_their_order_on_the_wire(client, model):
    (image,), labels = image_paths(model, 5), ["yellow", "red", "blue"]
    request = requests.build("classify", image=image, labels=labels)
    outputs = client.ask(requests.Request(request.spec, request.arrays, lambda arrays: [arrays]))[0]
    assert [label.decode() for label in outputs[protocol.LABELS][0]] == labels
    expected = client.classify(image, labels)
    np.testing.assert_allclose(outputs[protocol.PROBABILITIES][0], [expected[label] for label in labels], rtol=1e-5)


def test_more_labels_than_a_batch_of_the_graph_has_rows_are_encoded_once(client, model, server):
    labels = [f"{one} {other}" for one in COLORS for other in COLORS if one != other]
    first, second = image_paths(model, 5, 6)

    def texts() -> float:
        return metric(server, "nv_inference_count", "retrieval_text")

    before = texts()
    whole = client.classify(first, labels, TEMPLATES)
    assert texts() - before == 2 * len(labels) > model.config.serve.max_batch_size
    before = texts()
    assert client.classify(second, labels, TEMPLATES) != whole
    assert client.classify(first, labels, TEMPLATES) == pytest.approx(whole)
    assert texts() == before
    # A softmax over fewer labels keeps their ratios: these are features of the same labels, batches notwithstanding.
    few = client.classify(first, labels[-2:], TEMPLATES)
    ratio = whole[labels[-1]] / whole[labels[-2]]
    assert few[labels[-1]] / few[labels[-2]] == pytest.approx(ratio, rel=1e-3)


def test_asyncio(server, model, client):
    (image,) = image_paths(model, 7)

    async def all_at_once():
        async with AsyncClient(server.grpc_url) as connected:
            return await asyncio.gather(
                connected.embed(TEXTS), connected.embed(images=[image]), connected.classify(image, COLORS)
            )

    texts, images, labels = asyncio.run(all_at_once())
    np.testing.assert_allclose(texts, client.embed(TEXTS), atol=1e-5)
    np.testing.assert_allclose(images, client.embed(images=[image]), atol=1e-5)
    assert labels == pytest.approx(client.classify(image, COLORS), abs=1e-5)


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda c, p: c.embed(), ["text", "image", "neither"]),
        (lambda c, p: c.embed(TEXTS, [p]), ["text", "image", "both"]),
        (lambda c, p: c.embed("red"), ["'red'", "list"]),
        (lambda c, p: c.embed([]), ["text", "image"]),
        (lambda c, p: c.embed(["red", " "]), ["'text'"]),
        (lambda c, p: c.embed(images=[p, b"no image"]), ["'image'"]),
        (lambda c, p: c.embed(["red"] * 9), ["'embed'", 8]),
        (lambda c, p: c.classify(p, []), ["text"]),
        (lambda c, p: c.classify(p, "red"), ["'red'", "list"]),
        (lambda c, p: c.classify(p, ["red", "?"]), ["'labels'"]),
        (lambda c, p: c.classify(p, ["red", "red"]), ["'labels'", "'red'", 2]),
        (lambda c, p: c.classify(p, ["red"], ["a photo"]), ["'templates'", "'a photo'", "{}"]),
        (lambda c, p: c.classify(b"no image", ["red"]), ["'image'"]),
    ],
)
def test_wrong_questions_are_refused_with_a_sentence(client, model, ask, names):
    (path,) = image_paths(model, 5)
    with refuses(InvalidRequestError, *names):
        ask(client, path)
    assert client.classify(path, ["red"]) == {"red": 1.0}  # and the next one is answered


def test_json_gives_the_same_answers(service, client, model):
    first, second = image_paths(model, 5, 6)
    sent = [base64.b64encode(path.read_bytes()).decode() for path in (first, second)]

    def post(endpoint: str, **body: object):
        address, data = f"{service.http_url}/v1/{endpoint}", json.dumps(body).encode()
        asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return json.load(answer)["answers"]

    np.testing.assert_allclose(post("embed", images=sent), client.embed(images=[first, second]), atol=1e-6)
    (labels,) = post("classify", image=sent[0], labels=["red", "blue"], templates=["a {}"])
    assert labels == pytest.approx(client.classify(first, ["red", "blue"], ["a {}"]))
    (compared,) = post("compare", first=sent[0], second=sent[1], statements=["both are red"])
    assert compared == pytest.approx(client.compare(first, second, "both are red"))


@pytest.mark.parametrize("name", ["embed", "classify"])
def test_graphs_of_another_model_are_refused(model, tmp_path, name):
    for folder in (name, "retrieval_vision", "retrieval_text"):
        shutil.copytree(model.repository / folder, tmp_path / folder)
    assert Local(tmp_path, name).ask(registry.client(name).probe("red", None, 1))
    settings = tmp_path / name / "1" / protocol.SETTINGS_FILE
    settings.write_text(settings.read_text().replace('"model_hash": "', '"model_hash": "0000'))
    with refuses(ValueError, "retrieval_vision", name):
        Local(tmp_path, name)


def test_commands(server, model):
    first, second = map(str, image_paths(model, 5, 6))
    commands = [
        (["embed", "red above blue"], model.config.model.projection),
        (["embed", "--image", first], model.config.model.projection),
        (["classify", "--image", first, "--template", "{} above", "--template", "a {}", "red", "blue"], 2 * 3 + 3),
        (["compare", "--images", first, second, "both images have red above"], 2 * 3 + 3),
    ]
    code = f"from albef import cli\nfor words in {[words for words, _ in commands]!r}:\n"
    code += f"    assert cli.main(['ask', *words, '--url', {server.grpc_url!r}]) == 0\n    print('-----')\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.split("-----")
    assert [len(text.split()) for text in shown] == [*(count for _, count in commands), 0]
    assert {"red", "blue"} <= set(shown[2].split())
    assert {"True", "False"} <= set(shown[3].split())

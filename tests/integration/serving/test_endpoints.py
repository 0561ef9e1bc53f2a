"""VQA, entailment, NLVR2 and grounding endpoints compared with the evaluation."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tritonclient.grpc import InferInput

import albef
from albef.data.schema import NLVR_LABELS, VE_LABELS
from albef.data.tokenizer import Encoder
from albef.inference.boxes import best_box, iou
from albef.inference.encode import pixels_of, words_of
from albef.inference.gradcam import heat_map
from albef.serving import requests
from albef.serving.client import AsyncClient, InvalidRequestError
from albef.tasks import classification_eval, registry
from albef.tasks.vqa import evaluate
from albef.weights import checkpoint
from benchmarks.load import perf
from tests.docs import execute, python_blocks
from tests.errors import refuses
from tests.worlds import write_params

QUESTIONS = ["what color is at the top", "is it red", "which of the colors is below, at the very bottom of it all"]


@pytest.fixture(scope="module")
def encoder(model) -> Encoder:
    return Encoder.from_file(model.folder / "tokenizer" / "tokenizer.json")


@pytest.fixture(scope="module")
def candidates(model) -> list[str]:
    return evaluate.read_candidates(model.folder / "lists" / "answer_list.json")


def network(model, task):
    return checkpoint.load(model.folder / "models" / task / "model.pth")[0].eval()


def image_path(model, number=5) -> Path:
    return model.folder / "images" / f"{number}.png"


def evaluated(model, encoder, candidates, **choice):
    """Return the answers of the evaluation to `QUESTIONS`."""
    config = model.config.tasks.vqa
    config = dataclasses.replace(config, evaluate=dataclasses.replace(config.evaluate, top=5, **choice))
    paths = [image_path(model)] * len(QUESTIONS)
    split = evaluate.QuestionSet(paths, ["x"] * len(paths), QUESTIONS, [*range(len(paths))], [[]] * len(paths))
    return evaluate.evaluate(network(model, "vqa"), split, candidates, encoder, config).answers


def same(found, expected):
    assert [answer.text for answer in found] == [text for text, _ in expected]
    np.testing.assert_allclose([a.probability for a in found], [p for _, p in expected], rtol=1e-3)


def test_ranked_answers_are_those_of_the_evaluation(client, model, encoder, candidates):
    expected = evaluated(model, encoder, candidates, mode="rank")
    for found, answers in zip(client.answer_many(image_path(model), QUESTIONS), expected, strict=True):
        same(found, answers)
    same(client.answer(image_path(model).read_bytes(), QUESTIONS[0], k=2), expected[0][:2])


def test_own_candidates(client, model, encoder):
    own = ["blue", "dark red and green", "white"]
    expected = evaluated(model, encoder, own, mode="rank")
    for found, answers in zip(client.answer_many(image_path(model), QUESTIONS, candidates=own), expected, strict=True):
        same(found, answers)
        assert sum(answer.probability for answer in found) == pytest.approx(1, abs=1e-4)


def test_written_answers_are_those_of_the_evaluation(client, model, encoder, candidates):
    expected = evaluated(model, encoder, candidates, mode="generate")
    for found, answers in zip(client.answer_many(image_path(model), QUESTIONS, generate=True), expected, strict=True):
        same(found, answers)


def test_entailment_is_that_of_the_evaluation(client, model, encoder):
    net, config = network(model, "entailment"), model.config.tasks.entailment
    for number, sentence in ((5, "red above blue"), (9, "an image of green")):
        split = classification_eval.ClassificationSet(
            [(image_path(model, number),)], [("x",)], [sentence], np.array([0]), tuple(VE_LABELS)
        )
        expected = classification_eval.evaluate(net, split, encoder, config).probabilities[0]
        found = client.entail(image_path(model, number), sentence)
        assert list(found) == list(VE_LABELS)
        np.testing.assert_allclose(list(found.values()), expected, atol=1e-4)


def test_comparison_is_that_of_the_evaluation(client, model, encoder):
    net, config = network(model, "nlvr2"), model.config.tasks.nlvr2
    for pair, statement in (((5, 9), "both images have red above"), ((9, 5), "both images have red above")):
        paths = tuple(image_path(model, number) for number in pair)
        split = classification_eval.ClassificationSet(
            [paths], [("x", "y")], [statement], np.array([0]), tuple(NLVR_LABELS)
        )
        expected = classification_eval.evaluate(net, split, encoder, config).probabilities[0]
        found = client.compare(*paths, statement)
        assert list(found) == list(NLVR_LABELS)
        np.testing.assert_allclose(list(found.values()), expected, atol=1e-4)
    assert found != pytest.approx(client.compare(*reversed(paths), statement), abs=1e-3)


def test_rows_of_pairs_keep_their_images(client, model):
    """Two rows with three distinct images, of which one is a first and a second image."""
    one, two, three = (image_path(model, number).read_bytes() for number in (5, 9, 60))
    rows = [requests.build("compare", first=a, second=b, statements=["red"]) for a, b in ((one, two), (two, three))]
    arrays = {name: np.concatenate([row.arrays[name] for row in rows]) for name in rows[0].arrays}
    both = client.ask(dataclasses.replace(rows[0], arrays=arrays))
    for found, row in zip(both, rows, strict=True):
        assert found == pytest.approx(client.ask(row)[0], abs=1e-5)
    assert both[0] != pytest.approx(both[1], abs=1e-3)


@torch.no_grad()
def test_heat_and_box_are_those_of_the_evaluation(client, model, encoder):
    net, config = network(model, "grounding"), model.config.tasks.grounding
    block = config.evaluate.block if config.evaluate.mode == "itm" else 0
    boxes = [[0, 0, 32, 16], [0, 16, 32, 16], [0, 0, 16, 32], [8, 8, 16, 16]]
    for number in (3, 20):
        pixels = pixels_of([image_path(model, number)], net.config.image_size).to(net.device)
        expected = heat_map(net, pixels, *words_of(["red above"], encoder, config.train, net.device), "itm", block)[0]
        found = client.ground(image_path(model, number), "red above", boxes)
        np.testing.assert_allclose(found.heat, expected.numpy(), atol=1e-4 * float(expected.max()))
        assert list(found.box) == boxes[best_box(expected.numpy(), 32, 32, boxes)]
        free = client.ground(image_path(model, number), "red above")
        y, x = np.unravel_index(int(found.heat.argmax()), found.heat.shape)
        side = 32 / len(found.heat)
        assert iou(free.box, (x * side, y * side, side, side)) > 0.1  # it holds the hottest patch


@pytest.fixture(scope="module")
def load(model, tmp_path_factory):
    """Function that loads the model of an endpoint into this process."""
    params = write_params(model.config, tmp_path_factory.mktemp("api") / "params.yaml")

    def loaded(task: str) -> albef.Albef:
        return albef.load(model.folder / "models" / task, params=params, device="cpu")

    return loaded


def test_the_python_api_retrieves_like_the_endpoint(client, model, load):
    api, rows = load("retrieval"), json.loads((model.folder / "lists" / "retrieval_test.json").read_text())
    names, captions = [row["image"] for row in rows], [row["caption"][0] for row in rows]
    texts = ["red above blue", "An image: of GREEN, above-white!", "zebra"]
    images = [model.folder / name for name in names]
    for found, served in zip(api.retrieve(texts, images, k=5), client.retrieve_many(texts, k=5), strict=True):
        assert [names[match.index] for match in found] == [match.id for match in served]
    for text, served in zip(texts, client.retrieve_many(texts, k=5), strict=True):
        matching = api.match([images[names.index(match.id)] for match in served], text)[:, 0]
        np.testing.assert_allclose(matching, [match.score for match in served], atol=1e-4)
    similar = dict(zip(captions, api.similarity(images[3], captions)[0], strict=True))
    for match in client.retrieve(image=images[3], k=5, rerank=False):
        assert similar[match.id] == pytest.approx(match.score, abs=1e-4)


def test_the_python_api_gives_the_endpoints_answers(client, model, load, candidates):
    image = Image.open(image_path(model, 7))
    vqa, entailment, grounding = load("vqa"), load("entailment"), load("grounding")
    for own in (candidates, ["blue", "white"]):
        served = client.answer_many(image_path(model, 7), QUESTIONS, candidates=own)
        for found, expected in zip(vqa.answer(image, QUESTIONS, own), served, strict=True):
            same(found, [(answer.text, answer.probability) for answer in expected])
    served = client.answer_many(image_path(model, 7), QUESTIONS, generate=True)
    for found, expected in zip(vqa.answer(image, QUESTIONS), served, strict=True):
        same(found, [(answer.text, answer.probability) for answer in expected])
    for text, found in zip(QUESTIONS, entailment.entail(image, QUESTIONS), strict=True):
        assert found.probabilities == pytest.approx(client.entail(image_path(model, 7), text), abs=1e-4)
    for text, found in zip(QUESTIONS, load("nlvr2").compare(image, image_path(model, 9), QUESTIONS), strict=True):
        served = client.compare(image_path(model, 7), image_path(model, 9), text)
        assert found.probabilities == pytest.approx(served, abs=1e-4)
    for text, found in zip(QUESTIONS, grounding.ground(image, QUESTIONS), strict=True):
        expected = client.ground(image_path(model, 7), text)
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-4 * float(expected.heat.max()))
        assert found.box == pytest.approx(expected.box)


@pytest.mark.parametrize("code", python_blocks("server"))
def test_an_example_of_the_documentation_runs(code, server, model, tmp_path, monkeypatch):
    images = tmp_path / "artifacts" / "exported" / "images" / "test"
    images.mkdir(parents=True)
    for path in (images / "000000.png", images / "000001.png", tmp_path / "photo.jpg"):
        path.symlink_to(image_path(model))
    monkeypatch.chdir(tmp_path)
    assert "127.0.0.1:8001" in code
    execute(code.replace("127.0.0.1:8001", server.grpc_url))


def test_a_request_file_of_perf_analyzer_is_answered(client, model, tmp_path):
    request = requests.build("vqa", image=image_path(model), questions=QUESTIONS[:1], candidates=["red", "blue"], k=1)
    perf.write_inputs(tmp_path / "inputs.json", [request.arrays])
    (row,) = json.loads((tmp_path / "inputs.json").read_text())["data"]
    inputs = []
    for tensor in request.spec.inputs:
        if given := row.get(tensor.name):
            inputs.append(InferInput(tensor.name, [1, *given["shape"]], tensor.dtype))
            inputs[-1]._raw_content = base64.b64decode(given["content"]["b64"])  # sent as it is, by perf_analyzer, too
    assert len(inputs) == 4
    result = client.triton.infer("vqa", inputs)
    assert request.read({name: result.as_numpy(name) for name in request.spec.output_names}) == client.ask(request)


def counters(server, name: str) -> dict[str, float]:
    """Return a metric of the server by model."""
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{")]
    return {line.split('model="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in found}


def encodings(server) -> float:
    return counters(server, "nv_inference_exec_count")["vqa_vision"]


def test_an_image_asked_about_twice_is_encoded_once(client, model, server):
    before = encodings(server)
    client.answer_many(image_path(model, 60), QUESTIONS)
    assert encodings(server) == before + 1
    client.answer(image_path(model, 60), "is it blue")
    assert encodings(server) == before + 1
    client.answer(image_path(model, 61), "is it blue")
    assert encodings(server) == before + 2


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda c, p: c.answer(p, ""), ["'text'"]),
        (lambda c, p: c.answer(p, "red", k=0), ["'k'", 0, 1, 40]),
        (lambda c, p: c.answer(b"no image", "red"), ["'image'"]),
        (lambda c, p: c.answer(p, "red", candidates=["blue", " "]), ["'candidates'"]),
        (lambda c, p: c.answer(p, "red", candidates=["red " * 200]), ["'candidates'", "tokens"]),
        (lambda c, p: c.answer(p, "red", candidates=["blue"], generate=True), ["'candidates'", "'generate'"]),
        (lambda c, p: c.answer(p, "red", candidates=[]), ["text"]),
        (lambda c, p: c.entail(p, "?!"), ["'text'"]),
        (lambda c, p: c.entail(p.read_bytes()[:60], "red"), ["'image'"]),
        (lambda c, p: c.compare(p, p, "?!"), ["'text'"]),
        (lambda c, p: c.compare(p, b"no image", "red"), ["'second_image'"]),
        (lambda c, p: c.compare(p, "/no/such.png", "red"), ["/no/such.png"]),
        (lambda c, p: c.ground(p, "red", [[0, 0, 0, 5]]), ["'boxes'", "width"]),
        (lambda c, p: c.ground(p, "red", [[0, 0, float("nan"), 5]]), ["'boxes'", "width"]),
        (lambda c, p: c.ground(p, "red", [[1, 2, 3]]), ["boxes", "(1, 3)"]),
        (lambda c, p: c.ground("/no/such.png", "red"), ["/no/such.png"]),
    ],
)
def test_wrong_questions_are_refused_with_a_sentence(client, model, ask, names):
    with refuses(InvalidRequestError, *names):
        ask(client, image_path(model))
    assert client.entail(image_path(model), "red")  # and the next one is answered


def test_asyncio(server, model, client):
    async def all_at_once():
        async with AsyncClient(server.grpc_url) as connected:
            return await asyncio.gather(
                connected.answer(image_path(model), QUESTIONS[0]),
                connected.entail(image_path(model), "red"),
                connected.ground(image_path(model), "red"),
                connected.compare(image_path(model), image_path(model, 9), "red"),
            )

    answers, labels, found, compared = asyncio.run(all_at_once())
    assert compared == pytest.approx(client.compare(image_path(model), image_path(model, 9), "red"))
    assert answers == client.answer(image_path(model), QUESTIONS[0])
    assert labels == pytest.approx(client.entail(image_path(model), "red"))
    assert found.box == client.ground(image_path(model), "red").box


def test_endpoints_answer_all_tensors_of_the_contract():
    for spec in registry.endpoints().values():
        for names in (spec.input_names, spec.output_names):
            assert len(set(names)) == len(names)

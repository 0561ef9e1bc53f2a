"""Answers and errors of the retrieval endpoint of a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from albef.data import tokenizer
from albef.data.images import open_image, to_pixels
from albef.export import repository
from albef.serving import protocol, transport
from albef.serving.client import AsyncClient, Client, InvalidRequestError
from albef.serving.requests import Request
from albef.serving.server import TritonServer
from albef.serving.session import open_session
from albef.tasks.retrieval import spec as retrieval
from tests.errors import refuses
from tests.served import Served, copy_endpoints


class Reference:
    """The ranking, computed from the exported graphs without the index."""

    def __init__(self, model: Served) -> None:
        self.run = {
            name: open_session(model.exported / "retrieval" / f"{name}.onnx").run
            for name in (protocol.VISION, retrieval.TEXT_GRAPH, retrieval.FUSION_GRAPH)
        }
        rows = json.loads((model.folder / "lists" / "retrieval_test.json").read_text())
        self.size = model.config.model.image_size
        self.shortlist = model.config.serve.shortlist
        self.encoder = tokenizer.Encoder(tokenizer.load(model.folder / "tokenizer"))
        self.images = [row["image"] for row in rows]
        self.captions = [caption for row in rows for caption in row["caption"]]
        self.encoded_images = [self.image(model.folder / name) for name in self.images]
        self.encoded_captions = [self.text(caption) for caption in self.captions]

    def image(self, path: Path):
        pixels = to_pixels(open_image(path), self.size)[None]
        return self.run[protocol.VISION](None, {protocol.PIXEL_VALUES: pixels})

    def text(self, text: str):
        ids, mask = self.encoder.encode_batch([text], max_tokens=30, max_words=30)
        feeds = {protocol.INPUT_IDS: ids, protocol.ATTENTION_MASK: mask}
        return [*self.run[protocol.TEXT](None, feeds), mask]

    def match(self, query, other) -> list[float]:
        """Return the ITM logits of no match and match."""
        image, text = (other, query) if len(query) == 3 else (query, other)
        names = (protocol.IMAGE_EMBEDS, protocol.TEXT_EMBEDS, protocol.ATTENTION_MASK)
        feeds = dict(zip(names, (image[0], text[0], text[2]), strict=True))
        return self.run[retrieval.FUSION_GRAPH](None, feeds)[0][0].tolist()

    def rank(self, query, k: int, rerank: bool):
        of_text = len(query) == 3
        others = self.encoded_images if of_text else self.encoded_captions
        similarity = np.array([float((query[1] @ other[1].T).item()) for other in others])
        order = np.argsort(-similarity, kind="stable")
        scores = dict(enumerate(similarity))
        if rerank:
            order = order[: max(k, self.shortlist)]
            logits = {row: self.match(query, others[row]) for row in order}
            scores = {row: 1 / (1 + np.exp(no - yes)) for row, (no, yes) in logits.items()}
            order = np.array(sorted(order, key=lambda row: -logits[row][retrieval.MATCH]))
        names = self.images if of_text else self.captions
        return [(names[row], scores[row]) for row in order[:k]]


@pytest.fixture(scope="module")
def reference(model) -> Reference:
    return Reference(model)


def same(matches, expected):
    assert [match.id for match in matches] == [name for name, _ in expected]
    np.testing.assert_allclose([m.score for m in matches], [s for _, s in expected], atol=1e-4)


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("k", [1, 5, 11, 40])
@pytest.mark.parametrize("text", ["red above blue", "An image: of GREEN, above-white!", "zebra"])
def test_text_finds_images(client, reference, text, k, rerank):
    matches = client.retrieve(text=text, k=k, rerank=rerank)
    assert len(matches) == min(k, len(reference.images))
    same(matches, reference.rank(reference.text(text), k, rerank))


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("number", [3, 60])
def test_image_finds_captions(client, reference, model, number, k, rerank):
    path = model.folder / "images" / f"{number}.png"
    expected = reference.rank(reference.image(path), k, rerank)
    same(client.retrieve(image=path, k=k, rerank=rerank), expected)
    same(client.retrieve(image=path.read_bytes(), k=k, rerank=rerank), expected)


def test_reranking_changes_the_order(client):
    answers = [client.retrieve(text="red above blue", k=40, rerank=rerank) for rerank in (True, False)]
    assert [m.id for m in answers[0]] != [m.id for m in answers[1]]


def test_long_text_is_cut_as_in_training(client, reference):
    text = "red above blue " * 40
    same(client.retrieve(text=text, k=4), reference.rank(reference.text(text), 4, True))


def test_several_texts_in_one_request(client, model):
    texts = ["red above blue", "green above white and a good deal more", "black"]
    many = client.retrieve_many(texts, k=4)
    for text, matches in zip(texts, many, strict=True):
        same(matches, [(m.id, m.score) for m in client.retrieve(text=text, k=4)])
    with refuses(InvalidRequestError, 8):
        client.retrieve_many(["red"] * (model.config.serve.max_queries + 1))


def png(size=(8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ({"text": ""}, ["'text'"]),
        ({"text": " .,!?"}, ["'text'"]),
        ({"text": "a" * 20_000}, ["'text'", 20000, 10000]),
        ({"text": "red", "k": 0}, ["'k'", 0, 1, 40]),
        ({"text": "red", "k": -5}, ["'k'", -5]),
        ({"text": "red", "k": 41}, ["'k'", 41]),
        ({"image": b""}, ["'image'"]),
        ({"image": b"no image"}, ["'image'"]),
        ({"image": png()[:-30]}, ["'image'"]),
        ({"image": png((400, 400))}, ["'image'", "400 x 400"]),
        ({"image": png() + bytes(20_001)}, ["'image'", 20000]),
    ],
)
def test_wrong_questions_are_refused_with_a_sentence(client, question, names):
    with refuses(InvalidRequestError, *names):
        client.retrieve(**question)
    assert client.retrieve(text="red", k=1)


def raw(client, **arrays):
    return client.triton.infer(
        **transport.infer_arguments(Request(retrieval.ENDPOINT, arrays, list)), client_timeout=30
    )


def strings(*values: bytes):
    return np.array(values, dtype=np.object_).reshape(-1, 1)


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"k": np.ones((1, 1), np.int32)}, ["'text'", "'image'", "neither"]),
        ({"text": strings(b"\xff\xfe")}, ["'text'", "UTF-8"]),
        ({"text": strings(b"red", b"blue"), "k": np.array([[1], [2]], np.int32)}, ["'k'"]),
        ({"text": strings(b"red", b"blue"), "rerank": np.array([[True], [False]])}, ["'rerank'"]),
        ({"text": strings(b"red", b"")}, ["'text'"]),
        ({"text": strings(b"red"), "k": np.ones((1, 2), np.int32)}, ["'k'"]),
        ({"text": strings(b"red", b"blue"), "k": np.ones((1, 1), np.int32)}, ["'retrieval'"]),
    ],
)
def test_wrong_requests_are_refused(client, arrays, names):
    with refuses(InferenceServerException, *names) as caught:
        raw(client, **arrays)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_defaults_of_the_endpoint(client):
    result = raw(client, text=strings(b"red above blue"))
    expected = client.retrieve(text="red above blue", k=retrieval.DEFAULT_K, rerank=retrieval.DEFAULT_RERANK)
    assert [key.decode() for key in result.as_numpy("ids")[0]] == [m.id for m in expected]


def test_client_wants_one_question(client):
    with refuses(InvalidRequestError, "text", "image"):
        client.retrieve()
    with refuses(InvalidRequestError, "absent.png"):
        client.retrieve(image=Path("absent.png"))
    with refuses(InvalidRequestError, "'k'", 2**40):
        client.retrieve(text="a", k=2**40)


def test_neighbors_of_a_wrong_question_keep_their_answers(client, reference):
    expected = reference.rank(reference.text("red above blue"), 3, True)

    def ask(number: int):
        if number % 3:
            return client.retrieve(text="red above blue", k=3)
        try:
            return client.retrieve(image=b"no image") if number % 2 else client.retrieve(text="!")
        except InvalidRequestError as error:
            return error

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(96)))
    for number, answer in enumerate(answers):
        if number % 3:
            same(answer, expected)
        else:
            assert isinstance(answer, InvalidRequestError)


def test_concurrent_clients_get_their_own_answers(server, reference):
    texts = [f"{a} above {b}" for a in ("red", "green", "blue") for b in ("white", "black", "a red and a blue one")]
    expected = {text: reference.rank(reference.text(text), 5, True) for text in texts}

    def ask(number: int):
        with Client(server.grpc_url) as own:
            for text in texts[number:] + texts[:number]:
                same(own.retrieve(text=text, k=5), expected[text])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))


def test_asyncio_client_gives_the_same_answers(server, client, model):
    path = model.folder / "images" / "3.png"

    async def ask():
        async with AsyncClient(server.grpc_url) as other:
            with refuses(InvalidRequestError, "'k'", 0):
                await other.retrieve(text="red", k=0)
            return await asyncio.gather(*(other.retrieve(text="red") for _ in range(8)), other.retrieve(image=path))

    *texts, captions = asyncio.run(ask())
    for matches in texts:
        same(matches, [(m.id, m.score) for m in client.retrieve(text="red")])
    assert [m.id for m in captions] == [m.id for m in client.retrieve(image=path)]


def metric(server, name: str, model: str = "retrieval") -> float:
    connection = HTTPConnection(server.metrics_url, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{model="{model}",'))


def settled(server, name: str) -> float:
    """Return a counter once it is stable; the server updates it shortly after an answer."""
    value = metric(server, name)
    while True:
        time.sleep(0.5)
        last, value = value, metric(server, name)
        if value == last:
            return value


def test_metrics_count_questions(server, client):
    before = settled(server, "nv_inference_request_success")
    client.retrieve(text="red")
    assert settled(server, "nv_inference_request_success") == before + 1


def test_questions_and_pairs_share_batches(server, client):
    names = [("retrieval", "nv_inference_exec_count"), ("retrieval_fusion", "nv_inference_exec_count")]
    before = [metric(server, name, model) for model, name in names]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: client.retrieve(text="red above blue", k=2), range(64)))
    endpoint, fusion = (metric(server, name, model) - old for (model, name), old in zip(names, before, strict=True))
    assert endpoint < 64
    assert fusion <= 64  # six pairs a question, in one call


def test_other_scores_versions_and_precisions(model, runtime, tmp_path, reference):
    config = model.config
    retrieval = config.tasks.retrieval
    retrieval = dataclasses.replace(retrieval, evaluate=dataclasses.replace(retrieval.evaluate, score="itm+itc"))
    config = dataclasses.replace(
        config,
        tasks=dataclasses.replace(config.tasks, retrieval=retrieval),
        serve=dataclasses.replace(config.serve, version=7, instances=2, index_dtype="float16"),
    )
    folder = model.folder
    repository.run(config, model.exported, folder / "lists", folder, folder / "tokenizer", tmp_path / "all")
    alone = copy_endpoints(tmp_path / "all", tmp_path / "repository", "retrieval")
    query = reference.text("red above blue")
    similarity = dict(reference.rank(query, 40, False))
    matched = dict(reference.rank(query, 40, True))
    logits = {
        name: reference.match(query, other)[1] + similarity[name] / config.model.temperature
        for name, other in zip(reference.images, reference.encoded_images, strict=True)
    }
    with TritonServer(alone, runtime=runtime) as server, Client(server.grpc_url) as client:
        found = client.retrieve(text="red above blue", k=40)
        assert client.triton.is_model_ready("retrieval", "7")
    ranked = [logits[m.id] for m in found]  # with embeddings in float16
    assert ranked == pytest.approx(sorted(logits.values(), reverse=True), abs=0.05)
    for match in found:
        assert match.score == pytest.approx(matched[match.id], abs=0.01)

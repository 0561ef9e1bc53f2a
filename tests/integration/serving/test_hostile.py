"""Hostile and unusual input to a real server."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from albef.export import repository
from albef.serving import protocol
from albef.serving.server import TritonServer
from albef.tasks import registry
from albef.tasks.embed import spec as embed
from albef.tasks.grounding import spec as grounding
from albef.tasks.retrieval import spec as retrieval
from tests.errors import refuses
from tests.integration.serving import hostile, hostile_requests
from tests.integration.serving.hostile import ODD, ODD_TEXTS, REFUSED, REFUSED_TEXTS, encoded, scene
from tests.integration.serving.hostile_requests import REQUESTS, arrays_of
from tests.integration.serving.test_answers import metric
from tests.integration.serving.test_lifecycle import family
from tests.worlds import tiny_config

ENDPOINTS = tuple(registry.endpoints())


def inputs_of(library, arrays, raw=None, shapes=None):
    inputs = []
    for name, array in arrays.items():
        value = library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        value.set_data_from_numpy(array)
        if raw and name in raw:
            value._raw_content = raw[name]
        if shapes and name in shapes:
            value.set_shape(shapes[name])
        inputs.append(value)
    return inputs


def infer(triton, endpoint, arrays):
    return triton.infer(endpoint, inputs_of(grpc, arrays), client_timeout=60)


def numbers(triton, endpoint, arrays) -> np.ndarray:
    """Return the answer to one row as numbers in an order independent of their values."""
    more = {protocol.K: np.full((1, 1), 40, np.int32)}
    if endpoint == "retrieval":
        more[retrieval.RERANK] = np.array([[False]])
    result = infer(triton, endpoint, {**arrays, **more} if endpoint in ("retrieval", "vqa") else arrays)
    if endpoint == "grounding":
        return result.as_numpy(grounding.HEAT_MAP).reshape(-1)
    if endpoint == "embed":
        return result.as_numpy(embed.EMBEDDING)[0]
    keys, values = (result.as_numpy(name)[0] for name in registry.endpoints()[endpoint].output_names)
    return values[np.argsort(keys)] if endpoint in ("retrieval", "vqa") else values


def assert_same(triton, endpoint, found, expected, lossy=False):
    """Check that two answers agree and differ from those to blank images.

    Args:
        lossy: Only compare the distance with that to blank images.
    """
    if not lossy:
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    blank = [arrays_of(endpoint, image=encoded(Image.new("RGB", (32, 32), color))) for color in ("white", "black")]
    far = min(np.abs(expected - numbers(triton, endpoint, arrays)).max() for arrays in blank)
    assert np.abs(found - expected).max() < far / 4


def refused(triton, endpoint, arrays, names, code="INVALID_ARGUMENT", version="", **wire):
    with refuses(InferenceServerException, *names) as caught:
        triton.infer(endpoint, inputs_of(grpc, arrays, **wire), model_version=version, client_timeout=60)
    assert caught.value.status() == f"StatusCode.{code}"


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_image_or_a_trap(client, endpoint, name):
    file, names = REFUSED[name]
    refused(client.triton, endpoint, arrays_of(endpoint, image=file()), names)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_answered_as_their_plain_likes(client, endpoint, name):
    odd = ODD[name]
    plain = encoded(odd.same().convert("RGB"))
    found, expected = (
        numbers(client.triton, endpoint, arrays_of(endpoint, image=file)) for file in (odd.file(), plain)
    )
    assert_same(client.triton, endpoint, found, expected, odd.lossy)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", REFUSED_TEXTS)
def test_texts_that_say_nothing(client, endpoint, name):
    text, names = REFUSED_TEXTS[name]
    field = "'labels'" if endpoint == "classify" else "'text'"
    refused(client.triton, endpoint, arrays_of(endpoint, words=text), [field, *names])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_texts_are_answered_as_their_plain_likes(client, endpoint, name):
    found, expected, other = (
        numbers(client.triton, endpoint, arrays_of(endpoint, words=text.encode()))
        for text in (*ODD_TEXTS[name], "green white yellow")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(found, other, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_break_the_contract(client, name):
    request = REQUESTS[name]
    wire = {"raw": request.raw, "shapes": request.shapes}
    refused(
        client.triton, request.model, request.arrays(), request.names, request.code, version=request.version, **wire
    )


def test_boxes_beyond_the_image_lose(client):
    inside, beyond = [4, 4, 8, 8], [[-90, -90, 9, 9], [1e6, 1e6, 1, 1], [0, 0, 3e38, 3e38], [0, 0, 1e-40, 1e-40]]
    result = infer(client.triton, "grounding", hostile_requests.boxes(*beyond, inside))
    assert result.as_numpy(grounding.BOX)[0].tolist() == inside


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_neighbors_of_hostile_requests_keep_their_answers(server, client, endpoint):
    good = [arrays_of(endpoint, image=encoded(scene(32 + n, 32)), words=b"red above blue") for n in range(4)]
    expected = [numbers(client.triton, endpoint, arrays) for arrays in good]
    # The large one is refused as the others are, and would but slow them down here.
    bad = [arrays_of(endpoint, image=file()) for name, (file, _) in REFUSED.items() if name != "2 MB"]
    bad += [arrays_of(endpoint, words=text) for text, _ in REFUSED_TEXTS.values()]
    before = metric(server, "nv_inference_exec_count", endpoint)

    def ask(number: int):
        if number % 2:
            return numbers(client.triton, endpoint, good[number // 2 % 4])
        with pytest.raises(InferenceServerException) as caught:
            infer(client.triton, endpoint, bad[number // 2 % len(bad)])
        return caught.value.status()

    total = 2 * len(bad)
    with ThreadPoolExecutor(16) as pool:
        for tries in range(1, 21):
            answers = list(pool.map(ask, range(total)))
            for number, answer in enumerate(answers):
                if number % 2:
                    np.testing.assert_allclose(answer, expected[number // 2 % 4], atol=1e-4)
                else:
                    assert answer == "StatusCode.INVALID_ARGUMENT"
            if metric(server, "nv_inference_exec_count", endpoint) - before < tries * total:
                return  # they did share batches, which a busy machine may give no occasion for
    pytest.fail("no two requests shared a batch")


# -- with the limits of the demo: 20 MB and 40 million pixels


@pytest.fixture(scope="module")
def wide(model, runtime, tmp_path_factory):
    limits = tiny_config().serve
    serve = dataclasses.replace(
        model.config.serve, max_image_bytes=limits.max_image_bytes, max_image_pixels=limits.max_image_pixels
    )
    config, folder = dataclasses.replace(model.config, serve=serve), model.folder
    target = tmp_path_factory.mktemp("wide") / "repository"
    repository.run(config, model.exported, folder / "lists", folder, folder / "tokenizer", target)
    with TritonServer(target, runtime=runtime) as server:
        yield server


def megabytes(server) -> float:
    """Return the memory of the server and its stubs, with shared pages counted once."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in family(server.pid)) / 2**20


def stub(server, endpoint: str) -> int:
    """Return the process id of an endpoint."""
    words = {pid: " ".join(psutil.Process(pid).cmdline()) for pid in family(server.pid)}
    (found,) = (pid for pid, line in words.items() if f"/{endpoint}/1/model.py" in line)
    return found


class Peak:
    """Peak memory of a process and its children in megabytes, relative to the memory at first."""

    def __init__(self, pid: int) -> None:
        self.pids = [pid, *(child.pid for child in psutil.Process(pid).children())]
        self.first = self.read("VmRSS")

    def read(self, field: str) -> float:
        lines = [line for pid in self.pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    def of(self, work) -> float:
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        work()
        return self.read("VmHWM") - self.first


# The processes hold no memory of earlier images yet.
def test_rows_do_not_hold_their_images_at_full_size(wide):
    files = [encoded(scene(4000, 3000 + row), compress_level=1) for row in range(8)]
    arrays = {"image": hostile_requests.strings(*files), "text": hostile_requests.strings(*[b"red"] * 8)}
    with grpc.InferenceServerClient(wide.grpc_url) as triton:
        one = {name: array[:1] for name, array in arrays.items()}
        infer(triton, "entailment", one)  # a worker starts
        peak = Peak(stub(wide, "entailment"))
        single = peak.of(lambda: infer(triton, "entailment", one))
        several = peak.of(lambda: infer(triton, "entailment", arrays))
    print(f"peak of one image of 12 megapixels {single:.0f} MB, of eight {several:.0f} MB")
    assert single > 50
    assert several < single + 100  # each takes 48 MB decoded


def test_long_candidates_take_little_memory(wide):
    answers = [b"word%d" % number for number in range(3_900)] + [b"red " * 2400]
    call = {**hostile_requests.pair(), "candidates": np.array([answers], np.object_)}
    with grpc.InferenceServerClient(wide.grpc_url) as triton:
        peak = Peak(stub(wide, "vqa"))
        taken = peak.of(lambda: refused(triton, "vqa", call, ["'candidates'"]))
    print(f"peak of 3900 candidates, one of 2400 words: {taken:.0f} MB")
    assert taken < 100  # padded to the longest they would take 150


def test_largest_images_are_answered(wide):
    with grpc.InferenceServerClient(wide.grpc_url) as triton:
        large = scene(8000, 5000)
        for file in (encoded(large, compress_level=1), hostile.png(8000, 5000, hostile.lines(large))):
            found, expected = (
                numbers(triton, "entailment", arrays_of("entailment", image=each))
                for each in (file, encoded(hostile.small(large)))
            )
            assert_same(triton, "entailment", found, expected)
        canvas = hostile.webp_canvas(6000, 6000)
        assert len(canvas) < 100
        assert np.isfinite(numbers(triton, "entailment", arrays_of("entailment", image=canvas))).all()


def test_memory_returns_to_its_level(wide):
    files = [file() for file, _ in REFUSED.values()] + [odd.file() for odd in ODD.values()]

    def ask(number: int) -> None:
        endpoint, file = ENDPOINTS[number % len(ENDPOINTS)], files[number // len(ENDPOINTS)]
        with suppress(InferenceServerException):
            infer(triton, endpoint, arrays_of(endpoint, image=file))

    levels = []
    with grpc.InferenceServerClient(wide.grpc_url) as triton, ThreadPoolExecutor(8) as pool:
        for _ in range(6):
            list(pool.map(ask, range(len(files) * len(ENDPOINTS))))
            levels.append(megabytes(wide))
    print("MB after each round:", *map(round, levels))
    # Buffers of the largest requests stay with the server, and how many there are at once is a matter of chance. A
    # decoded image kept from a round would add 120 MB each time.
    assert min(levels[-2:]) < max(levels[:3]) + 200

"""Checks of requests before they reach the server."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from albef.serving import checks
from albef.serving.protocol import PROBE_ID
from albef.serving.requests import InvalidRequestError
from albef.serving.transport import infer_arguments
from albef.tasks import registry
from albef.tasks.classify import client as classify
from albef.tasks.embed import client as embed
from albef.tasks.grounding import client as grounding
from albef.tasks.nlvr2 import client as nlvr2
from albef.tasks.retrieval import client as retrieval
from albef.tasks.vqa import client as vqa
from tests.errors import refuses

VALID = {
    "grounding": lambda: grounding.request(b"file", ["red", "blue"], [[0, 0, 4, 4], [1, 1, 2, 2]]),
    "retrieval": lambda: retrieval.request(texts=["red", "blue"], k=3, rerank=False),
    "vqa": lambda: vqa.request(b"file", ["what"], candidates=["yes", "no"]),
    "compare": lambda: nlvr2.request(b"file", b"other", ["red", "blue"]),
    "embed": lambda: embed.request(images=[b"file", b"other"]),
    "classify": lambda: classify.request(b"file", ["red", "blue"], ["a {}"]),
}


def message(task: str) -> Any:
    """Return a valid request as tritonclient sends it."""
    arguments = infer_arguments(VALID[task]())
    request = pb.ModelInferRequest(model_name=task, id=arguments["request_id"])
    for value in arguments["inputs"]:
        request.inputs.append(value._get_tensor())
        request.raw_input_contents.append(value._get_content())
    for output in arguments["outputs"]:
        request.outputs.append(output._get_tensor())
    return request


@pytest.mark.parametrize("task", VALID)
def test_valid_requests_pass(task: str) -> None:
    checks.check(message(task), registry.endpoints()[task])


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_priorities_are_read(kind: str) -> None:
    request = message("vqa")
    assert not checks.low_priority(request)
    for priority in (1, 2):
        setattr(request.parameters["priority"], kind, priority)
        checks.check(request, registry.endpoints()["vqa"])
        assert checks.low_priority(request) == (priority == 2)


def test_values_in_contents_pass() -> None:
    request = message("retrieval")
    del request.raw_input_contents[:]
    by_name = {tensor.name: tensor for tensor in request.inputs}
    by_name["text"].contents.bytes_contents.extend([b"red", b"blue"])
    by_name["k"].contents.int_contents.extend([3, 3])
    by_name["rerank"].contents.bool_contents.extend([False, False])
    checks.check(request, registry.endpoints()["retrieval"])
    by_name["k"].contents.int_contents.append(3)
    with refuses(InvalidRequestError, "'k'", 2, "int_contents"):
        checks.check(request, registry.endpoints()["retrieval"])


def shaped(name: str, *shape: int) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        (tensor,) = (each for each in request.inputs if each.name == name)
        tensor.shape[:] = shape

    return change


def raw(name: str, content: bytes) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        names = [each.name for each in request.inputs]
        request.raw_input_contents[names.index(name)] = content

    return change


def parameter(place: Callable[[Any], Any], name: str, value: int) -> Callable[[Any], None]:
    def change(request: Any) -> None:
        place(request).parameters[name].int64_param = value

    return change


def retyped(request: Any) -> None:
    request.inputs[1].datatype = "FP64"


def again(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def both(request: Any) -> None:
    request.inputs[0].contents.bytes_contents.append(b"file")


REFUSED: dict[str, tuple[Callable[[Any], object], tuple[object, ...]]] = {
    "version": (lambda r: setattr(r, "model_version", "../1"), ("version",)),
    "superscript version": (lambda r: setattr(r, "model_version", "²"), ("version",)),
    "long id": (lambda r: setattr(r, "id", "x" * 129), ("id", 129, 128)),
    "line break in the id": (lambda r: setattr(r, "id", "a\nb"), ("id",)),
    "id of the watchdog": (lambda r: setattr(r, "id", PROBE_ID), ("id", PROBE_ID)),
    "classification": (parameter(lambda r: r.outputs[0], "classification", 3), ("'classification'", "'heat_map'")),
    "shared memory out": (
        parameter(lambda r: r.outputs[0], "shared_memory_region", 3),
        ("'shared_memory_region'", "'heat_map'"),
    ),
    "shared memory in": (
        parameter(lambda r: r.inputs[0], "shared_memory_region", 3),
        ("'shared_memory_region'", "'image'"),
    ),
    "sequence": (parameter(lambda r: r, "sequence_id", 3), ("'sequence_id'",)),
    "unknown priority": (parameter(lambda r: r, "priority", 3), ("'priority'", 3, 1, 2)),
    "priority as text": (lambda r: setattr(r.parameters["priority"], "string_param", "2"), ("'priority'",)),
    "empty priority": (lambda r: r.parameters["priority"], ("'priority'",)),
    "unknown input": (lambda r: setattr(r.inputs[0], "name", "photo"), ("'photo'", "image", "boxes")),
    "unknown output": (lambda r: setattr(r.outputs[0], "name", "map"), ("'map'", "heat_map")),
    "an input twice": (again, ("'image'",)),
    "an output twice": (lambda r: r.outputs.append(r.outputs[0]), ("'heat_map'",)),
    "type": (retyped, ("'text'", "FP64", "BYTES")),
    "overflowing shape": (shaped("boxes", 1, 2**60, 4), ("'boxes'",)),
    "shape that overflows to its size": (shaped("boxes", 2**32, 2**32, 4), ("'boxes'",)),
    "negative size": (shaped("boxes", -2, -2, 4), ("'boxes'",)),
    "size of 0": (shaped("boxes", 2, 0, 4), ("'boxes'",)),
    "one dimension less": (shaped("boxes", 4, 4), ("'boxes'",)),
    "one dimension more": (shaped("boxes", 2, 2, 4, 1), ("'boxes'",)),
    "no dimension": (shaped("text"), ("'text'",)),
    "other fixed size": (shaped("boxes", 2, 2, 5), ("'boxes'",)),
    "too few bytes": (raw("boxes", bytes(63)), ("'boxes'", 63, 64)),
    "too many bytes": (raw("boxes", bytes(65)), ("'boxes'", 65, 64)),
    "no bytes": (raw("boxes", b""), ("'boxes'", 0, 64)),
    "one string less": (raw("text", struct.pack("<I", 3) + b"red"), ("'text'", 2)),
    "one string more": (raw("text", 3 * (struct.pack("<I", 3) + b"red")), ("'text'", 2)),
    "string longer than its bytes": (raw("text", 2 * struct.pack("<I", 2**32 - 1) + b"red"), ("'text'", 2)),
    "half a length": (raw("text", struct.pack("<I", 3) + b"red\0\0"), ("'text'", 2)),
    "fewer contents": (lambda r: r.raw_input_contents.pop(), (2, 3)),
    "contents and raw contents": (both, ("'image'",)),
    "typed contents of another type": (
        lambda r: (r.raw_input_contents.__delitem__(slice(None)), both(r), r.inputs[0].contents.int_contents.append(1)),
        ("'image'", "bytes_contents"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_requests_are_refused(name: str) -> None:
    change, names = REFUSED[name]
    request = message("grounding")
    change(request)
    with refuses(InvalidRequestError, *names):
        checks.check(request, registry.endpoints()["grounding"])


def test_a_huge_tensor_is_refused() -> None:
    request = message("vqa")
    shaped("candidates", 1, checks.MAX_ELEMENTS + 1)(request)
    with refuses(InvalidRequestError, "'candidates'", checks.MAX_ELEMENTS):
        checks.check(request, registry.endpoints()["vqa"])


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 60))
def test_damaged_messages_are_refused_or_harmless(junk: bytes, at: int, removed: int) -> None:
    data = message("grounding").SerializeToString()
    try:
        request = pb.ModelInferRequest.FromString(data[:at] + junk + data[at + removed :])
    except DecodeError:
        return
    try:
        checks.check(request, registry.endpoints()["grounding"])
    except InvalidRequestError:
        return
    for tensor in request.inputs:
        assert 0 < np.prod(np.array(tensor.shape, dtype=object)) <= checks.MAX_ELEMENTS
        assert not tensor.parameters
    assert not any(output.parameters for output in request.outputs)
    assert set(request.parameters) <= {checks.PRIORITY}

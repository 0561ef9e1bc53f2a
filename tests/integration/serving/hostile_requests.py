"""Requests that break the contract of an endpoint."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from albef.tasks.retrieval import spec as retrieval
from tests.integration.serving.hostile import encoded, scene


def strings(*values: bytes) -> np.ndarray:
    return np.array(values, dtype=np.object_).reshape(-1, 1)


@dataclass(frozen=True)
class Request:
    """A rejected request.

    Attributes:
        arrays: Inputs by name.
        words: Pattern of the error message.
        raw: Bytes sent in place of the content of an input.
        shapes: Shapes sent in place of the shape of an input.
    """

    model: str
    arrays: Callable[[], dict[str, np.ndarray]]
    words: str
    code: str = "INVALID_ARGUMENT"
    version: str = ""
    raw: dict[str, bytes] | None = None
    shapes: dict[str, list[int]] | None = None


def pair(rows: int = 1, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": strings(*[encoded(scene())] * rows), "text": strings(*[b"red"] * rows), **more}


def text(*values: bytes, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"text": strings(*values or (b"red",)), **more}


def boxes(*rows: list[float]) -> dict[str, np.ndarray]:
    return pair(boxes=np.array([rows], np.float32).reshape(1, -1, 4))


def candidates(*values: bytes) -> dict[str, np.ndarray]:
    return pair(candidates=np.array(values, np.object_).reshape(1, -1))


def length(size: int) -> bytes:
    return struct.pack("<I", size)


_BOXES = "'boxes': expected finite x, y, width, height"
REQUESTS: dict[str, Request] = {
    "text of numbers": Request("retrieval", lambda: {"text": np.ones((1, 1), np.int32)}, "'text' data-type is 'INT32'"),
    "image of pixels": Request("vqa", lambda: pair(image=np.ones((1, 1), np.float32)), "'image' data-type is 'FP32'"),
    "64-bit k": Request("retrieval", lambda: text(k=np.ones((1, 1), np.int64)), "'k' data-type is 'INT64'"),
    "64-bit boxes": Request("grounding", lambda: pair(boxes=np.ones((1, 1, 4))), "'boxes' data-type is 'FP64'"),
    "number for rerank": Request("retrieval", lambda: text(rerank=np.ones((1, 1), np.int32)), "'rerank' data-type"),
    "no batch dimension": Request(
        "entailment", lambda: pair(text=np.array([b"red"], np.object_)), "shape for input 'text'"
    ),
    "texts side by side": Request("grounding", lambda: pair(text=strings(b"a", b"b").T), "shape for input 'text'"),
    "no rows": Request("retrieval", lambda: {"text": np.zeros((0, 1), np.object_)}, "'text'"),
    "too many rows": Request("vqa", lambda: pair(9), "batch-size must be <= 8 for 'vqa'"),
    "too few texts": Request("entailment", lambda: {**pair(2), "text": strings(b"red")}, "batch size does not match"),
    "too few k": Request("vqa", lambda: pair(2, k=np.ones((1, 1), np.int32)), "batch size does not match"),
    "unknown input": Request("retrieval", lambda: text(words=strings(b"a")), "unexpected inference input 'words'"),
    "no image": Request("grounding", text, r"missing required input\(s\) \['image'\]"),
    "no text": Request("vqa", lambda: {"image": strings(encoded(scene()))}, r"missing required input\(s\) \['text'\]"),
    "unknown endpoint": Request("captioning", text, "'captioning' is not found", "NOT_FOUND"),
    "unknown version": Request("vqa", pair, "'vqa' version 9 is not found", "NOT_FOUND", version="9"),
    "version of letters": Request("vqa", pair, "version should be an integral value", version="x"),
    "one of several texts": Request(
        "entailment", lambda: pair(3, text=strings(b"a", b"\xff", b"b")), "'text' is not UTF-8"
    ),
    "one of several images": Request(
        "vqa", lambda: pair(2, image=strings(encoded(scene()), b"GIF89a")), "'image': not a readable image"
    ),
    "k 0": Request("vqa", lambda: pair(k=np.zeros((1, 1), np.int32)), "'k' is 0, expected 1 to 40"),
    "k below 0": Request("vqa", lambda: pair(k=np.full((1, 1), -1, np.int32)), "'k' is -1, expected 1 to 40"),
    "largest k": Request(
        "vqa", lambda: pair(k=np.full((1, 1), 2**31 - 1, np.int32)), "'k' is 2147483647, expected 1 to 40"
    ),
    "k differs": Request("vqa", lambda: pair(2, k=np.array([[1], [2]], np.int32)), "'k' must be the same"),
    "generate differs": Request(
        "vqa", lambda: pair(2, generate=np.array([[True], [False]])), "'generate' must be the same"
    ),
    "no boxes": Request("grounding", boxes, "'boxes' has 0 boxes per row, expected 1 to 1000"),
    "too many boxes": Request(
        "grounding", lambda: boxes(*[[0, 0, 1, 1]] * 1001), "'boxes' has 1001 boxes per row, expected 1 to 1000"
    ),
    "box of infinite width": Request("grounding", lambda: boxes([0, 0, 4, 4], [0, 0, np.inf, 4]), _BOXES),
    "box at no number": Request("grounding", lambda: boxes([np.nan, 0, 4, 4]), _BOXES),
    "box of negative height": Request("grounding", lambda: boxes([9, 9, 4, -4]), _BOXES),
    "boxes of five": Request(
        "grounding", lambda: pair(boxes=np.ones((1, 2, 5), np.float32)), "shape for input 'boxes'"
    ),
    "no candidates": Request("vqa", candidates, "'candidates' has 0 answers per row, expected 1 to 10000"),
    "too many candidates": Request(
        "vqa", lambda: candidates(*[b"a"] * 10_001), "'candidates' has 10001 answers per row"
    ),
    "candidates of many bytes": Request(
        "vqa",
        lambda: candidates(*[b"red " * 1000] * 200),
        "'candidates' has 800000 bytes in a row, expected at most 500000",
    ),
    "candidates of many tokens": Request("vqa", lambda: candidates(b"red", b"red " * 100), "an answer has more than"),
    "candidate of other code": Request("vqa", lambda: candidates(b"red", b"\xff"), "'candidates' is not UTF-8"),
    "candidate of nothing": Request("vqa", lambda: candidates(b"red", b"\0"), "'candidates' is empty"),
    "length beyond the end": Request(
        "retrieval",
        text,
        "expecting string of length 4294967295 but only 3 bytes",
        raw={"text": length(2**32 - 1) + b"red"},
    ),
    "length before the end": Request("retrieval", text, "incomplete string length", raw={"text": length(1) + b"red"}),
    "text without bytes": Request("retrieval", text, "expected 1 string elements .* got 0", raw={"text": b""}),
    "two texts for one": Request(
        "retrieval", text, "unexpected number of string elements 2", raw={"text": 2 * (length(3) + b"red")}
    ),
    "one text for two": Request(
        "retrieval", lambda: text(b"a", b"b"), "expected 2 string elements", raw={"text": length(3) + b"red"}
    ),
    "one byte for k": Request(
        "retrieval", lambda: text(k=np.ones((1, 1), np.int32)), "byte size mismatch for input 'k'", raw={"k": b"\1"}
    ),
    "rows below 0": Request("retrieval", text, "'text'", shapes={"text": [-1, 1]}),
    "rows beyond memory": Request("grounding", lambda: boxes([0, 0, 4, 4]), "'boxes'", shapes={"boxes": [1, 2**60, 4]}),
    "boxes below 0": Request("grounding", lambda: boxes([0, 0, 4, 4]), "'boxes'", shapes={"boxes": [1, -1, 4]}),
}
"""Requests rejected by the endpoint or by the server."""


def arrays_of(endpoint: str, *, image: bytes | None = None, words: bytes | None = None) -> dict[str, np.ndarray]:
    """Return the inputs of an endpoint for an image or a text.

    An endpoint that needs both gets a plain image or text as the other one.
    """
    if endpoint == retrieval.ENDPOINT.name:
        return {"text": strings(words)} if image is None else {"image": strings(image)}
    return {
        "image": strings(encoded(scene()) if image is None else image),
        "text": strings(b"red above blue" if words is None else words),
    }

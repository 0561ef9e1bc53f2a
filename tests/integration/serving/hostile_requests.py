"""Requests that break the contract of an endpoint."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.integration.serving.hostile import encoded, scene


def strings(*values: bytes) -> np.ndarray:
    return np.array(values, dtype=np.object_).reshape(-1, 1)


@dataclass(frozen=True)
class Request:
    """A rejected request.

    Attributes:
        arrays: Inputs by name.
        names: What the error message names.
        raw: Bytes sent in place of the content of an input.
        shapes: Shapes sent in place of the shape of an input.
    """

    model: str
    arrays: Callable[[], dict[str, np.ndarray]]
    names: tuple[object, ...]
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


def row(values: list[bytes], rows: int = 1) -> np.ndarray:
    return np.array([values] * rows, np.object_).reshape(rows, len(values))


def labeled(*labels: bytes, templates: list[bytes] | None = None, rows: int = 1) -> dict[str, np.ndarray]:
    arrays = {"image": strings(*[encoded(scene())] * rows), "labels": row(list(labels), rows)}
    return arrays if templates is None else {**arrays, "templates": row(templates, rows)}


def images(second: bytes, rows: int = 1, seconds: int = 1) -> dict[str, np.ndarray]:
    return pair(rows, second_image=strings(*[second] * seconds))


def length(size: int) -> bytes:
    return struct.pack("<I", size)


_BOXES = ("'boxes'", "width", "height")
REQUESTS: dict[str, Request] = {
    "text of numbers": Request("retrieval", lambda: {"text": np.ones((1, 1), np.int32)}, ("'text'", "'INT32'")),
    "image of pixels": Request("vqa", lambda: pair(image=np.ones((1, 1), np.float32)), ("'image'", "'FP32'")),
    "64-bit k": Request("retrieval", lambda: text(k=np.ones((1, 1), np.int64)), ("'k'", "'INT64'")),
    "64-bit boxes": Request("grounding", lambda: pair(boxes=np.ones((1, 1, 4))), ("'boxes'", "'FP64'")),
    "number for rerank": Request("retrieval", lambda: text(rerank=np.ones((1, 1), np.int32)), ("'rerank'", "'INT32'")),
    "no batch dimension": Request("entailment", lambda: pair(text=np.array([b"red"], np.object_)), ("'text'",)),
    "texts side by side": Request("grounding", lambda: pair(text=strings(b"a", b"b").T), ("'text'",)),
    "no rows": Request("retrieval", lambda: {"text": np.zeros((0, 1), np.object_)}, ("'text'",)),
    "too many rows": Request("vqa", lambda: pair(9), (8, "'vqa'")),
    "too few texts": Request("entailment", lambda: {**pair(2), "text": strings(b"red")}, ("'entailment'",)),
    "too few k": Request("vqa", lambda: pair(2, k=np.ones((1, 1), np.int32)), ("'vqa'",)),
    "unknown input": Request("retrieval", lambda: text(words=strings(b"a")), ("'words'",)),
    "no image": Request("grounding", text, ("['image']",)),
    "no text": Request("vqa", lambda: {"image": strings(encoded(scene()))}, ("['text']",)),
    "unknown endpoint": Request("captioning", text, ("'captioning'",), "NOT_FOUND"),
    "unknown version": Request("vqa", pair, ("'vqa'", "version 9"), "NOT_FOUND", version="9"),
    "version of letters": Request("vqa", pair, ("'x'",), version="x"),
    "one of several texts": Request(
        "entailment", lambda: pair(3, text=strings(b"a", b"\xff", b"b")), ("'text'", "UTF-8")
    ),
    "one of several images": Request("vqa", lambda: pair(2, image=strings(encoded(scene()), b"GIF89a")), ("'image'",)),
    "k 0": Request("vqa", lambda: pair(k=np.zeros((1, 1), np.int32)), ("'k'", 0, 1, 40)),
    "k below 0": Request("vqa", lambda: pair(k=np.full((1, 1), -1, np.int32)), ("'k'", -1, 1, 40)),
    "largest k": Request("vqa", lambda: pair(k=np.full((1, 1), 2**31 - 1, np.int32)), ("'k'", 2147483647, 1, 40)),
    "k differs": Request("vqa", lambda: pair(2, k=np.array([[1], [2]], np.int32)), ("'k'",)),
    "generate differs": Request("vqa", lambda: pair(2, generate=np.array([[True], [False]])), ("'generate'",)),
    "no boxes": Request("grounding", boxes, ("'boxes'", 0, 1, 4000)),
    "too many boxes": Request("grounding", lambda: boxes(*[[0, 0, 1, 1]] * 4001), ("'boxes'", 4001, 1, 4000)),
    "box of infinite width": Request("grounding", lambda: boxes([0, 0, 4, 4], [0, 0, np.inf, 4]), _BOXES),
    "box at no number": Request("grounding", lambda: boxes([np.nan, 0, 4, 4]), _BOXES),
    "box of negative height": Request("grounding", lambda: boxes([9, 9, 4, -4]), _BOXES),
    "boxes of five": Request("grounding", lambda: pair(boxes=np.ones((1, 2, 5), np.float32)), ("'boxes'",)),
    "no candidates": Request("vqa", candidates, ("'candidates'", 0, 1, 4000)),
    "too many candidates": Request("vqa", lambda: candidates(*[b"a"] * 4_001), ("'candidates'", 4001, 4000)),
    "too many candidates in all": Request(
        "vqa",
        lambda: pair(4, candidates=np.full((4, 1_001), b"a", np.object_)),
        ("'candidates'", 1001, 4, 4000),
    ),
    "candidates of many bytes": Request(
        "vqa",
        lambda: candidates(*[b"red " * 1000] * 200),
        ("'candidates'", 800000, 500000),
    ),
    "candidates of many tokens": Request("vqa", lambda: candidates(b"red", b"red " * 100), ("'candidates'", "tokens")),
    "candidate of other code": Request("vqa", lambda: candidates(b"red", b"\xff"), ("'candidates'", "UTF-8")),
    "candidate of nothing": Request("vqa", lambda: candidates(b"red", b"\0"), ("'candidates'",)),
    "no second image": Request("compare", pair, ("['second_image']",)),
    "second image of text": Request("compare", lambda: images(b"GIF89a"), ("'second_image'",)),
    "second image of many bytes": Request(
        "compare", lambda: images(encoded(scene()) + bytes(20_000)), ("'second_image'", 20000)
    ),
    "too few second images": Request("compare", lambda: images(encoded(scene()), 2, 1), ("'compare'",)),
    "images side by side": Request("compare", lambda: pair(second_image=row([b"a", b"b"])), ("'second_image'",)),
    "nothing to embed": Request("embed", lambda: {"text": np.zeros((0, 1), np.object_)}, ("'text'",)),
    "text and image to embed": Request("embed", pair, ("'text'", "'image'", "both")),
    "k to embed": Request("embed", lambda: text(k=np.ones((1, 1), np.int32)), ("'k'",)),
    "no labels": Request("classify", labeled, ("'labels'", "0 x 1", 1, 1000)),
    "labels left out": Request("classify", lambda: {"image": strings(encoded(scene()))}, ("['labels']",)),
    "no templates": Request("classify", lambda: labeled(b"red", templates=[]), ("'templates'", "1 x 0", 1000)),
    "too many labels": Request("classify", lambda: labeled(*[b"a"] * 1001), ("'labels'", "1001 x 1", 1000)),
    "too many labels times templates": Request(
        "classify", lambda: labeled(*[b"a"] * 101, templates=[b"{}"] * 10), ("'templates'", "101 x 10", 1000)
    ),
    "labels of many bytes": Request("classify", lambda: labeled(*[b"red " * 250] * 101), ("'labels'", 101202, 100000)),
    "templates of many bytes": Request(
        "classify", lambda: labeled(b"red", b"blue", templates=[b"{}" + b" a" * 30_000]), ("'templates'", 120011)
    ),
    "a long template": Request(
        "classify", lambda: labeled(b"red", templates=[b"{}" + b" a" * 5000]), ("'templates'", 10002, 10000)
    ),
    "label of nothing": Request("classify", lambda: labeled(b"red", b"\0"), ("'labels'",)),
    "label twice": Request("classify", lambda: labeled(b"red", b"blue", b"red"), ("'labels'", "'red'", 2)),
    "label of other code": Request("classify", lambda: labeled(b"red", b"\xff"), ("'labels'", "UTF-8")),
    "labels that differ": Request(
        "classify",
        lambda: {**labeled(b"red", b"blue", rows=2), "labels": np.array([[b"a", b"b"], [b"a", b"c"]], np.object_)},
        ("'labels'",),
    ),
    "labels for too few images": Request(
        "classify", lambda: {**labeled(b"red", b"blue"), "labels": row([b"a"], 2)}, ("'classify'",)
    ),
    "template without a label": Request(
        "classify", lambda: labeled(b"red", templates=[b"{}", b"a photo"]), ("'templates'", "'a photo'", "{}")
    ),
    "template of two labels": Request("classify", lambda: labeled(b"red", templates=[b"{} {}"]), ("'templates'", "{}")),
    "template of attributes": Request(
        "classify", lambda: labeled(b"red", templates=[b"{0.__class__}"]), ("'templates'", "{}")
    ),
    "template of other code": Request(
        "classify", lambda: labeled(b"red", templates=[b"\xff{}"]), ("'templates'", "UTF-8")
    ),
    "templates that differ": Request(
        "classify",
        lambda: {**labeled(b"red", rows=2), "templates": np.array([[b"a {}"], [b"{}"]], np.object_)},
        ("'templates'",),
    ),
    "labels beyond memory": Request("classify", lambda: labeled(b"red"), ("'labels'",), shapes={"labels": [1, 2**60]}),
    "labels below 0": Request("classify", lambda: labeled(b"red"), ("'labels'",), shapes={"labels": [1, -1]}),
    "length beyond the end": Request(
        "retrieval",
        text,
        ("'text'", 4294967295, 3),
        raw={"text": length(2**32 - 1) + b"red"},
    ),
    "length before the end": Request("retrieval", text, ("'text'",), raw={"text": length(1) + b"red"}),
    "text without bytes": Request("retrieval", text, ("'text'", 1, 0), raw={"text": b""}),
    "two texts for one": Request("retrieval", text, ("'text'", 2), raw={"text": 2 * (length(3) + b"red")}),
    "one text for two": Request("retrieval", lambda: text(b"a", b"b"), ("'text'", 2), raw={"text": length(3) + b"red"}),
    "one byte for k": Request("retrieval", lambda: text(k=np.ones((1, 1), np.int32)), ("'k'",), raw={"k": b"\1"}),
    "rows below 0": Request("retrieval", text, ("'text'",), shapes={"text": [-1, 1]}),
    "rows beyond memory": Request(
        "grounding", lambda: boxes([0, 0, 4, 4]), ("'boxes'",), shapes={"boxes": [1, 2**60, 4]}
    ),
    "boxes below 0": Request("grounding", lambda: boxes([0, 0, 4, 4]), ("'boxes'",), shapes={"boxes": [1, -1, 4]}),
}
"""Requests rejected by the endpoint or by the server."""


def arrays_of(endpoint: str, *, image: bytes | None = None, words: bytes | None = None) -> dict[str, np.ndarray]:
    """Return the inputs of an endpoint for an image or a text.

    An endpoint that needs both gets a plain image or text as the other one.
    """
    if endpoint in ("retrieval", "embed"):
        return {"text": strings(words)} if image is None else {"image": strings(image)}
    arrays = {
        "image": strings(encoded(scene()) if image is None else image),
        "text": strings(b"red above blue" if words is None else words),
    }
    if endpoint == "compare":
        return {**arrays, "second_image": strings(encoded(scene(40)))}
    if endpoint == "classify":
        return {"image": arrays["image"], "labels": row([arrays["text"].item(), b"a zebra"])}
    return arrays

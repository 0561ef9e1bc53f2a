"""Requests to the endpoints: photo-sized images and short sentences, generated from seeds."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from albef.serving.requests import Request
from albef.tasks.classify import client as classify
from albef.tasks.embed import client as embed
from albef.tasks.entailment import client as entailment
from albef.tasks.grounding import client as grounding
from albef.tasks.nlvr2 import client as nlvr2
from albef.tasks.retrieval import client as retrieval
from albef.tasks.vqa import client as vqa

COLORS = ("red", "green", "blue", "black", "white", "yellow", "orange", "purple", "brown", "gray")
THINGS = (
    *("dog", "cat", "horse", "bird", "fish", "apple", "banana", "pear", "car", "bus"),
    *("train", "boat", "house", "tree", "flower", "book", "clock", "cup", "chair", "table"),
    *("man", "woman", "boy", "girl", "hat", "shoe", "ball", "kite", "bed", "lamp"),
)
PLACES = ("left of", "right of", "above", "below", "behind", "in front of", "next to", "on")
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIZE = (640, 480)
"""Image size in COCO."""


def make_image(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """Return a JPEG file of smooth colors with noise, unique per seed."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + generator.integers(-12, 13, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def mirrored(image: bytes) -> bytes:
    """Return the mirror image of a file."""
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, "JPEG", quality=85)
    return file.getvalue()


def sentence(seed: int) -> str:
    """Return a caption of eight to ten words."""
    choose = random.Random(seed).choice
    return f"a {choose(COLORS)} {choose(THINGS)} {choose(PLACES)} {choose(COUNTS)} {choose(COLORS)} {choose(THINGS)}s"


def question(seed: int) -> str:
    """Return a question of seven to nine words."""
    choose = random.Random(seed).choice
    return f"what is {choose(PLACES)} the {choose(COLORS)} {choose(THINGS)}"


@dataclass(frozen=True)
class Kind:
    """Kind of request.

    Args:
        endpoint: Name of the endpoint.
        make: Function from an image file and a seed for the text to the request.
    """

    name: str
    endpoint: str
    make: Callable[[bytes, int], Request[Any]]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("retrieval-text", "retrieval", lambda image, seed: retrieval.request(texts=[sentence(seed)])),
        Kind("retrieval-image", "retrieval", lambda image, seed: retrieval.request(images=[image])),
        Kind("vqa", "vqa", lambda image, seed: vqa.request(image, [question(seed)])),
        Kind("entailment", "entailment", lambda image, seed: entailment.request(image, [sentence(seed)])),
        Kind("grounding", "grounding", lambda image, seed: grounding.request(image, [sentence(seed)])),
        Kind("compare", "compare", lambda image, seed: nlvr2.request(image, mirrored(image), [sentence(seed)])),
        Kind("embed-text", "embed", lambda image, seed: embed.request(texts=[sentence(seed)])),
        Kind("embed-image", "embed", lambda image, seed: embed.request(images=[image])),
        Kind("classify", "classify", lambda image, seed: classify.request(image, COLORS, ["a photo of a {} thing"])),
    )
}
"""Kinds of requests by name."""


class Questions:
    """Cyclic sequence of distinct requests of one kind.

    Args:
        count: Number of requests; higher indices start over.
    """

    def __init__(self, kind: Kind, count: int, size: tuple[int, int] = SIZE) -> None:
        self.kind = kind
        self._requests = [kind.make(_cached_image(number, size), number) for number in range(count)]

    def __getitem__(self, number: int) -> Request[Any]:
        return self._requests[number % len(self._requests)]


_cached_image = functools.lru_cache(maxsize=4096)(make_image)
"""Images are shared by all kinds of requests."""

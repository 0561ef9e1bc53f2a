"""Questions to the endpoints: pictures of a camera's size and short sentences, each from its own seed."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from albef.serving import protocol, requests
from albef.serving.requests import Call

COLOURS = ("red", "green", "blue", "black", "white", "yellow", "orange", "purple", "brown", "grey")
THINGS = (
    *("dog", "cat", "horse", "bird", "fish", "apple", "banana", "pear", "car", "bus"),
    *("train", "boat", "house", "tree", "flower", "book", "clock", "cup", "chair", "table"),
    *("man", "woman", "boy", "girl", "hat", "shoe", "ball", "kite", "bed", "lamp"),
)
PLACES = ("left of", "right of", "above", "below", "behind", "in front of", "next to", "on")
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SIZE = (640, 480)
"""Of a picture: what COCO's have."""


def picture(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG file of smooth colours with some noise, which no other seed gives."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + generator.integers(-12, 13, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


def sentence(seed: int) -> str:
    """A caption of eight to ten words."""
    choose = random.Random(seed).choice
    return f"a {choose(COLOURS)} {choose(THINGS)} {choose(PLACES)} {choose(COUNTS)} {choose(COLOURS)} {choose(THINGS)}s"


def question(seed: int) -> str:
    """A question of seven to nine words."""
    choose = random.Random(seed).choice
    return f"what is {choose(PLACES)} the {choose(COLOURS)} {choose(THINGS)}"


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Args:
        endpoint: Who answers it.
        make: From a picture's file and a seed for words to the request.
    """

    name: str
    endpoint: str
    make: Callable[[bytes, int], Call[Any]]


def _by_text(image: bytes, seed: int) -> Call[Any]:
    return requests.retrieval(protocol.ENDPOINT_TEXT, [sentence(seed).encode()], protocol.DEFAULT_K, True)


def _by_image(image: bytes, seed: int) -> Call[Any]:
    return requests.retrieval(protocol.ENDPOINT_IMAGE, [image], protocol.DEFAULT_K, True)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("retrieval-text", protocol.RETRIEVAL.name, _by_text),
        Kind("retrieval-image", protocol.RETRIEVAL.name, _by_image),
        Kind(
            "vqa", protocol.VQA.name, lambda i, s: requests.vqa(i, [question(s)], protocol.DEFAULT_ANSWERS, None, None)
        ),
        Kind("entailment", protocol.ENTAILMENT.name, lambda i, s: requests.entailment(i, [sentence(s)])),
        Kind("grounding", protocol.GROUNDING.name, lambda i, s: requests.grounding(i, [sentence(s)], None)),
    )
}
"""What a benchmark asks, by name."""


class Questions:
    """A stock of requests of one kind, all different; asked in turn.

    Args:
        count: Of the stock; a longer run starts over.
        seed: Where its seeds begin.
    """

    def __init__(self, kind: Kind, count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
        self.kind = kind
        self._stock = [kind.make(_picture(seed + number, size), seed + number) for number in range(count)]

    def __getitem__(self, number: int) -> Call[Any]:
        return self._stock[number % len(self._stock)]

    def __len__(self) -> int:
        return len(self._stock)


_picture = functools.lru_cache(maxsize=4096)(picture)
"""Kinds share pictures."""

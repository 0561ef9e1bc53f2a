"""Inputs of the parity gate: images, texts and answers at many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tokenizers import Tokenizer

from albef.data.images import to_pixels
from albef.data.tokenizer import Encoder
from albef.models.albef import ALBEF
from albef.serving import protocol

BATCHES = (1, 3, 2, 7, 4, 5)
"""Batch sizes of successive cases; tracing uses a batch of 2."""


def random_drawing(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw random ellipses; unlike noise, they have edges and uniform areas."""
    image = Image.new("RGB", (size * 2, size), tuple(int(v) for v in rng.integers(256, size=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = (int(v) for v in rng.integers(size, size=2))
        color = tuple(int(v) for v in rng.integers(256, size=3))
        draw.ellipse((x, y, x + size // 2, y + size // 3), fill=color)
    return image


def lengths(limit: int) -> list[int]:
    """Return text lengths from 1 to the model's maximum."""
    return sorted({length for length in (1, 2, 5, 8, 13, limit // 2, limit) if 1 <= length <= limit})


def text_inputs(
    rng: np.random.Generator, tokenizer: Tokenizer, model: ALBEF, batch: int, length: int, words: bool
) -> dict[str, NDArray[np.int64]]:
    """Return ids and mask ``(batch, length)`` of texts of different lengths.

    Texts are padded on the right.

    Args:
        words: Whether to tokenize words of the vocabulary rather than draw ids.
    """
    ids = rng.integers(model.vocab_size, size=(batch, length))
    mask = np.ones((batch, length), dtype=np.int64)
    if words:
        vocabulary = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
        for row in range(batch):
            text = " ".join(rng.choice(vocabulary, size=max(length, 1))) if vocabulary else ""
            ids[row] = (tokenizer.encode(text).ids + [0] * length)[:length]
    for row in range(1, batch):
        kept = int(rng.integers(1, length + 1))
        mask[row, kept:] = 0
    ids[mask == 0] = tokenizer.token_to_id("[PAD]") or 0
    return {protocol.INPUT_IDS: ids.astype(np.int64), protocol.ATTENTION_MASK: mask}


def answer_inputs(
    rng: np.random.Generator, tokenizer: Tokenizer, model: ALBEF, batch: int
) -> dict[str, NDArray[np.int64]]:
    """Return ids and mask ``(batch, C, A)`` of candidates of different lengths.

    Some candidates are padding only.
    """
    count, length = int(rng.integers(1, 8)), int(rng.integers(2, 9))
    ids = rng.integers(model.vocab_size, size=(batch, count, length))
    mask = (np.arange(length) < rng.integers(2, length + 1, size=(batch, count, 1))).astype(np.int64)
    if count > 1:
        mask[0, -1] = 0
    encoder = Encoder(tokenizer)
    ids[..., 0] = encoder.cls
    ids[mask == 0] = encoder.pad
    return {protocol.ANSWER_IDS: ids.astype(np.int64), protocol.ANSWER_MASK: mask}


def second_images(image_embeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return second images ``(B, N, W)`` for given image tokens.

    They differ from the given ones even in a batch of 1.
    """
    return np.ascontiguousarray(-image_embeds[::-1])


def build(model: ALBEF, tokenizer: Tokenizer, samples: int, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """Return cases with all inputs of the encoders and the decoder.

    Cases alternate between noise with random ids and drawings with tokenized words.

    Args:
        samples: Number of cases in addition to one per text length.
    """
    rng = np.random.default_rng(seed)
    size, limit = model.config.image_size, model.config.text.max_positions
    text_lengths = lengths(limit)
    cases: list[dict[str, NDArray[Any]]] = []
    for index in range(samples + len(text_lengths)):
        batch, realistic = BATCHES[index % len(BATCHES)], bool(index % 2)
        length = text_lengths[index] if index < len(text_lengths) else int(rng.integers(1, limit + 1))
        pixels: NDArray[Any] = rng.standard_normal((batch, 3, size, size)).astype(np.float32)
        if realistic:
            pixels = np.stack([to_pixels(random_drawing(rng, size), size) for _ in range(batch)])
        case = {protocol.PIXEL_VALUES: pixels, **text_inputs(rng, tokenizer, model, batch, length, realistic)}
        if model.architecture.decoder:
            case |= answer_inputs(rng, tokenizer, model, batch)
        cases.append(case)
    return cases

"""Model inputs from image files and texts, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from albef.config import TrainConfig
from albef.data.images import ImageSource, load_image, to_pixels
from albef.models.albef import ALBEF
from albef.models.bert import KeysValues

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@contextmanager
def evaluating(model: ALBEF, train: TrainConfig) -> Iterator[torch.device]:
    """Switch to evaluation mode and training precision; restore the mode on exit.

    Yields:
        The device of the model.
    """
    training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            yield model.device
    finally:
        model.train(training)


def pixels_of(images: Sequence[ImageSource], size: int, device: torch.device) -> Tensor:
    """Load images as pixels ``(B, 3, size, size)``.

    Raises:
        ImageError: If an image cannot be read; the message names its file.
    """
    return torch.from_numpy(np.stack([to_pixels(load_image(image), size) for image in images])).to(device)


def words_of(texts: Sequence[str], encoder: Encoder, train: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokenize texts as ids and mask ``(B, L)``, truncated as in training."""
    ids, mask = encoder.encode_batch(
        list(texts), max_tokens=train.eval_tokens or train.max_tokens, max_words=train.max_words
    )
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def distinct(images: Sequence[tuple[Path, ...]]) -> tuple[list[Path], list[tuple[int, ...]]]:
    """Return the distinct image files of rows, sorted, and the indices of each row's files."""
    paths = sorted({path for row in images for path in row})
    index = {path: number for number, path in enumerate(paths)}
    return paths, [tuple(index[path] for path in row) for row in images]


def by_image(images: Sequence[tuple[int, ...]], batch: int) -> Iterator[tuple[list[int], list[int]]]:
    """Batch rows by image.

    An image of several rows is then encoded only once (spec: VQA and VE evaluation).

    Args:
        images: Indices of the images of each row.
        batch: Minimum batch size. The rows of an image stay in one batch until it has ``4 * batch`` rows.

    Yields:
        Row indices and distinct image indices of a batch.
    """
    order = sorted(range(len(images)), key=lambda row: (images[row], row))
    rows: list[int] = []
    for position, row in enumerate(order):
        rows.append(row)
        last = position + 1 == len(order)
        same = not last and images[order[position + 1]] == images[row]
        if last or (len(rows) >= batch and (not same or len(rows) >= 4 * batch)):
            yield rows, list(dict.fromkeys(image for r in rows for image in images[r]))
            rows = []


def keys_values_by_image(
    model: ALBEF, images: Sequence[ImageSource], image_rows: Sequence[tuple[int, ...]], batch: int
) -> Iterator[tuple[list[int], list[KeysValues], Tensor]]:
    """Encode images in batches of rows; see `by_image`.

    Args:
        image_rows: Indices of the images of each row.

    Yields:
        Row indices of a batch, the keys and values of its distinct images for each fusion layer, and the index among
        them of each row's images, ``(rows, images of a row)``.
    """
    for rows, distinct_images in by_image(image_rows, batch):
        position = {image: index for index, image in enumerate(distinct_images)}
        pixels = pixels_of([images[image] for image in distinct_images], model.config.image_size, model.device)
        places = torch.tensor([[position[image] for image in image_rows[row]] for row in rows], device=model.device)
        yield rows, model.student.fusion.keys_values(model.student.vision(pixels)), places

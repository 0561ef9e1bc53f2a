"""Model inputs from images and texts, for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from albef import distributed
from albef.config import TrainConfig
from albef.data.images import ImageError, ImageSource, StoredImage, load_image, to_bytes
from albef.models.albef import ALBEF
from albef.models.bert import KeysValues
from albef.progress import Progress

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder

T = TypeVar("T")
R = TypeVar("R")


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


def pixels_of(images: Sequence[ImageSource], size: int) -> Tensor:
    """Load images as bytes ``(B, 3, size, size)``.

    Raises:
        ImageError: If an image cannot be read; the message names its file.
    """
    return torch.from_numpy(np.stack([to_bytes(load_image(image), size) for image in images]))


class _Results(Dataset[R | ImageError]):
    """Results of a function, computed when they are read.

    Errors are results, too: a loading process that raised one would wrap it.
    """

    def __init__(self, function: Callable[[T], R], items: Sequence[T]) -> None:
        self.function, self.items = cast(Callable[[Any], R], function), items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> R | ImageError:
        try:
            return self.function(self.items[index])
        except ImageError as error:
            return error


def loaded(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yield the result of a function for each item, in order.

    Args:
        workers: Processes that compute results ahead; 0 computes them in this one.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    bar = partial(Progress, total=len(items), description="images", unit="batches", keep=False)
    enabled = distributed.rank() == 0
    if workers == 0:
        yield from bar(map(function, items), enabled=enabled)
        return
    # A generator of its own, since the loader draws a seed: evaluation must not change the training that follows.
    loader = DataLoader(
        _Results(function, items),
        batch_size=None,
        collate_fn=_as_is,
        num_workers=min(workers, len(items)),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
    for result in bar(loader, enabled=enabled):
        if isinstance(result, ImageError):
            raise result
        yield result


def _as_is(result: R) -> R:
    return result


def words_of(texts: Sequence[str], encoder: Encoder, train: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokenize texts as ids and mask ``(B, L)``, truncated as in training."""
    ids, mask = encoder.encode_batch(
        list(texts), max_tokens=train.eval_tokens or train.max_tokens, max_words=train.max_words
    )
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def distinct(images: Sequence[tuple[StoredImage, ...]]) -> tuple[list[StoredImage], list[tuple[int, ...]]]:
    """Return the distinct images of rows, sorted by path, and the indices of each row's images."""
    found = sorted({image for row in images for image in row})
    index = {image: number for number, image in enumerate(found)}
    return found, [tuple(index[image] for image in row) for row in images]


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
    model: ALBEF, images: Sequence[ImageSource], image_rows: Sequence[tuple[int, ...]], batch: int, workers: int
) -> Iterator[tuple[list[int], list[KeysValues], Tensor]]:
    """Encode images in this rank's share of the batches of rows; see `by_image`.

    Batches do not depend on the number of ranks, nor do results.

    Args:
        image_rows: Indices of the images of each row.
        workers: Processes that load images.

    Yields:
        Row indices of a batch, the keys and values of its distinct images for each fusion layer, and the index among
        them of each row's images, ``(rows, images of a row)``.
    """
    batches = distributed.share(list(by_image(image_rows, batch)))
    sources = [[images[image] for image in distinct_images] for _, distinct_images in batches]
    pixels = loaded(partial(pixels_of, size=model.config.image_size), sources, workers)
    for (rows, distinct_images), bytes_ in zip(batches, pixels, strict=True):
        position = {image: index for index, image in enumerate(distinct_images)}
        places = torch.tensor([[position[image] for image in image_rows[row]] for row in rows], device=model.device)
        embeds = model.student.vision(bytes_.to(model.device, non_blocking=True))
        yield rows, model.student.fusion.keys_values(embeds), places

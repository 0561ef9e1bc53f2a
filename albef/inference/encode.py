"""Pictures and texts as model inputs, for every evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from albef.config import TrainConfig
from albef.data.images import open_image, to_pixels
from albef.models.albef import ALBEF

if TYPE_CHECKING:
    from albef.data.tokenizer import Encoder


@contextmanager
def evaluating(model: ALBEF, train: TrainConfig) -> Iterator[torch.device]:
    """Evaluation mode in the precision of training; gives the device and puts the mode back."""
    training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            yield model.device
    finally:
        model.train(training)


def pixels_of(paths: Sequence[Path], size: int, device: torch.device) -> Tensor:
    """Pixels ``(B, 3, size, size)`` of picture files.

    Raises:
        ImageError: If one cannot be read; the message names the file.
    """
    return torch.from_numpy(np.stack([to_pixels(open_image(path), size) for path in paths])).to(device)


def words_of(texts: Sequence[str], encoder: Encoder, train: TrainConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``(B, L)``, cut as in training."""
    ids, mask = encoder.encode_batch(list(texts), max_tokens=train.max_tokens, max_words=train.max_words)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def by_image(images: Sequence[tuple[Path, ...]], batch: int) -> Iterator[tuple[list[int], list[Path]]]:
    """Batches of rows and the distinct pictures they need, rows of one picture together.

    A picture that many rows speak of is then encoded once (spec: VQA and VE evaluation).

    Args:
        images: Of each row.
        batch: Rows of a batch; the rows of one picture are never parted, unless they alone are more.

    Yields:
        Rows and pictures; each batch's pictures are distinct.
    """
    order = sorted(range(len(images)), key=lambda row: (images[row], row))
    part: list[int] = []
    for place, row in enumerate(order):
        part.append(row)
        last = place + 1 == len(order)
        same = not last and images[order[place + 1]] == images[row]
        if last or (len(part) >= batch and (not same or len(part) >= 4 * batch)):
            yield part, list(dict.fromkeys(path for r in part for path in images[r]))
            part = []

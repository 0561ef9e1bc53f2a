"""Readability, size and content hash of every image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from albef.data.images import ImageError, StoredImage, load_image
from albef.data.lists import Images


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Size and content hash of an image file.

    ``problem`` is the reason why the image cannot be used, with the other fields unset.
    """

    width: int
    height: int
    digest: bytes
    problem: str | None


def collect(paths: Iterable[str], images: Images) -> dict[str, ImageStats]:
    """Decode every image once and return its stats by path.

    Args:
        paths: Paths as in the lists.
        images: Images of the data set.
    """
    unique = set(paths)
    # Threads suffice, as Pillow and hashlib release the interpreter lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        stats = pool.map(lambda image: (image.path, _stats(image)), images.select(unique))
        return dict(tqdm(stats, total=len(unique), desc="images", unit="image", disable=None))


def _stats(stored: StoredImage) -> ImageStats:
    try:
        image = load_image(stored)
    except ImageError as error:
        return ImageStats(0, 0, b"", str(error))
    # A hash of the pixels rather than the file, as the same image leaks under another compression, too.
    content = hashlib.blake2b(image.tobytes(), digest_size=16)
    content.update(f"{image.width}x{image.height}".encode())
    return ImageStats(image.width, image.height, content.digest(), None)

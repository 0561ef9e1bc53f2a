"""Readability, size and content hash of every image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from albef.data.images import ImageError, open_image


@dataclass(frozen=True, slots=True)
class ImageStats:
    """Size and content hash of an image file.

    ``problem`` is the reason why the image cannot be used, with the other fields unset.
    """

    width: int
    height: int
    digest: bytes
    problem: str | None


def collect(paths: Iterable[str], root: Path) -> dict[str, ImageStats]:
    """Decode every image once and return its stats by path.

    Args:
        paths: Paths as in the lists, relative to ``root`` or absolute.
    """
    unique = sorted(set(paths))
    # Threads suffice, as Pillow and hashlib release the interpreter lock.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        stats = pool.map(lambda path: _stats(root / path), unique)
        progress = tqdm(stats, total=len(unique), desc="images", unit="image", disable=None)
        return dict(zip(unique, progress, strict=True))


def _stats(path: Path) -> ImageStats:
    try:
        image = open_image(path)
    except ImageError as error:
        return ImageStats(0, 0, b"", str(error))
    # A hash of the pixels rather than the file, as the same image leaks under another compression, too.
    content = hashlib.blake2b(image.tobytes(), digest_size=16)
    content.update(f"{image.width}x{image.height}".encode())
    return ImageStats(image.width, image.height, content.digest(), None)

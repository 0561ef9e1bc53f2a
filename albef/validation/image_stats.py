"""What the gate knows of every picture: whether it decodes, how large it is, what its content is."""

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
class Picture:
    """Facts of one file; ``problem`` says why it cannot be used, and nothing else is known then."""

    width: int
    height: int
    digest: bytes
    problem: str | None


def inspect(paths: Iterable[str], root: Path) -> dict[str, Picture]:
    """Decode every picture once.

    Args:
        paths: As the lists write them, relative to ``root`` or absolute.
    """
    unique = sorted(set(paths))
    # Pillow and hashlib release the interpreter lock while they work.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        facts = pool.map(lambda path: _look(root / path), unique)
        return dict(
            zip(unique, tqdm(facts, total=len(unique), desc="pictures", unit="image", disable=None), strict=True)
        )


def _look(path: Path) -> Picture:
    try:
        image = open_image(path)
    except ImageError as error:
        return Picture(0, 0, b"", str(error))
    # The digest of pixels, not of the file: the same picture under another compression leaks as well.
    content = hashlib.blake2b(image.tobytes(), digest_size=16)
    content.update(f"{image.width}x{image.height}".encode())
    return Picture(image.width, image.height, content.digest(), None)

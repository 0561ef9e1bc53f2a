"""Output of `albef prepare`: tables of lists and images."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

from PIL import Image

from albef.data.files import write_list
from albef.data.images import ImageError, decode
from albef.data.lists import IMAGE_FOLDER
from albef.data.schema import images_of, known_lists, problems
from albef.data.tables import SUFFIX, ImageWriter, RecordWriter
from albef.io import file_hash

JPEG_QUALITY = 95
"""Quality of images that were shrunk; others keep their bytes."""
_READ_AHEAD = 64
"""Images in memory at the same time."""

T = TypeVar("T")
R = TypeVar("R")


def digest_line(path: str, data: bytes | None) -> bytes:
    """Return what an image adds to the hash of all images."""
    return f"{path}\0{hashlib.sha256(data).hexdigest() if data is not None else 'missing'}\n".encode()


class ListWriter(AbstractContextManager["ListWriter"]):
    """Writes lists."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lists: dict[str, RecordWriter] = {}

    def __enter__(self) -> Self:
        return self

    def list(self, name: str) -> None:
        """Create a list, which may stay empty."""
        self.lists[name] = RecordWriter(self.out / f"{name}{SUFFIX}")

    def record(self, name: str, record: Any, images: Sequence[int], source: str | None = None) -> None:
        """Add a record of a list; see `RecordWriter.add`."""
        if name not in self.lists:
            self.list(name)
        self.lists[name].add(record, images, source)

    def __exit__(self, *error: Any) -> None:
        for writer in self.lists.values():
            writer.__exit__(*error)

    def manifest(self) -> dict[str, Any]:
        """Return rows and hash by list.

        Call it after the end of writing.
        """
        lists = {
            name: {"rows": writer.rows, "sha256": file_hash(self.out / f"{name}{SUFFIX}")}
            for name, writer in self.lists.items()
        }
        return {"lists": lists}


class Writer(ListWriter):
    """Writes lists and images."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.digest = hashlib.sha256()
        self.images = ImageWriter(out / IMAGE_FOLDER)

    def image(self, path: str, data: bytes | None) -> int:
        """Add an image and return its row; see `ImageWriter.add`."""
        self.digest.update(digest_line(path, data))
        return self.images.add(path, data)

    def __exit__(self, *error: Any) -> None:
        self.images.__exit__(*error)
        super().__exit__(*error)

    def manifest(self) -> dict[str, Any]:
        """Return rows and hash by list, and number and hash of the images; see `ListWriter.manifest`."""
        return super().manifest() | {"images": {"count": self.images.rows, "sha256": self.digest.hexdigest()}}


def write(
    out: Path,
    lists: Mapping[str, Any],
    images: Iterable[tuple[str, bytes | None]],
) -> dict[str, Any]:
    """Write a data set.

    Args:
        out: Folder to write.
        lists: Records by list, and the JSON values of the other files.
        images: Paths in the lists, ascending, with encoded bytes; None for a missing file.

    Returns:
        Entries of the manifest: rows and hash by list, number and hash of the images.
    """
    others = {}
    with Writer(out) as writer:
        rows = {path: writer.image(path, data) for path, data in images}
        for name, records in lists.items():
            if name not in known_lists():
                others[name] = write_list(out / f"{name}.json", records)
                continue
            writer.list(name)
            for record in records:
                writer.record(name, record, _image_rows(record, known_lists()[name], rows))
    manifest = writer.manifest()
    return {**manifest, "lists": manifest["lists"] | others}


def _image_rows(record: Any, kind: str, rows: Mapping[str, int]) -> list[int]:
    # The images of a malformed record are unknown; `albef validate` reports it.
    return [] if problems(record, kind) else [rows[path] for path in images_of(record)]


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Yield each item and what ``work`` returns for it, in order.

    A number of items are in memory. Threads suffice: files are waited for, and Pillow releases the interpreter lock
    while it shrinks an image.
    """
    ahead: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) == _READ_AHEAD:
                first, result = ahead.popleft()
                yield first, result.result()
        for first, result in ahead:
            yield first, result.result()


def shrink(data: bytes, side: int) -> bytes:
    """Shrink an image to ``side`` pixels on its longer side, as a JPEG of quality `JPEG_QUALITY`.

    Smaller images and those that cannot be read are returned unchanged.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) <= side:
                return data
        whole = decode(data)
    except (ImageError, OSError, ValueError, Image.DecompressionBombError):
        return data
    scale = side / max(whole.size)
    size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
    target = io.BytesIO()
    whole.resize(size, Image.Resampling.BICUBIC).save(target, "JPEG", quality=JPEG_QUALITY)
    return target.getvalue()

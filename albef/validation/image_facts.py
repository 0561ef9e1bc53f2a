"""Facts of images: readability, size, format, hashes."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.data.images import ImageError, opened, to_rgb
from albef.data.lists import IMAGE_FOLDER
from albef.data.tables import ImageTable
from albef.validation.perceptual_hash import CELLS, signatures, thumbnail

if TYPE_CHECKING:
    import pyarrow as pa

_OPEN_ROWS = 50_000


@cache
def schema() -> pa.Schema:
    """Return the columns of facts.

    Those after ``bytes``, but for ``problem``, are null for an image that cannot be read. ``pixels`` is a hash of the
    decoded pixels, ``hash`` and ``colors`` are those of `albef.validation.perceptual_hash.signatures`, and ``problem``
    is the reason why the image cannot be read.
    """
    import pyarrow as pa

    columns = {
        "row": pa.int64(),
        "path": pa.string(),
        "bytes": pa.int64(),
        "format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "pixels": pa.binary(16),
        "hash": pa.uint64(),
        "colors": pa.binary(3 * CELLS * CELLS),
        "problem": pa.string(),
    }
    return pa.schema(list(columns.items()))


def of_rows(data: Path, version: str, start: int, stop: int) -> pa.Table:
    """Return the facts of the images in rows ``start`` to ``stop`` of a prepared data set.

    Args:
        version: Identifies the content of ``data``, whose tables stay open.
    """
    import pyarrow as pa

    rows, thumbnails = list[dict[str, Any]](), list[bytes]()
    for row, (path, content) in enumerate(_table(data, version, start // _OPEN_ROWS).between(start, stop), start):
        facts, small = _facts(path, content)
        rows.append({"row": row, "path": path, **facts})
        if small is not None:
            thumbnails.append(small)
    readable = [row for row in rows if "problem" not in row]
    for facts, value, hashed, colors in zip(readable, *signatures(thumbnails), strict=True):
        facts |= {"hash": int(value) if hashed else None, "colors": colors.tobytes()}
    return pa.Table.from_pylist(rows, schema())


@lru_cache(maxsize=1)
def _table(data: Path, version: str, period: int) -> ImageTable:
    """Return the images, opened anew for each period: closing a mapped file gives back its memory."""
    return ImageTable(data / IMAGE_FOLDER)


def _facts(path: str, data: bytes | None) -> tuple[dict[str, Any], bytes | None]:
    """Return the facts of an image but its signature, and its thumbnail.

    An image that cannot be read has none.
    """
    if data is None:
        return {"problem": f"{path}: no such image was prepared"}, None
    try:
        with opened(data, name=path) as image:
            kind = image.format
            image.load()
            rgb = to_rgb(image, path)
    except ImageError as error:
        return {"bytes": len(data), "problem": str(error)}, None
    # A hash of the pixels rather than the file, as the same image leaks under another compression, too.
    pixels = hashlib.blake2b(rgb.tobytes(), digest_size=16)
    pixels.update(f"{rgb.width}x{rgb.height}".encode())
    facts = {"bytes": len(data), "format": kind, "width": rgb.width, "height": rgb.height, "pixels": pixels.digest()}
    return facts, thumbnail(rgb)

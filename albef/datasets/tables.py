"""Output of `albef prepare`: tables of lists and images."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from albef.data.files import write_list
from albef.data.images import ImageError, decode
from albef.data.lists import IMAGE_FOLDER
from albef.data.schema import images_of, known_lists, problems
from albef.data.tables import SUFFIX, ImageWriter, write_records
from albef.io import file_hash

JPEG_QUALITY = 95
"""Quality of images that were shrunk; others keep their bytes."""


def write(out: Path, lists: Mapping[str, Any], images: Iterable[tuple[str, bytes | None]]) -> dict[str, Any]:
    """Write a data set.

    Args:
        out: Folder to write.
        lists: Records by list, and the JSON values of the other files.
        images: Paths in the lists, ascending, with encoded bytes; None for a missing file.

    Returns:
        Entries of the manifest: rows and hash by list, number and hash of the images.
    """
    digest, rows = hashlib.sha256(), dict[str, int]()
    with ImageWriter(out / IMAGE_FOLDER) as writer:
        for path, data in images:
            rows[path] = writer.add(path, data)
            digest.update(f"{path}\0{hashlib.sha256(data).hexdigest() if data is not None else 'missing'}\n".encode())
    entries = {}
    for name, records in lists.items():
        if name not in known_lists():
            entries[name] = write_list(out / f"{name}.json", records)
            continue
        file, kind = out / f"{name}{SUFFIX}", known_lists()[name]
        count = write_records(file, ((record, _image_rows(record, kind, rows)) for record in records))
        entries[name] = {"rows": count, "sha256": file_hash(file)}
    return {"lists": entries, "images": {"count": len(rows), "sha256": digest.hexdigest()}}


def _image_rows(record: Any, kind: str, rows: Mapping[str, int]) -> list[int]:
    # The images of a malformed record are unknown; `albef validate` reports it.
    return [] if problems(record, kind) else [rows[path] for path in images_of(record)]


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

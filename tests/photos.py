"""Photos with captions, in the formats of sources, shared by the tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def photo(number: int, size: tuple[int, int] = (40, 40), kind: str = "JPEG") -> bytes:
    """Return an encoded image of a color of its own."""
    file = io.BytesIO()
    color = (number * 37 % 256, number * 91 % 256, number * 17 % 256)
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def write_photos(folder: Path, count: int = 60, suffix: str = ".jpg") -> Path:
    """Write photos ``000.jpg`` and so on."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:03}{suffix}").write_bytes(photo(number))
    return folder


def csv_text(count: int = 60, header: str = "file_name,text") -> str:
    """Return the captions of `write_photos` as CSV."""
    return header + "\n" + "".join(f"{number:03}.jpg,a photo of thing {number}\n" for number in range(count))


def write_tar(path: Path, samples: Iterable[Mapping[str, bytes]], start: int = 0) -> Path:
    """Write a tar file of samples, the files of each by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples, start):
            for suffix, data in sample.items():
                member = tarfile.TarInfo(f"{number:09}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def sample(number: int) -> dict[str, bytes]:
    """Return the files of a sample as img2dataset writes them."""
    notes = {"caption": f"thing {number}", "url": "http://x", "key": f"{number:09}", "status": "success", "width": 40}
    return {"jpg": photo(number), "txt": f"thing {number}".encode(), "json": json.dumps(notes).encode()}


def write_parquet(path: Path, count: int = 60, failed: Iterable[int] = (), **renamed: str) -> Path:
    """Write a Parquet file as img2dataset does, with columns renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bad = set(failed)
    columns: dict[str, Any] = {
        "jpg": [None if n in bad else photo(n) for n in range(count)],
        "caption": [f"thing {n}" for n in range(count)],
        "url": ["http://x"] * count,
        "key": [f"{n:09}" for n in range(count)],
        "error_message": ["timeout" if n in bad else None for n in range(count)],
    }
    pq.write_table(pa.table({renamed.get(name, name): values for name, values in columns.items()}), path)
    return path

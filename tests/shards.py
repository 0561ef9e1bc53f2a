"""Shards of image-text pairs, as img2dataset writes them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Pair = tuple[str, bytes | None, str | None]
"""Key, image and caption."""
WORDS = ("red", "green", "blue", "white", "black", "yellow", "purple", "orange")


def pairs(shard: int, rows: int) -> list[Pair]:
    """Return pairs whose captions name key and color."""
    found: list[Pair] = []
    for row in range(rows):
        file = io.BytesIO()
        color = WORDS[(shard + row) % len(WORDS)]
        image = Image.new("RGB", (40, 36), color)
        pattern = np.random.default_rng([shard, row]).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        image.paste(Image.fromarray(pattern).resize((24, 24), Image.Resampling.NEAREST), (8, 8))
        image.save(file, "JPEG")
        found.append((f"{shard:05}{row:04}", file.getvalue(), f"{color} {shard} {row}"))
    return found


def write_tar(path: Path, content: Sequence[Pair]) -> None:
    """Write a WebDataset file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, image, caption in content:
            record = json.dumps({"key": key, "status": "success", "caption": caption}).encode()
            text = None if caption is None else caption.encode()
            for ending, data in (("jpg", image), ("json", record), ("txt", text)):
                if data is not None:
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def write_parquet(path: Path, content: Sequence[Pair]) -> None:
    """Write a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys, images, captions = zip(*content, strict=True)
    pq.write_table(pa.table({"key": keys, "jpg": images, "caption": captions}), path, row_group_size=5)


def write_all(folder: Path, shards: int, rows: int) -> list[str]:
    """Write shards of both formats in turn, and return their paths."""
    paths = []
    for shard in range(shards):
        write, ending = ((write_tar, "tar"), (write_parquet, "parquet"))[shard % 2]
        paths.append(folder / f"{shard:05}.{ending}")
        write(paths[-1], pairs(shard, rows + shard % 3))
    return [str(path) for path in paths]


def cut_within(path: Path, member: int) -> None:
    """Truncate a WebDataset file within a file in it."""
    with tarfile.open(path) as archive:
        cut = archive.getmembers()[member].offset_data + 3
    path.write_bytes(path.read_bytes()[:cut])

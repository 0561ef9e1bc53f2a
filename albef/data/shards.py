"""Image-text pairs in shards: WebDataset (.tar) and Parquet files, local, over HTTP or on S3.

Files are read from front to back, a part at a time, as img2dataset writes them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from albef.data.images import SUFFIXES

IMAGE_COLUMNS = ("image", "jpg", "png", "jpeg", "webp")
CAPTION_COLUMNS = ("caption", "text", "txt", "captions", "sentences", "description")
FORMATS = (".tar", ".parquet")
_BLOCK = 4 << 20  # bytes of a read from a network
_ROWS = 64  # rows of a Parquet file that are decoded at a time
_PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each new attempt to read a shard."""

_logger = logging.getLogger(__name__)


class ShardError(ValueError):
    """A shard that cannot be read, or has no image or caption column."""


@dataclass(frozen=True)
class ShardSample:
    """An image and its captions.

    Args:
        number: Position in the shard.
        key: Key that the shard gives it, or shard and number.
        image: Encoded bytes; None if there are none.
        captions: None of them empty in good data.
    """

    number: int
    key: str
    image: bytes | None
    captions: list[str]


def place_of(key: str) -> float:
    """Return a number in [0, 1) that follows from a key alone.

    More data thus change no split.
    """
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def expand(pattern: str, base: Path) -> list[str]:
    """Return the shards of a pattern such as ``shards/*.tar`` or ``s3://bucket/{00000..00099}.tar``.

    Args:
        pattern: Path or URL of a file or a folder; braces are expanded, and ``*`` where files can be listed.
        base: Folder that relative paths start from.

    Raises:
        ShardError: If nothing matches, or a file is of another format.
    """
    found: list[str] = []
    for part in _braces(pattern):
        remote = "://" in part
        place = part if remote else str((base / part).absolute())  # workers start in another folder
        if remote and part.endswith(FORMATS) and not re.search(r"[*?\[]", part):
            found.append(part)  # named one by one, so there is nothing to list
            continue
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(place)
            if system.isdir(path):
                matches = [file for suffix in FORMATS for file in system.glob(f"{path}/**/*{suffix}")]
            else:
                matches = system.glob(path)
        except Exception as error:  # storage systems raise different types
            raise ShardError(f"{place}: cannot be listed ({error})") from error
        found += sorted(system.unstrip_protocol(match) if remote else str(match) for match in matches)
    wrong = [shard for shard in found if not shard.endswith(FORMATS)]
    if wrong or not found:
        got = wrong[0] if wrong else "nothing"
        raise ShardError(f"{pattern}: found {got}, expected {' or '.join(FORMATS)} files")
    return found


def _braces(pattern: str) -> Iterator[str]:
    """Yield the strings of a pattern with braces, ``{00..12}`` or ``{a,b}``."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        first, last = bounds.groups()
        inner = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        inner = match[1].split(",")
    for text in inner:
        yield from _braces(pattern[: match.start()] + text + pattern[match.end() :])


def read(shard: str, start: int = 0, image: str | None = None, caption: str | None = None) -> Iterator[ShardSample]:
    """Yield the samples of a shard; after an error, reading continues where it was.

    Args:
        shard: Path or URL.
        start: Samples to skip.
        image, caption: Columns (of a .tar file: endings of names, or keys of its JSON); None finds them by name.

    Raises:
        ShardError: If several attempts fail.
    """
    attempts = 0
    while True:
        try:
            for sample in _open(shard, start, image, caption):
                start, attempts = sample.number + 1, 0
                yield sample
            return
        except ShardError:
            raise
        except Exception as error:  # storage systems and damaged files raise different types
            # A damaged archive stays damaged, but a connection that ends too early looks the same.
            pauses = _PAUSES[:1] if isinstance(error, tarfile.ReadError) else _PAUSES
            if attempts == len(pauses):
                raise ShardError(
                    f"{shard}, sample {start}: cannot be read ({type(error).__name__}: {error})"
                ) from error
            _logger.warning("%s, sample %d: %s; trying again", shard, start, error)
        time.sleep(_PAUSES[attempts])
        attempts += 1


def _open(shard: str, start: int, image: str | None, caption: str | None) -> Iterator[ShardSample]:
    import fsspec

    system, path = fsspec.core.url_to_fs(shard)
    reader = _tar if shard.endswith(".tar") else _parquet
    with system.open(path, "rb", **({"block_size": _BLOCK} if "://" in shard else {})) as file:
        yield from reader(shard, file, start, image, caption)


def _tar(shard: str, file: Any, start: int, image: str | None, caption: str | None) -> Iterator[ShardSample]:
    images = (image,) if image else tuple(suffix[1:] for suffix in SUFFIXES)
    number, key, group = -1, None, dict[str, bytes]()
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            path = PurePosixPath(member.name)
            stem, _, ending = path.name.partition(".")
            if str(path.parent / stem) != key:
                if key is not None and number >= start:
                    yield _sample(number, key, group, images, caption)
                number, key, group = number + 1, str(path.parent / stem), {}
            content = archive.extractfile(member) if number >= start else None
            if content is not None:
                group[ending.lower()] = content.read()
    if key is not None and number >= start:
        yield _sample(number, key, group, images, caption)


def _sample(
    number: int, key: str, group: dict[str, bytes], images: tuple[str, ...], caption: str | None
) -> ShardSample:
    content = next((group[name] for name in images if name in group), None)
    endings = (caption,) if caption else ("txt", "caption", "text")
    text: Any = next((group[name] for name in endings if name in group), None)
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="replace").strip()
    elif "json" in group:
        try:
            record = json.loads(group["json"])
            text = next((record[name] for name in ((caption,) if caption else CAPTION_COLUMNS) if name in record), None)
        except (ValueError, TypeError):
            text = None
    return ShardSample(number, key, content, _texts(text))


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text if isinstance(text, str) else "" for text in values]


def _parquet(shard: str, file: Any, start: int, image: str | None, caption: str | None) -> Iterator[ShardSample]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    image = _column(shard, names, image, IMAGE_COLUMNS, "image")
    caption = _column(shard, names, caption, CAPTION_COLUMNS, "caption")
    key = next((name for name in ("key", "__key__", "id") if name in names), None)
    number = 0
    for batch in table.iter_batches(_ROWS, columns=[image, caption, *([key] if key else [])]):
        if number + len(batch) <= start:
            number += len(batch)
            continue
        for row in batch.to_pylist():
            if number >= start:
                content = row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                name = str(row[key]) if key else f"{shard}:{number}"
                yield ShardSample(number, name, content, _texts(row[caption]))
            number += 1


def _column(shard: str, names: list[str], given: str | None, usual: tuple[str, ...], what: str) -> str:
    found = next((name for name in ((given,) if given else usual) if name in names), None)
    if found is None:
        raise ShardError(
            f"{shard}: no column {given or ' or '.join(usual)} of the {what}, found {', '.join(names)}; set "
            f"prepare.pairs.{what} to one of them"
        )
    return found

"""Image-text pairs in shards: WebDataset (.tar) and Parquet files, local, over HTTP or on S3.

Files are read from front to back, a part at a time, as img2dataset writes them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from albef.data.images import SUFFIXES
from albef.data.schema import SchemaError

FORMATS = (".tar", ".parquet")
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTION_COLUMNS = ("caption", "txt", "text", "captions", "sentences", "description")
KEY_COLUMNS = ("__key__", "key")
_BLOCK = 4 << 20  # bytes of a read from a network
_ROWS = 64  # rows of a Parquet file that are decoded at a time
_PAUSES = (0.5, 2.0, 8.0)
"""Seconds before each new attempt to read a shard."""

_logger = logging.getLogger(__name__)

Row = dict[str, Any]


class ShardError(SchemaError):
    """A shard that cannot be read."""


@dataclass(frozen=True)
class ShardSample:
    """An image and its captions.

    Args:
        number: Position in the shard.
        key: Key that the shard gives it; None if it gives none.
        suffix: Suffix of the image file, as far as it is known.
        image: Encoded bytes; None if there are none.
        captions: None of them empty in good data.
    """

    number: int
    key: str | None
    suffix: str
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
        SchemaError: If a Parquet file has no such column.
    """
    attempts = 0
    while True:
        try:
            for sample in _open(shard, start, image, caption):
                start, attempts = sample.number + 1, 0
                yield sample
            return
        except SchemaError:
            raise
        except Exception as error:  # storage systems and damaged files raise different types
            # A damaged archive stays damaged, but a connection that ends too early looks the same.
            pauses = _PAUSES[:1] if isinstance(error, tarfile.ReadError) else _PAUSES
            if attempts == len(pauses):
                reason = f"{type(error).__name__}: {error}"
                raise ShardError(f"{shard}, sample {start}: cannot be read ({reason})") from error
            _logger.warning("%s, sample %d: %s; trying again", shard, start, error)
        time.sleep(_PAUSES[attempts])
        attempts += 1


def _open(shard: str, start: int, image: str | None, caption: str | None) -> Iterator[ShardSample]:
    import fsspec

    system, path = fsspec.core.url_to_fs(shard)
    # One download of a .tar file, since not all web servers serve ranges; Parquet files need them.
    streamed = shard.startswith(("http://", "https://")) and shard.endswith(".tar")
    options = {"block_size": 0 if streamed else _BLOCK} if "://" in shard else {}
    with system.open(path, "rb", **options) as file:
        if shard.endswith(".tar"):
            for number, row in tar_rows(file, start, seekable=not streamed):
                yield of_row(number, row, image, caption)
        else:
            yield from parquet_samples(file, shard, start, image, caption)


def tar_rows(file: Any, start: int = 0, content: bool = True, seekable: bool = True) -> Iterator[tuple[int, Row]]:
    """Yield number and row of each sample of a WebDataset file.

    A row has the files of the sample by suffix, the keys of its JSON file, and ``__key__``.

    Args:
        file: Open binary file, read from front to back.
        start: Samples to skip.
        content: Read the images; otherwise their bytes are empty.
        seekable: Check that the file does not end too early; an interrupted download is an error by itself.

    Raises:
        tarfile.TarError: If the file is damaged.
    """
    with tarfile.open(fileobj=file, mode="r|") as tar:
        members = (member for member in tar if member.isfile())
        groups = itertools.groupby(members, lambda member: _split_name(member.name)[0])
        for number, (key, group) in enumerate(groups):
            row: Row = {"__key__": key}
            for member in group:
                suffix = _split_name(member.name)[1]
                is_image = f".{suffix}" in SUFFIXES
                opened = tar.extractfile(member) if number >= start and (content or not is_image) else None
                data = opened.read() if opened is not None else b""
                row[suffix] = data if is_image or suffix == "json" else data.decode(errors="replace")
            if number >= start:
                yield number, {**_json_object(row.pop("json", b"")), **row}
        end = tar.offset
    # tarfile takes a header that is cut off or damaged for the end, which a block of zeros marks.
    if seekable:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("unexpected end of data")


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the suffix of a file; the first dot divides them."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, suffix.lower()


def _json_object(data: bytes) -> Row:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}  # the caption may be in the text file
    return {key: item for key, item in value.items() if isinstance(item, str | list)} if isinstance(value, dict) else {}


def of_row(number: int, row: Mapping[str, Any], image: str | None, caption: str | None) -> ShardSample:
    """Return the sample of a row of `tar_rows`; columns are found for each row by default."""
    wanted = IMAGE_COLUMNS if image is None else (image,)
    found = next((name for name in wanted if isinstance(row.get(name), bytes)), None)
    texts = next((row[name] for name in (CAPTION_COLUMNS if caption is None else (caption,)) if name in row), None)
    return ShardSample(
        number, row["__key__"], f".{found}" if found else "", row[found] if found else None, captions(texts)
    )


def parquet_samples(
    file: Any, place: object, start: int = 0, image: str | None = None, caption: str | None = None, content: bool = True
) -> Iterator[ShardSample]:
    """Yield the samples of a Parquet file.

    Args:
        file: Open binary file, or a path.
        place: Name of the file in error messages.
        start: Samples to skip.
        image, caption: Columns; found by name by default.
        content: Read the images; otherwise their bytes are empty, and all count as present.

    Raises:
        SchemaError: If a column is missing or is not of images.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        image = column(names, image, IMAGE_COLUMNS, "image", place)
        caption = column(names, caption, CAPTION_COLUMNS, "caption", place)
        columns = [caption, *(name for name in KEY_COLUMNS if name in names), *([image] if content else [])]
        number = 0
        for batch in table.iter_batches(_ROWS, columns=columns):
            if number + len(batch) <= start:
                number += len(batch)
                continue
            for row in batch.to_pylist():
                if number >= start:
                    yield of_columns(number, row, image, caption, place, content)
                number += 1


def of_columns(
    number: int, row: Mapping[str, Any], image: str, caption: str, place: object, content: bool = True
) -> ShardSample:
    """Return the sample of a row of a table.

    Images are bytes, or the structs of Hugging Face's datasets.

    Raises:
        SchemaError: If the column ``image`` is not of images.
    """
    value = row[image] if content else b""
    name = ""
    if isinstance(value, dict):
        name = str(value.get("path") or "")
        value = _linked(name) if value.get("bytes") is None and name else value.get("bytes")
    if not isinstance(value, bytes | None):
        raise SchemaError(
            f"{place}: the column {image} is not of images but {type(value).__name__}; set prepare.pairs.image to a "
            "column of encoded images, or download the images of URLs with img2dataset"
        )
    suffix = PurePosixPath(name).suffix or ("" if image not in IMAGE_COLUMNS[1:] else f".{image}")
    key = next((str(row[name]) for name in KEY_COLUMNS if row.get(name) is not None), None)
    return ShardSample(number, key, suffix, value, captions(row[caption]))


def _linked(path: str) -> bytes | None:
    """Return the bytes of an image that a row names; None if it is missing."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError:
        return None


def captions(value: Any) -> list[str]:
    """Return captions as a list; what is not text becomes empty, which `albef validate` reports."""
    values = value if isinstance(value, list) else [value]
    return [text if isinstance(text, str) else "" for text in values] or [""]


def column(names: Sequence[str], given: str | None, usual: Sequence[str], what: str, place: object) -> str:
    """Return the name of a column, as given or by its usual names.

    Raises:
        SchemaError: If there is none, or two of the same name.
    """
    wanted = [given] if given is not None else list(usual)
    by_lower_case = {name.strip().lower(): name for name in reversed(names)}
    found = [by_lower_case[name.lower()] for name in wanted if name.lower() in by_lower_case]
    if not found:
        raise SchemaError(
            f"{place}: no column for the {what}, expected {' or '.join(wanted)}, found {', '.join(names) or 'none'}; "
            f"name the column with prepare.pairs.{what}, or --{what} of `albef init-data`"
        )
    if list(names).count(found[0]) > 1:
        raise SchemaError(f"{place}: {list(names).count(found[0])} columns are named {found[0]}; rename all but one")
    return found[0]

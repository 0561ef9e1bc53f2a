"""WebDataset and Parquet files as img2dataset writes them, and data sets of the Hugging Face hub."""

from __future__ import annotations

import itertools
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from albef.config import PairsConfig
from albef.data.images import SUFFIXES
from albef.data.schema import SchemaError
from albef.datasets.photo_folder import column

HUB = "hub:"
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CAPTION_COLUMNS = ("caption", "txt", "text", "captions", "sentences", "description")
KEY_COLUMNS = ("__key__", "key")
_KINDS = (".tar", ".parquet")
_BATCH_ROWS = 64
_HEAD = 100
"""Samples of tar files whose columns are known before the first one is used."""

Sample = tuple[str | None, str, bytes | None, list[str]]
"""Key in the source, suffix of the image file, its bytes (None if there are none), captions."""


def files(path: str, raw: Path) -> list[Path] | None:
    """Return the files of a source of shards, or None for a folder of images.

    Parquet files beside a tar file or a folder of the same name are img2dataset's notes on them, and left out.

    Args:
        path: As in `PairsConfig`: a file, a folder or a pattern such as ``shards/*.tar``.
        raw: Folder that relative paths start from.

    Raises:
        SchemaError: If nothing is there, or files of both formats.
    """
    place = raw / path
    if place.is_dir():
        found = sorted(file for suffix in _KINDS for file in place.rglob(f"*{suffix}") if file.is_file())
    elif place.is_file():
        found = [place]
    else:
        base = Path(place.anchor) if place.is_absolute() else Path()
        found = sorted(base.glob(str(place.relative_to(base)))) if "*" in path else []
    if place.is_dir() and not (found := [file for file in found if not _is_note(file)]):
        return None
    kinds = {file.suffix for file in found}
    if len(kinds) != 1 or not kinds <= set(_KINDS):
        names = ", ".join(sorted({file.suffix or file.name for file in found})) or "nothing"
        raise SchemaError(
            f"prepare.pairs.path: {place}: found {names}; expected a folder of images, or either .tar or .parquet files"
        )
    return found


def _is_note(file: Path) -> bool:
    return file.suffix == ".parquet" and (file.with_suffix(".tar").is_file() or file.with_suffix("").is_dir())


def read(config: PairsConfig, found: Iterable[Path], content: bool = True) -> Iterator[Sample]:
    """Yield the samples of files.

    Args:
        found: As `files` returns them.
        content: Read the images; otherwise their bytes are empty, and all images of Parquet files count as present.

    Raises:
        SchemaError: If a file is damaged, or a column is missing.
    """
    import pyarrow as pa

    paths = list(found)
    try:
        if paths[0].suffix == ".tar":
            yield from _from_tars(config, paths, content)
            return
        for path in paths:
            yield from _from_parquet(config, path, content)
    except (tarfile.TarError, EOFError, zlib.error, pa.ArrowException, OSError) as error:
        raise SchemaError(f"prepare.pairs.path: {config.path}: damaged file ({_first_line(error)})") from error


def _from_tars(config: PairsConfig, paths: list[Path], content: bool) -> Iterator[Sample]:
    rows = (row for path in paths for row in _tar_rows(path, content))
    head = list(itertools.islice(rows, _HEAD))
    names = list(dict.fromkeys(name for row in head for name in row if not name.startswith("__")))
    wanted = {}
    for what, usual in (("image", IMAGE_COLUMNS), ("caption", CAPTION_COLUMNS)):
        given = getattr(config, what)
        column(names, given, usual, what, config.path)  # fails if no sample has one
        wanted[what] = usual if given is None else (given,)
    for row in itertools.chain(head, rows):
        image = next((name for name in wanted["image"] if isinstance(row.get(name), bytes)), None)
        texts = next((row[name] for name in wanted["caption"] if name in row), None)
        yield row["__key__"], f".{image}" if image else "", row[image] if image else None, captions(texts)


def _tar_rows(path: Path, content: bool) -> Iterator[dict[str, Any]]:
    """Yield the files of each sample by suffix, with the keys of its JSON file."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = (member for member in tar if member.isfile())
            for key, group in itertools.groupby(members, lambda member: _split_name(member.name)[0]):
                row: dict[str, Any] = {"__key__": key}
                for member in group:
                    suffix = _split_name(member.name)[1]
                    is_image = f".{suffix}" in SUFFIXES
                    opened = tar.extractfile(member) if content or not is_image else None
                    data = opened.read() if opened is not None else b""
                    row[suffix] = data if is_image or suffix == "json" else data.decode(errors="replace")
                yield {**_json_object(row.pop("json", b"")), **row}
            # tarfile takes a header that is cut off or damaged for the end, which a block of zeros marks.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
    except tarfile.TarError as error:
        raise SchemaError(f"{path}: not a complete tar file ({error}); download or write it again") from error


def _split_name(name: str) -> tuple[str, str]:
    """Return the key and the suffix of a file; the first dot divides them."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, suffix.lower()


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}  # the caption may be in the text file
    return {key: item for key, item in value.items() if isinstance(item, str | list)} if isinstance(value, dict) else {}


def _from_parquet(config: PairsConfig, path: Path, content: bool) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            image = column(names, config.image, IMAGE_COLUMNS, "image", path)
            caption = column(names, config.caption, CAPTION_COLUMNS, "caption", path)
            columns = [caption, *(name for name in KEY_COLUMNS if name in names), *([image] if content else [])]
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                yield from (_sample(row, image, caption, content, path) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        message = f"{path}: not a complete Parquet file ({_first_line(error)}); download or write it again"
        raise SchemaError(message) from error


def from_hub(config: PairsConfig) -> Iterator[Sample]:
    """Yield the rows of a data set of the hub, read over the network.

    Raises:
        SchemaError: If the data set cannot be read, or a column is missing.
    """
    import datasets

    name = config.path.removeprefix(HUB)
    if not name.strip():
        raise SchemaError(f"prepare.pairs.path: {config.path}: expected {HUB}OWNER/NAME")
    try:
        rows = datasets.load_dataset(name, config.subset, split=config.split, streaming=True).decode(False)
        names = list(rows.column_names or next(iter(rows), {}))
        image = column(names, config.image, IMAGE_COLUMNS, "image", config.path)
        caption = column(names, config.caption, CAPTION_COLUMNS, "caption", config.path)
        for row in rows:
            yield _sample(row, image, caption, True, config.path)
    except SchemaError:
        raise
    except Exception as error:  # networks, formats and missing data sets raise different types
        raise SchemaError(
            f"prepare.pairs.path: {config.path}: cannot be read as a data set of the hub, split {config.split} "
            f"({_first_line(error)})"
        ) from error


def _sample(row: Mapping[str, Any], image: str, caption: str, content: bool, place: object) -> Sample:
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
    return key, suffix, value, captions(row[caption])


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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

"""WebDataset and Parquet files as img2dataset writes them, and data sets of the Hugging Face hub."""

from __future__ import annotations

import itertools
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from albef.config import PairsConfig
from albef.data.schema import SchemaError
from albef.data.shards import (
    CAPTION_COLUMNS,
    FORMATS,
    IMAGE_COLUMNS,
    Row,
    ShardSample,
    column,
    of_columns,
    of_row,
    parquet_samples,
    tar_rows,
)

HUB = "hub:"
_HEAD = 100
"""Samples of tar files whose columns are known before the first one is used."""


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
        found = sorted(file for suffix in FORMATS for file in place.rglob(f"*{suffix}") if file.is_file())
    elif place.is_file():
        found = [place]
    else:
        base = Path(place.anchor) if place.is_absolute() else Path()
        found = sorted(base.glob(str(place.relative_to(base)))) if "*" in path else []
    if place.is_dir() and not (found := [file for file in found if not _is_note(file)]):
        return None
    kinds = {file.suffix for file in found}
    if len(kinds) != 1 or not kinds <= set(FORMATS):
        names = ", ".join(sorted({file.suffix or file.name for file in found})) or "nothing"
        raise SchemaError(
            f"prepare.pairs.path: {place}: found {names}; expected a folder of images, or either .tar or .parquet files"
        )
    return found


def _is_note(file: Path) -> bool:
    return file.suffix == ".parquet" and (file.with_suffix(".tar").is_file() or file.with_suffix("").is_dir())


def read(config: PairsConfig, found: Iterable[Path], content: bool = True) -> Iterator[ShardSample]:
    """Yield the samples of files.

    Args:
        found: As `files` returns them.
        content: Read the images; otherwise their bytes are empty, and all images of Parquet files count as present.

    Raises:
        SchemaError: If a file is damaged, or a column is missing.
    """
    import pyarrow as pa

    paths = list(found)
    path = paths[0]
    try:
        if path.suffix == ".tar":
            yield from _from_tars(config, paths, content)
            return
        for path in paths:
            try:
                yield from parquet_samples(path, path, 0, config.image, config.caption, content)
            except (pa.ArrowException, OSError) as error:
                message = f"{path}: not a complete Parquet file ({_first_line(error)}); download or write it again"
                raise SchemaError(message) from error
    except (EOFError, zlib.error, OSError) as error:
        raise SchemaError(f"prepare.pairs.path: {config.path}: damaged file ({_first_line(error)})") from error


def _from_tars(config: PairsConfig, paths: list[Path], content: bool) -> Iterator[ShardSample]:
    rows = (row for path in paths for row in _rows(path, content))
    head = list(itertools.islice(rows, _HEAD))
    names = list(dict.fromkeys(name for row in head for name in row if not name.startswith("__")))
    for what, usual in (("image", IMAGE_COLUMNS), ("caption", CAPTION_COLUMNS)):
        column(names, getattr(config, what), usual, what, config.path)  # fails if no sample has one
    for number, row in enumerate(itertools.chain(head, rows)):
        yield of_row(number, row, config.image, config.caption)


def _rows(path: Path, content: bool) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            yield from (row for _, row in tar_rows(file, content=content))
    except tarfile.TarError as error:
        raise SchemaError(f"{path}: not a complete tar file ({error}); download or write it again") from error


def from_hub(config: PairsConfig) -> Iterator[ShardSample]:
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
        for number, row in enumerate(rows):
            yield of_columns(number, row, image, caption, config.path)
    except SchemaError:
        raise
    except Exception as error:  # networks, formats and missing data sets raise different types
        raise SchemaError(
            f"prepare.pairs.path: {config.path}: cannot be read as a data set of the hub, split {config.split} "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

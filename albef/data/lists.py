"""Lists of a data set with their images, as tables or in the official formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from albef.data.images import ImageError, StoredImage, read_bytes
from albef.data.schema import Record, SchemaError, images_of, kind_of, known_lists, problems, read_list
from albef.data.tables import SUFFIX, ImageTable, RecordTable, TableError

IMAGE_FOLDER = "images"
"""Folder of the image tables in a prepared data set."""


class Images:
    """Images of a data set by their path in the lists.

    Args:
        folder: Output of `albef prepare`, with tables of images; or the folder that paths start from.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tables = folder / IMAGE_FOLDER
        self.table = ImageTable(tables) if any(tables.glob(f"*{SUFFIX}")) else None

    def find(self, path: str) -> StoredImage:
        """Return the image of a path; reading it fails if there is none."""
        if self.table is None:
            file = self.folder / path
            return StoredImage(path, str(file), partial(read_bytes, file))
        return self.at(self.table.find(path), path)

    def at(self, row: int | None, path: str) -> StoredImage:
        """Return the image in a row of the tables."""
        return StoredImage(path, f"{self.folder}: {path}", partial(self._read, row, path))

    def _read(self, row: int | None, path: str) -> bytes:
        data = None if row is None or self.table is None else self.table.read(row)
        if data is None:
            raise ImageError(f"{self.folder}: {path}: no such image was prepared")
        return data


class Rows(Sequence[Record]):
    """Records of a list, with their images.

    Args:
        records: Records, checked when they are read if they come from a table.
        images: Images of the data set.
        name: Name in error messages, usually the path of the file.
        kind: Schema of the records; see `albef.data.schema.SCHEMAS`. None does not check them.
    """

    def __init__(self, records: Sequence[Record], images: Images, name: str = "list", kind: str | None = None) -> None:
        self.records, self.store, self.kind = records, images, kind
        self.name = name

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, row: int) -> Record: ...

    @overload
    def __getitem__(self, row: slice) -> Rows: ...

    def __getitem__(self, row: int | slice) -> Record | Rows:
        if isinstance(row, slice):
            return Rows([self._checked(self.records[r], r) for r in range(len(self))[row]], self.store, self.name)
        return self._checked(self.records[row], row)

    def __iter__(self) -> Iterator[Record]:
        for row, record in enumerate(self.records):
            yield self._checked(record, row)

    def _checked(self, record: Record, row: int) -> Record:
        if self.kind is not None and (found := problems(record, self.kind)):
            raise SchemaError(f"{self.name}, row {row}, {found[0]}")
        return record

    def images(self, row: int, record: Record) -> list[StoredImage]:
        """Return the images of a record."""
        paths = images_of(record)
        if isinstance(self.records, RecordTable) and self.store.table is not None:
            numbers = self.records.images(row)
            if len(numbers) == len(paths):
                return [self.store.at(number, path) for number, path in zip(numbers, paths, strict=True)]
        return [self.store.find(path) for path in paths]

    def image_keys(self) -> Iterator[tuple[int | str, ...]]:
        """Yield what identifies the images of each record, without reading the records of a table."""
        if isinstance(self.records, RecordTable) and all(self.records.image_rows()):
            yield from map(tuple, self.records.image_rows())
        else:
            yield from (tuple(images_of(record)) for record in self)

    def sources(self) -> tuple[list[str], NDArray[np.int32]]:
        """Return names and numbers of the sources, see `RecordTable.sources`; records in memory have one."""
        if isinstance(self.records, RecordTable):
            return self.records.sources()
        return [""], np.zeros(len(self), dtype=np.int32)


def records_of(path: Path, kind: str | None = None) -> Sequence[Record]:
    """Return the records of a list, a table or a JSON file; ``kind`` as for `albef.data.schema.read_list`.

    Raises:
        SchemaError: If it cannot be read, or a record of a JSON list is malformed.
    """
    if path.suffix != SUFFIX:
        return read_list(path, kind)
    try:
        return RecordTable(path)
    except TableError as error:
        raise SchemaError(str(error)) from error


def read_rows(path: Path, images: Images) -> Rows:
    """Return the rows of a table or a JSON file; see `records_of` for errors."""
    records = records_of(path)
    return Rows(records, images, str(path), kind_of(path.stem) if isinstance(records, RecordTable) else None)


def file_of(folder: Path, name: str) -> Path:
    """Return the table of a list, or else its JSON file, whether it exists or not."""
    table = folder / f"{name}{SUFFIX}"
    return table if table.is_file() else folder / f"{name}.json"


def names_in(folder: Path) -> list[str]:
    """Return the names of the lists in a folder."""
    return [name for name in known_lists() if file_of(folder, name).is_file()]


class Lists:
    """Lists of a data set, by name.

    A list is a table, ``NAME.arrow``, or in the official format, ``NAME.json``. ``answer_list.json`` and
    ``grounding_boxes.json`` are in the same folder.

    Args:
        folder: Folder of the lists.
        images: As for `Images`.
    """

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.images = folder, Images(images)

    def __getitem__(self, name: str) -> Rows:
        """Return the rows of a list; see `read_rows` for errors."""
        return read_rows(file_of(self.folder, name), self.images)

    def __contains__(self, name: object) -> bool:
        return file_of(self.folder, str(name)).is_file()

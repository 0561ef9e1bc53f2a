"""Arrow tables of images and of records, memory-mapped.

Hugging Face datasets reads them, too: ``datasets.Dataset.from_file(path)``. A process holds no row in memory, however
long the tables are.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from albef.data.files import dump
from albef.io import write_file

if TYPE_CHECKING:  # both take their time, and JSON lists need neither
    import datasets
    import pyarrow as pa

Record = dict[str, Any]

SUFFIX = ".arrow"
_SHARD_BYTES = 1 << 30
_BATCH_BYTES = 16 << 20
_BATCH_ROWS = 10_000
_READ_ROWS = 100


class TableError(ValueError):
    """A file that is not a table of this module."""


@cache
def image_features() -> datasets.Features:
    """Return the columns of images: path and encoded bytes.

    Bytes of a missing file are null.
    """
    from datasets import Features, Image, Value

    return Features({"path": Value("string"), "image": Image(decode=False)})


@cache
def record_features() -> datasets.Features:
    """Return the columns of a list: record, rows of its images, source.

    The record is in the official format. No rows mean that they are unknown, no source that there is only one.
    """
    from datasets import Features, Json, List, Value

    return Features({"record": Json(), "images": List(Value("int64")), "source": Value("string")})


def _open(path: Path, features: datasets.Features, optional: Collection[str] = ()) -> datasets.Dataset:
    import datasets
    import pyarrow as pa

    try:
        table = datasets.Dataset.from_file(str(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TableError(f"{path}: not an Arrow table ({error}); write it again with `albef prepare`") from error
    present = {name: kind for name, kind in features.items() if name in table.features or name not in optional}
    if table.features != present:
        raise TableError(f"{path}: columns {table.features}, expected {features}; write it again with `albef prepare`")
    return table.with_format("arrow")


class ImageTable:
    """Encoded images, sorted by path.

    Args:
        folder: Folder of the tables, ``00000.arrow`` and so on.

    Raises:
        TableError: If a file is not a table of images.
    """

    def __init__(self, folder: Path) -> None:
        from datasets import concatenate_datasets

        self.folder = folder
        parts = [_open(path, image_features()) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        if not parts:
            raise TableError(f"{folder}: no table of images, expected files such as 00000{SUFFIX}")
        self._table = concatenate_datasets(parts).with_format("arrow")

    @cached_property
    def _paths(self) -> datasets.Dataset:
        return self._table.select_columns(["path"])

    def __len__(self) -> int:
        return len(self._table)

    def paths(self) -> Iterator[str]:
        """Yield the paths of all images."""
        for start in range(0, len(self), _BATCH_ROWS):
            yield from self._paths[start : start + _BATCH_ROWS]["path"].to_pylist()

    def path(self, row: int) -> str:
        """Return the path of an image."""
        return str(self._paths[row]["path"][0].as_py())

    def find(self, path: str) -> int | None:
        """Return the row of an image, or None if there is none of this path."""
        row = bisect_left(range(len(self)), path, key=self.path)
        return row if row < len(self) and self.path(row) == path else None

    def read(self, row: int) -> bytes | None:
        """Return the encoded bytes of an image, or None if the file was missing."""
        value: bytes | None = self._table[row]["image"].combine_chunks().field("bytes")[0].as_py()
        return value

    def between(self, start: int, stop: int) -> Iterator[tuple[str, bytes | None]]:
        """Yield paths and encoded bytes of the images in rows ``start`` to ``stop``, see `read`."""
        for first in range(start, stop, _READ_ROWS):
            rows = self._table[first : min(first + _READ_ROWS, stop)]
            images = rows["image"].combine_chunks()
            yield from zip(rows["path"].to_pylist(), (image["bytes"].as_py() for image in images), strict=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageTable, (self.folder,)


class ImageWriter(AbstractContextManager["ImageWriter"]):
    """Writes the tables of images."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.rows, self._last = folder, 0, ""
        self._paths: list[str] = []
        self._contents: list[bytes | None] = []
        self._bytes = self._shard_bytes = self._shard = 0
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def add(self, path: str, content: bytes | None) -> int:
        """Add an image and return its row.

        Raises:
            ValueError: If paths are not in ascending order, which `ImageTable.find` relies on.
        """
        if path <= self._last:
            raise ValueError(f"{path}: follows {self._last}, expected ascending paths")
        self._last = path
        self._paths.append(path)
        self._contents.append(content)
        self._bytes += len(content or b"")
        self.rows += 1
        if self._bytes >= _BATCH_BYTES or len(self._paths) >= _BATCH_ROWS:
            self._flush()
        return self.rows - 1

    def _flush(self) -> None:
        import pyarrow as pa

        schema = image_features().arrow_schema
        if self._writer is None:
            target = self.folder / f"{self._shard:05}{SUFFIX}"
            self._writer = pa.ipc.new_stream(str(target), schema)
        # Images do not refer to files: the column's own path stays empty.
        images = pa.StructArray.from_arrays(
            [pa.array(self._contents, pa.binary()), pa.nulls(len(self._paths), pa.string())],
            fields=list(schema.field("image").type),
        )
        columns = [pa.array(self._paths, pa.string()), images]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        self._shard_bytes += self._bytes
        self._paths, self._contents, self._bytes = [], [], 0
        if self._shard_bytes >= _SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._shard, self._shard_bytes = None, self._shard + 1, 0

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (self._paths or self.rows == 0):
            self._flush()
        self._close()


class RecordTable(Sequence[Record]):
    """Records of a list.

    Args:
        path: File of the table.

    Raises:
        TableError: If the file is not a table of records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = _open(path, record_features(), optional={"source"})

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, row: int) -> Record: ...

    @overload
    def __getitem__(self, row: slice) -> list[Record]: ...

    def __getitem__(self, row: int | slice) -> Record | list[Record]:
        found = [json.loads(text) for text in self._table[row]["record"].to_pylist()]
        return found if isinstance(row, slice) else found[0]

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), _BATCH_ROWS):
            yield from self[start : start + _BATCH_ROWS]

    def images_between(self, start: int, stop: int) -> list[list[int]]:
        """Return the image rows of records ``start`` to ``stop``, see `images`."""
        rows: list[list[int]] = self._table.select_columns(["images"])[start:stop]["images"].to_pylist()
        return rows

    def images(self, row: int) -> list[int]:
        """Return the rows of a record's images in the `ImageTable`; empty if unknown."""
        rows: list[int] = self._table[row]["images"][0].as_py()
        return rows

    def image_rows(self) -> Iterator[list[int]]:
        """Yield the image rows of all records, see `images`."""
        column = self._table.select_columns(["images"])
        for start in range(0, len(self), _BATCH_ROWS):
            yield from column[start : start + _BATCH_ROWS]["images"].to_pylist()

    def sources(self) -> tuple[list[str], NDArray[np.int32]]:
        """Return the names of the sources, and the number of each row's source ``(N,)``.

        Rows of an unknown source have the name "".
        """
        names: dict[str, int] = {}
        numbers = np.zeros(len(self), dtype=np.int32)
        if "source" not in self._table.features:
            return [""], numbers
        column = self._table.select_columns(["source"])
        for start in range(0, len(self), _BATCH_ROWS):
            part = column[start : start + _BATCH_ROWS]["source"].combine_chunks().fill_null("").dictionary_encode()
            known = np.array([names.setdefault(name, len(names)) for name in part.dictionary.to_pylist()])
            numbers[start : start + _BATCH_ROWS] = known[part.indices.to_numpy()]
        return list(names) or [""], numbers

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordTable, (self.path,)


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Writes the table of a list."""

    def __init__(self, file: Path | BinaryIO) -> None:
        import pyarrow as pa

        self.rows, self._records, self._images, self._sources = 0, list[str](), list[list[int]](), list[str | None]()
        self._writer = pa.ipc.new_stream(str(file) if isinstance(file, Path) else file, record_features().arrow_schema)

    def add(self, record: Any, images: Sequence[int], source: str | None = None) -> None:
        """Add a record.

        Args:
            images: Rows of its images in the `ImageTable`; none if unknown.
            source: Name of its source; None if there is only one.
        """
        self._records.append(dump(record))
        self._images.append(list(images))
        self._sources.append(source)
        self.rows += 1
        if len(self._records) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        schema = record_features().arrow_schema
        texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array(self._records, pa.string()))
        images = pa.array(self._images, schema.field("images").type)
        sources = pa.array(self._sources, pa.string())
        self._writer.write_batch(pa.RecordBatch.from_arrays([texts, images, sources], schema=schema))
        self._records, self._images, self._sources = [], [], []

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and self._records:
            self._flush()
        self._writer.close()


Row = tuple[Any, Sequence[int]] | tuple[Any, Sequence[int], str | None]
"""Arguments of `RecordWriter.add`."""


def write_records(path: Path, records: Iterable[Row]) -> int:
    """Write a list atomically and return its number of rows."""
    rows = 0

    def write(file: BinaryIO) -> None:
        nonlocal rows
        with RecordWriter(file) as writer:
            for row in records:
                writer.add(*row)
            rows = writer.rows

    write_file(path, write)
    return rows

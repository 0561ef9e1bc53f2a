"""Metadata of images and captions: tables with a column ``id`` and one column per property."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.index.segments import SearchIndexError

if TYPE_CHECKING:
    import pyarrow as pa

ID = "id"
_NAME = re.compile(r"(?!row$)[A-Za-z_][A-Za-z0-9_]{0,62}", re.IGNORECASE)


class MetadataError(SearchIndexError):
    """The metadata cannot be read, or do not fit the index."""


def read(path: Path) -> Metadata:
    """Read metadata from a CSV file with a header, JSON lines or Parquet.

    Raises:
        MetadataError: If the file cannot be read, or is not a table as `Metadata` expects it.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    texts = csv.ConvertOptions(column_types={ID: pa.string()})
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".csv": lambda path: csv.read_csv(path, convert_options=texts),
        ".jsonl": lambda path: of_records(map(json.loads, path.read_text(encoding="utf-8").splitlines())),
        ".parquet": parquet.read_table,
    }
    if path.suffix not in readers:
        raise MetadataError(f"{path}: expected a file with suffix {', '.join(readers)}")
    try:
        return Metadata(readers[path.suffix](path), str(path))
    except (OSError, TypeError, json.JSONDecodeError, UnicodeDecodeError, pa.ArrowException) as error:
        raise MetadataError(f"{path}: cannot read the metadata ({error})") from error


def of_records(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return a table of records; a property that one lacks is null."""
    import pyarrow as pa

    rows = [dict(**record) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


class Metadata:
    """Properties of images and captions.

    Args:
        table: Column ``id``, the id of an image or the text of a caption, and properties: numbers, booleans (stored as
            0 and 1), texts, or dates and times (stored as ISO 8601 texts).
        name: Name in error messages, usually the path of the file.

    Attributes:
        types: SQL types of the properties.
        rows: Records by id.

    Raises:
        MetadataError: If a column is unsuitable, or an id is missing or repeated.
    """

    def __init__(self, table: pa.Table, name: str = "metadata") -> None:
        import pyarrow as pa

        names = table.column_names
        different = {column.lower() for column in names}
        if ID not in names or len(different) < max(len(names), 2) or not all(map(_NAME.fullmatch, names)):
            raise MetadataError(
                f"{name}: columns are {names}, expected {ID!r} and others, all different, of letters, digits and '_'"
            )
        self.name, self.types = name, dict(zip(names, map(_sql_type, table.schema.types), strict=True))
        if None in self.types.values():
            raise MetadataError(f"{name}: expected columns of numbers, texts or dates, got {table.schema.types}")
        self.types[ID] = "TEXT"
        columns = [
            column.cast(pa.string()) if declared == "TEXT" else column
            for column, declared in zip(table.columns, self.types.values(), strict=True)
        ]
        self.rows = {row.pop(ID): row for row in pa.table(columns, names).to_pylist()}
        if None in self.rows or len(self.rows) < len(table):
            raise MetadataError(f"{name}: expected a different {ID!r} in each row; remove missing and repeated ones")
        del self.types[ID]


def _sql_type(kind: pa.DataType) -> str | None:
    import pyarrow.types as kinds

    if kinds.is_boolean(kind) or kinds.is_integer(kind):
        return "INTEGER"
    if kinds.is_floating(kind):
        return "REAL"
    return "TEXT" if kinds.is_temporal(kind) or kinds.is_string(kind) or kinds.is_null(kind) else None

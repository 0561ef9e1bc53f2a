"""Reading the metadata of an ONNX file without loading it: an endpoint checks its graphs before it serves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

_METADATA_FIELD = 14  # ModelProto.metadata_props
_LENGTH_DELIMITED, _VARINT, _FIXED64, _FIXED32 = 2, 0, 1, 5


class _CutOffError(ValueError):
    """The file ends within a field."""


def _varint(file: BinaryIO) -> int | None:
    """The next number; None at the end of the file."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            if shift:
                raise _CutOffError
            return None
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise _CutOffError


def _entry(data: bytes) -> tuple[str, str]:
    file, fields = io.BytesIO(data), {1: "", 2: ""}
    while (tag := _varint(file)) is not None:
        fields[tag >> 3] = file.read(_varint(file) or 0).decode("utf-8")
    return fields[1], fields[2]


def metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX model, read field by field with the weights skipped.

    Raises:
        ValueError: If the file is missing or is no ONNX model.
    """
    found: dict[str, str] = {}
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        raise ValueError(f"{path}: no such ONNX model")
    with path.open("rb") as file:
        try:
            _scan(file, size, found)
        except ValueError as error:
            raise ValueError(f"{path}: not an ONNX model, or cut off") from error
    return found


def _scan(file: BinaryIO, size: int, found: dict[str, str]) -> None:
    while (tag := _varint(file)) is not None:
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            if _varint(file) is None:
                raise _CutOffError
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _LENGTH_DELIMITED:
            length = _varint(file)
        if length is None or file.tell() + length > size:
            raise _CutOffError
        if field == _METADATA_FIELD and wire == _LENGTH_DELIMITED:
            key, value = _entry(file.read(length))
            found[key] = value
        else:
            file.seek(length, 1)

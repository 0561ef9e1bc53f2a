"""Reader for the metadata of an ONNX file without its weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

_METADATA_FIELD = 14  # ModelProto.metadata_props
_LENGTH_DELIMITED, _VARINT, _FIXED64, _FIXED32 = 2, 0, 1, 5


class _TruncatedError(ValueError):
    """The file ends within a field."""


def _varint(file: BinaryIO) -> int | None:
    """Read the next varint; None at the end of the file."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            if shift:
                raise _TruncatedError
            return None
        value |= (byte[0] & 0x7F) << shift
        if not byte[0] & 0x80:
            return value
    raise _TruncatedError


def _entry(data: bytes) -> tuple[str, str]:
    file, fields = io.BytesIO(data), {1: "", 2: ""}
    while (tag := _varint(file)) is not None:
        fields[tag >> 3] = file.read(_varint(file) or 0).decode("utf-8")
    return fields[1], fields[2]


def metadata(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX model, skipping the weights.

    Raises:
        ValueError: If the file is missing or not an ONNX model.
    """
    entries: dict[str, str] = {}
    size = path.stat().st_size if path.is_file() else 0
    if not size:
        raise ValueError(f"{path}: no such ONNX model, or an empty file")
    with path.open("rb") as file:
        try:
            _scan(file, size, entries)
        except ValueError as error:
            raise ValueError(f"{path}: not an ONNX model, or truncated") from error
    return entries


def _scan(file: BinaryIO, size: int, entries: dict[str, str]) -> None:
    while (tag := _varint(file)) is not None:
        field, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            if _varint(file) is None:
                raise _TruncatedError
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
        if wire_type == _LENGTH_DELIMITED:
            length = _varint(file)
        if length is None or file.tell() + length > size:
            raise _TruncatedError
        if field == _METADATA_FIELD and wire_type == _LENGTH_DELIMITED:
            key, value = _entry(file.read(length))
            entries[key] = value
        else:
            file.seek(length, 1)

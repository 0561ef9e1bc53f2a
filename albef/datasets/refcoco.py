"""Reader of the published RefCOCO+ files: references, COCO annotations and detected boxes.

The references (``refs(unc).p``) are an untrusted pickle, which could execute code. A restricted unpickler reads them,
without any instruction that imports or calls. The official code uses the three files in ``Grounding.py`` and
``grounding_eval``.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NoReturn

from albef.data.schema import Record, SchemaError

_PICKLES = (".p", ".pkl", ".pickle")
_REF_KEYS = ("ref_id", "ann_id", "image_id", "split")
_OFFICIAL_FILES = "refs(unc).p, instances.json and dets.json together"


# Pickle instructions that build and memoize strings, numbers, lists and dicts. All that import, call or set attributes
# are left out.
_PLAIN = b"".join(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.FLOAT, pickle.BINFLOAT),
        *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4),
        *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES),
        *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
        *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    )
)


def _rejection(code: int) -> Callable[[Any], NoReturn]:
    def reject(_: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"instruction {chr(code)!r} is not allowed in plain data")

    return reject


class _PlainUnpickler(pickle._Unpickler):
    """Unpickler restricted to the instructions of `_PLAIN`.

    It derives from the Python implementation, as the C one has no dispatch table to restrict.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: action if code in _PLAIN else _rejection(code) for code, action in pickle._Unpickler.dispatch.items()
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"importing {module}.{name} is not allowed")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain data without executing any code.

    Pickles of Python 2 are supported.

    Raises:
        SchemaError: If the file cannot be read, is not a pickle, or holds anything but plain data.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SchemaError(f"{path}: cannot read the references ({error.strerror})") from error
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except Exception as error:  # malformed pickles raise arbitrary exceptions
        raise SchemaError(
            f"{path}: expected a pickle of only dicts, lists, strings and numbers ({type(error).__name__}: {error})"
        ) from error


@dataclass(frozen=True)
class Part:
    """One source file of boxes, with its parsed content."""

    path: Path
    kind: Literal["boxes", "references", "instances", "detections"]
    """``boxes`` is this project's format and self-contained; the others are the three official files."""
    content: Any


def read(path: Path) -> Part:
    """Read one file and infer its kind from the content.

    Raises:
        SchemaError: If the file cannot be read or is of none of the four kinds.
    """
    data = read_pickle(path) if path.suffix in _PICKLES else _json(path)
    if isinstance(data, list):
        return Part(path, "references", _references(path, data))
    if not isinstance(data, dict):
        raise SchemaError(f"{path}: expected boxes as refs and proposals, or {_OFFICIAL_FILES}")
    if "refs" in data or "proposals" in data:
        for key in ("refs", "proposals"):
            if not isinstance(data.get(key), dict):
                raise SchemaError(f"{path}, {key}: expected a JSON object of boxes")
        return Part(path, "boxes", data)
    if "annotations" in data:
        tables = _column(path, data, "images", "file_name"), _column(path, data, "annotations", "bbox")
        return Part(path, "instances", tables)
    return Part(path, "detections", {key: _detections(path, key, boxes) for key, boxes in data.items()})


def convert(parts: Sequence[Part], records: Iterable[Record]) -> dict[str, Any]:
    """Return the boxes of records from the three official files.

    Records without boxes in the files are skipped; `albef validate` reports them.

    Args:
        records: Records of ``grounding_val`` and ``grounding_test``, with the image paths to use in the result.

    Returns:
        ``refs``: image, box and split by ``ref_id``; ``proposals``: detected boxes by image. A box is x, y, width,
        height in pixels.

    Raises:
        SchemaError: If one of the three is missing or duplicated, or they belong to another data set than the records.
    """
    files: dict[str, Part] = {}
    for part in parts:
        if part.kind in files:
            raise SchemaError(
                f"{part.path}: duplicate {part.kind}, also in {files[part.kind].path}; expected {_OFFICIAL_FILES}"
            )
        files[part.kind] = part
    for kind in ("references", "instances", "detections"):
        if kind not in files:
            raise SchemaError(f"prepare.lists.files.grounding_boxes: no {kind}; expected {_OFFICIAL_FILES}")
    refs, detections = files["references"].content, files["detections"].content
    names, boxes = files["instances"].content
    result: dict[str, Any] = {"refs": {}, "proposals": {}}
    for record in records:
        image, key = record["image"], str(record["ref_id"])
        ref = refs.get(key)
        if ref is None:
            continue
        name = names.get(str(ref["image_id"]), image)
        if PurePosixPath(name).stem != PurePosixPath(image).stem:
            # RefCOCO, RefCOCO+ and RefCOCOg reuse the same ref_ids.
            raise SchemaError(
                f"{files['references'].path}, ref_id {key}: refers to {name}, but to {image} in the list; expected the"
                " references of the same data set and split"
            )
        if (box := boxes.get(str(ref["ann_id"]))) is not None:
            result["refs"][key] = {"image": image, "box": box, "split": str(ref["split"])}
        if (proposals := detections.get(str(ref["image_id"]))) is not None:
            result["proposals"][image] = proposals
    return result


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SchemaError(f"{path}: not a readable JSON file ({error})") from error


def _references(path: Path, data: list[Any]) -> dict[str, Any]:
    for row, ref in enumerate(data):
        for key in _REF_KEYS:
            if not isinstance(ref, dict) or not isinstance(ref.get(key), int | str):
                raise SchemaError(f"{path}, row {row}, {key}: expected a number or a string in each reference")
    return {str(ref["ref_id"]): ref for ref in data}


def _column(path: Path, data: dict[str, Any], table: str, key: str) -> dict[str, Any]:
    """Return one column of a COCO table by row id."""
    rows, kind = data.get(table), str if key == "file_name" else list
    if not isinstance(rows, list):
        raise SchemaError(f"{path}, {table}: expected a list, as in COCO")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or "id" not in row or not isinstance(row.get(key), kind):
            raise SchemaError(f"{path}, {table}, row {number}: expected id and {key}, as in COCO")
    return {str(row["id"]): row[key] for row in rows}


def _detections(path: Path, image: str, boxes: Any) -> list[Any]:
    """Return detected boxes without the scores that may follow."""
    if not isinstance(boxes, list) or not all(isinstance(box, list) and len(box) >= 4 for box in boxes):
        raise SchemaError(f"{path}, {image}: expected a list of boxes [x, y, width, height]")
    return [box[:4] for box in boxes]

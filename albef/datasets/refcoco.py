"""RefCOCO+ as it is published, turned into boxes by record: references, COCO annotations and a detector's boxes.

The references (``refs(unc).p``) are a pickle from elsewhere: a program rather than data, so it is read by a machine
that has no way to call anything. Official use of the three files: ``Grounding.py`` and ``grounding_eval``.
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
_WANTED = "refs(unc).p, instances.json and dets.json together"


# Of a pickle's instructions those that build texts, numbers, lists and dicts, and note them for later. Missing are all
# that import, call or set attributes.
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


def _refusal(code: int) -> Callable[[Any], NoReturn]:
    def refuse(_: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it holds more than data, instruction {chr(code)!r}")

    return refuse


class _PlainUnpickler(pickle._Unpickler):
    """Carries out `_PLAIN` alone. The one in Python, as that in C has no table of instructions to take them from."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: action if code in _PLAIN else _refusal(code) for code, action in pickle._Unpickler.dispatch.items()
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pickle(path: Path) -> Any:
    """Plain data of a pickle, also of Python 2. Nothing in it is executed.

    Raises:
        SchemaError: If the file cannot be read, is no pickle, or asks for anything but plain data.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SchemaError(f"{path}: cannot read the references ({error.strerror})") from error
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except Exception as error:  # foreign bytes fail in every way there is
        raise SchemaError(
            f"{path}: expected a pickle of dicts, lists, texts and numbers alone ({type(error).__name__}: {error})"
        ) from error


@dataclass(frozen=True)
class Part:
    """One of the files that boxes come from, and what is needed of it."""

    path: Path
    kind: Literal["boxes", "references", "instances", "detections"]
    """The first is our own format, whole in itself; the others are the official three."""
    content: Any


def read(path: Path) -> Part:
    """Read one file; what it is shows in its content.

    Raises:
        SchemaError: If it cannot be read or is none of the four.
    """
    data = read_pickle(path) if path.suffix in _PICKLES else _json(path)
    if isinstance(data, list):
        return Part(path, "references", _references(path, data))
    if not isinstance(data, dict):
        raise SchemaError(f"{path}: expected boxes as refs and proposals, or {_WANTED}")
    if "refs" in data or "proposals" in data:
        for key in ("refs", "proposals"):
            if not isinstance(data.get(key), dict):
                raise SchemaError(f"{path}, {key}: expected a JSON object of boxes")
        return Part(path, "boxes", data)
    if "annotations" in data:
        tables = _column(path, data, "images", "file_name"), _column(path, data, "annotations", "bbox")
        return Part(path, "instances", tables)
    return Part(path, "detections", {key: _detections(path, key, found) for key, found in data.items()})


def convert(parts: Sequence[Part], records: Iterable[Record]) -> dict[str, Any]:
    """Boxes of the records, from the three official files in any order.

    What the files do not know is left out; `albef validate` names it with its record.

    Args:
        records: Of ``grounding_val`` and ``grounding_test``, with the paths that the result is to have.

    Returns:
        ``refs``: image, box and split by ``ref_id``; ``proposals``: a detector's boxes by image. A box is x, y, width,
        height in pixels.

    Raises:
        SchemaError: If one of the three is missing or there twice, or they are of another data set than the records.
    """
    files: dict[str, Part] = {}
    for part in parts:
        if part.kind in files:
            raise SchemaError(f"{part.path}: {part.kind} once more, after {files[part.kind].path}; expected {_WANTED}")
        files[part.kind] = part
    for kind in ("references", "instances", "detections"):
        if kind not in files:
            raise SchemaError(f"prepare.lists.files.grounding_boxes: no {kind}; expected {_WANTED}")
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
            # Numbers of references repeat in RefCOCO, RefCOCO+ and RefCOCOg.
            raise SchemaError(
                f"{files['references'].path}, ref_id {key}: is of {name}, and of {image} in the list; expected the"
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
                raise SchemaError(f"{path}, row {row}, {key}: expected a number or a text in each reference")
    return {str(ref["ref_id"]): ref for ref in data}


def _column(path: Path, data: dict[str, Any], table: str, key: str) -> dict[str, Any]:
    """A key of the rows of a COCO table, by their id."""
    rows, kind = data.get(table), str if key == "file_name" else list
    if not isinstance(rows, list):
        raise SchemaError(f"{path}, {table}: expected a list, as in COCO")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or "id" not in row or not isinstance(row.get(key), kind):
            raise SchemaError(f"{path}, {table}, row {number}: expected id and {key}, as in COCO")
    return {str(row["id"]): row[key] for row in rows}


def _detections(path: Path, image: str, found: Any) -> list[Any]:
    """Boxes without the scores that may follow."""
    if not isinstance(found, list) or not all(isinstance(box, list) and len(box) >= 4 for box in found):
        raise SchemaError(f"{path}, {image}: expected a list of boxes [x, y, width, height]")
    return [box[:4] for box in found]

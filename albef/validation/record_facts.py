"""Facts of records: what expectations need of a list, without its texts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.data.lists import IMAGE_FOLDER, file_of
from albef.data.schema import EXTRAS, Record, SchemaError, images_of, known_lists, problems
from albef.data.tables import ImageTable, RecordTable
from albef.data.text import clean

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT_KEYS = ("caption", "question", "sentence", "text")
_ID_KEYS = {
    "vqa_train": "question_id",
    "vqa": "question_id",
    "grounding": "ref_id",
    "retrieval": "image",
    "retrieval_train": "image_id",
}
SHARED_IDS = ("retrieval_train", "grounding")
"""Kinds of lists in which several rows, one per caption or expression, may share an id."""


@cache
def schema() -> pa.Schema:
    """Return the columns; for a malformed record, all but ``row``, ``schema_problem`` and ``images`` are null.

    ``images`` are rows of the image table, -1 for an image that it lacks, named by ``missing_image``. ``id`` is a hash.
    ``label``, ``answer_known`` and ``box_problem`` are null for kinds of lists without them.
    """
    import pyarrow as pa

    columns = {
        "row": pa.int64(),
        "schema_problem": pa.string(),
        "images": pa.list_(pa.int64()),
        "missing_image": pa.string(),
        "fewest_words": pa.int32(),
        "most_words": pa.int32(),
        "id": pa.binary(16),
        "label": pa.string(),
        "answer_known": pa.bool_(),
        "box_problem": pa.string(),
    }
    return pa.schema(list(columns.items()))


def of_rows(data: Path, version: str, name: str, start: int, stop: int) -> pa.Table:
    """Return the facts of the records in rows ``start`` to ``stop`` of a list.

    Args:
        data: Prepared data set.
        version: Identifies the content of ``data``, whose tables stay open.
    """
    import pyarrow as pa

    context = _context(data, version, name)
    records = zip(range(start, stop), context.table[start:stop], context.table.images_between(start, stop), strict=True)
    return pa.Table.from_pylist([_facts(row, record, images, context) for row, record, images in records], schema())


@dataclass(frozen=True)
class _Context:
    """A list, and what its records refer to."""

    kind: str
    table: RecordTable
    images: ImageTable
    answers: frozenset[str] | None
    boxes: Mapping[str, Any] | None


@lru_cache(maxsize=32)
def _context(data: Path, version: str, name: str) -> _Context:
    kind = known_lists()[name]
    answers = extra(data, "answer_list") if kind.startswith("vqa") else None
    boxes = extra(data, "grounding_boxes") if kind == "grounding" else None
    known = None if answers is None else frozenset(map(str, answers))
    return _Context(kind, RecordTable(file_of(data, name)), ImageTable(data / IMAGE_FOLDER), known, boxes)


def extra(data: Path, name: str) -> Any:
    """Return the content of ``answer_list.json`` or ``grounding_boxes.json``, None without such a file.

    Raises:
        SchemaError: If its content is of another form.
    """
    assert name in EXTRAS
    path = data / f"{name}.json"
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: not a readable JSON file ({error})") from error
    if name == "answer_list" and not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
        raise SchemaError(f"{path}: expected a non-empty JSON list of strings, the answer candidates")
    if name == "grounding_boxes" and not (
        isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("refs", "proposals"))
    ):
        raise SchemaError(f"{path}: expected a JSON object with the objects refs and proposals")
    return value


def id_of(record: Record, kind: str) -> tuple[str, Any] | None:
    """Return the key and the value of a record's id, or None if it has none."""
    key = _ID_KEYS.get(kind)
    return None if key is None or record.get(key) is None else (key, record[key])


def _facts(row: int, record: Any, images: list[int], context: _Context) -> dict[str, Any]:
    if found := problems(record, context.kind):
        return {"row": row, "schema_problem": found[0], "images": []}
    paths = images_of(record)
    if len(images) != len(paths):  # not numbered when the list was written
        images = [-1 if (number := context.images.find(path)) is None else number for path in paths]
    texts = [text for key in _TEXT_KEYS if key in record for text in _as_list(record[key])]
    # Words are counted after cleaning, so a caption of dots has none.
    words = [len(clean(text).split()) for text in texts]
    identity = id_of(record, context.kind)
    return {
        "row": row,
        "images": images,
        "missing_image": next((path for path, number in zip(paths, images, strict=True) if number < 0), None),
        "fewest_words": min(words, default=None),
        "most_words": max(words, default=None),
        "id": None if identity is None else hashlib.blake2b(repr(identity[1]).encode(), digest_size=16).digest(),
        "label": record["label"] if context.kind in ("ve", "nlvr") else None,
        "answer_known": _answer_known(record, context.answers),
        "box_problem": None if context.boxes is None else _box_problem(record, context.boxes),
    }


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _answer_known(record: Record, answers: frozenset[str] | None) -> bool | None:
    """Return whether the most frequent answer is a candidate."""
    if answers is None or "answer" not in record:
        return None
    return Counter(_as_list(record["answer"])).most_common(1)[0][0] in answers


def _box_problem(record: Record, boxes: Mapping[str, Any]) -> str | None:
    ref = boxes["refs"].get(str(record["ref_id"]))
    if not isinstance(ref, dict) or not _is_box(ref.get("box")):
        return f"ref_id {record['ref_id']!r} has no box in grounding_boxes.json"
    proposals = boxes["proposals"].get(record["image"])
    if not proposals or not all(map(_is_box, proposals)):
        return f"{record['image']} has no proposals in grounding_boxes.json"
    return None


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) >= 4
        and all(isinstance(v, int | float) for v in value[:4])
        and value[2] > 0
        and value[3] > 0
    )

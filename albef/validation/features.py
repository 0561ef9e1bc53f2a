"""Feature tables: one row per record, all columns that expectations check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from albef.data.schema import Record, images_of, problems
from albef.data.text import clean
from albef.validation.image_stats import ImageStats
from albef.validation.leakage import find_leaks

_TEXT_KEYS = ("caption", "question", "sentence", "text")
_ID_KEYS = {"vqa_train": "question_id", "vqa": "question_id", "grounding": "ref_id", "retrieval": "image"}
_SHARED_IDS = ("retrieval_train", "grounding")  # several rows, one per caption or expression, may share an id


@dataclass(frozen=True)
class ValidationContext:
    """Data of all lists that the features of one list depend on."""

    lists: Mapping[str, Sequence[Record | None]]  # valid records by list, None for a malformed one
    images: Mapping[str, ImageStats]
    answers: frozenset[str] | None  # answer candidates of VQA
    boxes: Mapping[str, Any] | None  # true boxes and proposals of grounding


def check_records(records: Sequence[Any], kind: str) -> tuple[list[Record | None], list[str | None]]:
    """Check the schema of records.

    Returns:
        The records with None in place of malformed ones, and the first problem of each, None for valid ones.
    """
    found = [problems(record, kind) for record in records]
    return (
        [None if errors else record for record, errors in zip(records, found, strict=True)],
        [errors[0] if errors else None for errors in found],
    )


def feature_table(name: str, kind: str, malformed: Sequence[str | None], context: ValidationContext) -> pd.DataFrame:
    """Return the feature table of a list.

    Columns named ``*_problem`` are empty for good records. For malformed records, all but ``schema_problem`` are empty.

    Args:
        malformed: Schema problem of each record, as `check_records` returns it.
    """
    records = context.lists[name]
    columns: dict[str, list[Any]] = {
        "row": list(range(len(records))),
        "schema_problem": list(malformed),
        "image_problem": [_image_problem(r, context) for r in records],
        "smallest_side": [_side(r, context, min) for r in records],
        "largest_side": [_side(r, context, max) for r in records],
        "fewest_words": [_words(r, min) for r in records],
        "most_words": [_words(r, max) for r in records],
        "id_problem": _id_problems(records, kind),
        "leak_problem": find_leaks(name, context.lists, context.images),
    }
    if kind in ("ve", "nlvr"):
        labels = [None if r is None else r["label"] for r in records]
        counts = Counter(label for label in labels if label is not None)
        columns["label"] = labels
        columns["label_share"] = [None if label is None else counts[label] / counts.total() for label in labels]
    if kind in ("vqa", "vqa_train") and context.answers is not None:
        answer_known = [_answer_known(r, context.answers) for r in records]
        if any(known is not None for known in answer_known):
            columns["answer_known"] = answer_known
    if kind == "grounding" and context.boxes is not None:
        columns["box_problem"] = [_box_problem(r, context.boxes) for r in records]
    return pd.DataFrame({key: pd.Series(values, dtype=_dtype(key)) for key, values in columns.items()})


def _dtype(column: str) -> str:
    return "object" if column.endswith("_problem") or column == "label" else "int64" if column == "row" else "float64"


def _image_problem(record: Record | None, context: ValidationContext) -> str | None:
    if record is None:
        return None
    return next((p for image in images_of(record) if (p := context.images[image].problem)), None)


def _side(record: Record | None, context: ValidationContext, extreme: Any) -> float | None:
    if record is None:
        return None
    stats = [context.images[image] for image in images_of(record)]
    if any(s.problem for s in stats):
        return None
    return float(extreme(side for s in stats for side in (s.width, s.height)))


def _words(record: Record | None, extreme: Any) -> float | None:
    """Return the word count of the shortest or longest text.

    Words are counted after cleaning, so a caption of dots has none.
    """
    if record is None:
        return None
    texts = [t for key in _TEXT_KEYS if key in record for t in _as_list(record[key])]
    return float(extreme(len(clean(text).split()) for text in texts))


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _id_problems(records: Sequence[Record | None], kind: str) -> list[str | None]:
    """Return a message for every row that repeats an id.

    Where several rows may share an id, only rows with another image than the first one are reported.
    """
    key = "image_id" if kind == "retrieval_train" else _ID_KEYS.get(kind)
    result: list[str | None] = []
    first: dict[Any, tuple[int, str]] = {}
    for row, record in enumerate(records):
        value = None if record is None or key is None else record.get(key)
        if record is None or value is None:
            result.append(None)
            continue
        image = images_of(record)[0]
        first_row, first_image = first.setdefault(value, (row, image))
        duplicate = first_row != row and (kind not in _SHARED_IDS or first_image != image)
        result.append(f"{key} {value!r} is already used by row {first_row}" if duplicate else None)
    return result


def _answer_known(record: Record | None, answers: frozenset[str]) -> float | None:
    """Return 1 if the most frequent answer is a candidate, else 0."""
    if record is None or "answer" not in record:
        return None
    return float(Counter(_as_list(record["answer"])).most_common(1)[0][0] in answers)


def _box_problem(record: Record | None, boxes: Mapping[str, Any]) -> str | None:
    if record is None:
        return None
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

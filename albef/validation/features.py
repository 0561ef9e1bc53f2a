"""One table a list: the row number and everything the expectations look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from albef.data.schema import Record, images_of, problems
from albef.data.text import clean
from albef.validation.image_stats import Picture
from albef.validation.leakage import leaks

_TEXT_KEYS = ("caption", "question", "sentence", "text")
_ID_KEYS = {"vqa_train": "question_id", "vqa": "question_id", "grounding": "ref_id", "retrieval": "image"}
_SHARED_IDS = ("retrieval_train", "grounding")  # a caption, or an expression, a row


@dataclass(frozen=True)
class Bench:
    """What a list is judged against."""

    lists: Mapping[str, Sequence[Record | None]]  # sound records by list, None for a malformed one
    pictures: Mapping[str, Picture]
    answers: frozenset[str] | None  # the candidates of VQA
    boxes: Mapping[str, Any] | None  # true boxes and proposals of grounding


def sound(records: Sequence[Any], kind: str) -> tuple[list[Record | None], list[str | None]]:
    """Records with None in place of malformed ones, and what is wrong with those."""
    found = [problems(record, kind) for record in records]
    return (
        [None if wrong else record for record, wrong in zip(records, found, strict=True)],
        [wrong[0] if wrong else None for wrong in found],
    )


def frame(name: str, kind: str, malformed: Sequence[str | None], bench: Bench) -> pd.DataFrame:
    """The table of a list; columns named ``*_problem`` are empty for good records, and for those found malformed."""
    records = bench.lists[name]
    columns: dict[str, list[Any]] = {
        "row": list(range(len(records))),
        "schema_problem": list(malformed),
        "image_problem": [_picture_problem(r, bench) for r in records],
        "smallest_side": [_side(r, bench, min) for r in records],
        "largest_side": [_side(r, bench, max) for r in records],
        "fewest_words": [_words(r, min) for r in records],
        "most_words": [_words(r, max) for r in records],
        "id_problem": _id_problems(records, kind),
        "leak_problem": leaks(name, bench.lists, bench.pictures),
    }
    if kind in ("ve", "nlvr"):
        labels = [None if r is None else r["label"] for r in records]
        known = Counter(label for label in labels if label is not None)
        columns["label"] = labels
        columns["label_share"] = [None if v is None else known[v] / known.total() for v in labels]
    if kind in ("vqa", "vqa_train") and bench.answers is not None:
        known_answers = [_answer_known(r, bench.answers) for r in records]
        if any(known is not None for known in known_answers):
            columns["answer_known"] = known_answers
    if kind == "grounding" and bench.boxes is not None:
        columns["box_problem"] = [_box_problem(r, bench.boxes) for r in records]
    return pd.DataFrame({key: pd.Series(values, dtype=_dtype(key)) for key, values in columns.items()})


def _dtype(column: str) -> str:
    return "object" if column.endswith("_problem") or column == "label" else "int64" if column == "row" else "float64"


def _picture_problem(record: Record | None, bench: Bench) -> str | None:
    if record is None:
        return None
    return next((p for image in images_of(record) if (p := bench.pictures[image].problem)), None)


def _side(record: Record | None, bench: Bench, extreme: Any) -> float | None:
    if record is None:
        return None
    facts = [bench.pictures[image] for image in images_of(record)]
    if any(f.problem for f in facts):
        return None
    return float(extreme(side for f in facts for side in (f.width, f.height)))


def _words(record: Record | None, extreme: Any) -> float | None:
    """Words of the shortest (longest) text, cleaned as training cleans it: a caption of dots has none."""
    if record is None:
        return None
    texts = [t for key in _TEXT_KEYS if key in record for t in _listed(record[key])]
    return float(extreme(len(clean(text).split()) for text in texts))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _id_problems(records: Sequence[Record | None], kind: str) -> list[str | None]:
    """Later rows that repeat an id; where several texts may share one, those that give it to another picture."""
    key = "image_id" if kind == "retrieval_train" else _ID_KEYS.get(kind)
    found: list[str | None] = []
    first: dict[Any, tuple[int, str]] = {}
    for row, record in enumerate(records):
        value = None if record is None or key is None else record.get(key)
        if record is None or value is None:
            found.append(None)
            continue
        image = images_of(record)[0]
        before = first.setdefault(value, (row, image))
        clash = before[0] != row and (kind not in _SHARED_IDS or before[1] != image)
        found.append(f"{key} {value!r} is that of row {before[0]}" if clash else None)
    return found


def _answer_known(record: Record | None, answers: frozenset[str]) -> float | None:
    """1 if the answer that most people gave can be chosen, 0 if not."""
    if record is None or "answer" not in record:
        return None
    return float(Counter(_listed(record["answer"])).most_common(1)[0][0] in answers)


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

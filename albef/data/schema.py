"""Schemas of the official ALBEF lists and their reader.

Schemas are as tolerant as the official loaders: a caption is a string or a list of strings, ids are integers or
strings, unused keys are kept. Values that these loaders silently misread (a JSON boolean as an NLVR2 label) are
rejected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from albef.tasks import registry

VE_LABELS = ("contradiction", "neutral", "entailment")  # official class indices 0, 1, 2
NLVR_LABELS = ("False", "True")  # strings, not JSON booleans

# JSON can escape a lone surrogate, which neither tokenizers nor file names accept.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

Record = dict[str, Any]
Check = Callable[[Any], bool]


class SchemaError(ValueError):
    """A list or record that is not in the official format."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _LONE_SURROGATE.search(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _identifier(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or _text(value)


class Field:
    """Check of one key of a record.

    Args:
        check: Returns whether a value is valid.
        expected: Description of valid values for error messages.
        required: Whether the key may not be missing.
    """

    def __init__(self, check: Check, expected: str, required: bool = True) -> None:
        self.check, self.expected, self.required = check, expected, required


_TEXT = Field(_text, "a non-empty string")
_IMAGE = Field(_text, "the path of an image")
_ID = Field(_identifier, "an integer or a string")
_OPTIONAL_ID = Field(_identifier, "an integer or a string", required=False)
_CAPTIONS = Field(lambda v: _text(v) or _texts(v), "a string or a list of strings, none empty")
_ANSWER = Field(lambda v: _text(v) or _texts(v), "a string or a list of strings, none empty")

SCHEMAS: dict[str, dict[str, Field]] = {
    "pretrain": {"image": _IMAGE, "caption": _CAPTIONS},  # one of several captions is drawn
    # One row per caption; rows of one image_id are positives of each other.
    "retrieval_train": {"image": _IMAGE, "caption": _TEXT, "image_id": _ID},
    "retrieval": {"image": _IMAGE, "caption": Field(_texts, "a list of strings, none empty")},
    # Answers are those of ten annotators (dataset vqa), or a single string (vg).
    "vqa_train": {
        "question": _TEXT,
        "image": _IMAGE,
        "dataset": Field(lambda v: v in ("vqa", "vg"), "'vqa' or 'vg'"),
        "question_id": _OPTIONAL_ID,
        "answer": _ANSWER,
    },
    "vqa": {
        "question": _TEXT,
        "image": _IMAGE,
        "dataset": Field(lambda v: v in ("vqa", "vg"), "'vqa' or 'vg'"),
        "question_id": _ID,
        "answer": Field(_ANSWER.check, _ANSWER.expected, required=False),
    },
    "ve": {
        "image": _IMAGE,
        "sentence": _TEXT,
        "label": Field(lambda v: v in VE_LABELS, "one of " + ", ".join(VE_LABELS)),
    },
    "nlvr": {
        "sentence": _TEXT,
        "label": Field(lambda v: v in NLVR_LABELS, "the string 'True' or 'False' (not a JSON boolean)"),
        "images": Field(lambda v: _texts(v) and len(v) == 2, "a list of two paths"),
    },
    # ref_id refers to the true box in grounding_boxes.json; training uses no boxes.
    "grounding_train": {"image": _IMAGE, "text": _TEXT, "ref_id": _OPTIONAL_ID},
    "grounding": {"image": _IMAGE, "text": _TEXT, "ref_id": _ID},
}

# Kind of each list, by the list name that all stages use.
LISTS: dict[str, str] = {
    "pretrain": "pretrain",
    "text_assignment": "pretrain",
    **{
        f"{task}_{split}": f"{task}_train" if split == "train" and f"{task}_train" in SCHEMAS else task
        for task in ("retrieval", "vqa", "ve", "nlvr", "grounding")
        for split in ("train", "val", "test")
    },
}

# Files that are not lists of records: the answer candidates of VQA and the boxes of grounding (see
# `albef.datasets.emoji.lists.make`).
EXTRAS = ("answer_list", "grounding_boxes")


@cache
def known_lists() -> dict[str, str]:
    """Return the kind of every list by name.

    Besides `LISTS` there are those that tasks of other packages declare.
    """
    return LISTS | {name: name for spec in registry.specs() for name in spec.lists}


def kind_of(name: str) -> str:
    """Return the kind of the list ``name``.

    Raises:
        SchemaError: If no list has this name.
    """
    lists = known_lists()
    if name not in lists:
        raise SchemaError(f"{name}: not the name of a list; known names are {', '.join(lists)}")
    return lists[name]


def problems(record: Any, kind: str) -> list[str]:
    """Return the problems of a record.

    Each has the form "field: expected ..., got ...".
    """
    if not isinstance(record, dict):
        return [f"record: expected a JSON object, got {_short(record)}"]
    found = []
    schema: dict[str, Field] = SCHEMAS[kind] if kind in SCHEMAS else registry.list_schema(kind)
    for key, field in schema.items():
        if key not in record:
            if field.required:
                found.append(f"{key}: missing, expected {field.expected}")
        elif not field.check(record[key]):
            found.append(f"{key}: expected {field.expected}, got {_short(record[key])}")
    return found


def load_rows(path: Path) -> list[Any]:
    """Read the JSON list at ``path`` without checking its records.

    Raises:
        SchemaError: If the file is missing or does not hold a JSON list.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError(f"{path}: cannot read the list ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, list):
        raise SchemaError(f"{path}: expected a JSON list, got {_short(data)}")
    return data


def read_list(path: Path, kind: str | None = None) -> list[Record]:
    """Read and check an official list.

    Args:
        kind: A key of `SCHEMAS`; None derives it from the file name, see `LISTS`.

    Raises:
        SchemaError: If the file cannot be read or a record is malformed; the message names file, row and field.
    """
    path = Path(path)
    kind = kind_of(path.stem) if kind is None else kind
    data = load_rows(path)
    for row, record in enumerate(data):
        if found := problems(record, kind):
            raise SchemaError(f"{path}, row {row}, {found[0]}")
    return data


def images_of(record: Record) -> Sequence[str]:
    """Return the image paths of a record, as written."""
    images: Sequence[str] = record["images"] if "images" in record else (record["image"],)
    return images


def label_of(record: Record) -> int:
    """Return the official class index of a checked entailment or NLVR2 record."""
    return (NLVR_LABELS if "images" in record else VE_LABELS).index(record["label"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

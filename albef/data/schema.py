"""Records of the official ALBEF lists, and the one way to read them.

Tolerances are those of the official loaders: a caption is a text or a list of texts, ids are integers or texts, keys
that no loader reads are kept. What they take silently for something else (a JSON boolean as an NLVR2 label) is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

VE_LABELS = ("contradiction", "neutral", "entailment")  # official class indices 0, 1, 2
NLVR_LABELS = ("False", "True")  # texts, not JSON booleans

# JSON can escape half a surrogate pair; no tokenizer and no file name takes it.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

Record = dict[str, Any]
Check = Callable[[Any], bool]


class SchemaError(ValueError):
    """A list or one of its records is not in the official format."""


class PretrainRecord(TypedDict):
    """An image with a text, or several to draw from."""

    image: str
    caption: str | list[str]


class RetrievalTrainRecord(TypedDict):
    """One row a caption; rows of one ``image_id`` are positives of each other."""

    image: str
    caption: str
    image_id: int | str


class RetrievalRecord(TypedDict):
    """Val and test: one row an image."""

    image: str
    caption: list[str]


class VqaRecord(TypedDict):
    """``answer``: ten texts of as many people (``vqa``) or one text (``vg``); absent in official test lists."""

    question: str
    image: str
    dataset: str
    question_id: NotRequired[int | str]
    answer: NotRequired[str | list[str]]


class EntailmentRecord(TypedDict):
    """A picture as premise, a sentence as hypothesis, one of `VE_LABELS`."""

    image: str
    sentence: str
    label: str


class NlvrRecord(TypedDict):
    """A statement about two pictures, one of `NLVR_LABELS`."""

    sentence: str
    label: str
    images: list[str]


class GroundingTrainRecord(TypedDict):
    """A referring expression; training sees no box."""

    image: str
    text: str


class GroundingRecord(TypedDict):
    """Val and test; ``ref_id`` finds the true box in ``grounding_boxes.json``."""

    image: str
    text: str
    ref_id: int | str


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not _HALF_CHARACTER.search(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _identifier(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or _text(value)


class Field:
    """One key of a record: how to check it and what to say was expected."""

    def __init__(self, check: Check, expected: str, required: bool = True) -> None:
        self.check, self.expected, self.required = check, expected, required


_TEXT = Field(_text, "a text that is not empty")
_IMAGE = Field(_text, "the path of a picture")
_ID = Field(_identifier, "an integer or a text")
_OPTIONAL_ID = Field(_identifier, "an integer or a text", required=False)
_CAPTIONS = Field(lambda v: _text(v) or _texts(v), "a text or a list of texts, none empty")
_ANSWER = Field(lambda v: _text(v) or _texts(v), "a text or a list of texts, none empty")

SCHEMAS: dict[str, dict[str, Field]] = {
    "pretrain": {"image": _IMAGE, "caption": _CAPTIONS},
    "retrieval_train": {"image": _IMAGE, "caption": _TEXT, "image_id": _ID},
    "retrieval": {"image": _IMAGE, "caption": Field(_texts, "a list of texts, none empty")},
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
        "label": Field(lambda v: v in NLVR_LABELS, "the text 'True' or 'False' (not a JSON boolean)"),
        "images": Field(lambda v: _texts(v) and len(v) == 2, "a list of two paths"),
    },
    "grounding_train": {"image": _IMAGE, "text": _TEXT, "ref_id": _OPTIONAL_ID},
    "grounding": {"image": _IMAGE, "text": _TEXT, "ref_id": _ID},
}

# Names of lists, as the stages know them, with their kind.
LISTS: dict[str, str] = {
    "pretrain": "pretrain",
    **{
        f"{task}_{split}": f"{task}_train" if split == "train" and f"{task}_train" in SCHEMAS else task
        for task in ("retrieval", "vqa", "ve", "nlvr", "grounding")
        for split in ("train", "val", "test")
    },
}

# Not lists of records: the answer candidates of VQA, and boxes for grounding (see `albef.datasets.emoji.lists.make`).
EXTRAS = ("answer_list", "grounding_boxes")


def kind_of(name: str) -> str:
    """The kind of a list by its name.

    Raises:
        SchemaError: If no list has this name.
    """
    if name not in LISTS:
        raise SchemaError(f"{name}: not the name of a list; known are {', '.join(LISTS)}")
    return LISTS[name]


def problems(record: Any, kind: str) -> list[str]:
    """What is wrong with a record, each as "field: expected ..., got ..."; empty if it is sound."""
    if not isinstance(record, dict):
        return [f"record: expected a JSON object, got {_short(record)}"]
    found = []
    for key, field in SCHEMAS[kind].items():
        if key not in record:
            if field.required:
                found.append(f"{key}: missing, expected {field.expected}")
        elif not field.check(record[key]):
            found.append(f"{key}: expected {field.expected}, got {_short(record[key])}")
    return found


def load_rows(path: Path) -> list[Any]:
    """The JSON list at ``path``, its records unchecked.

    Raises:
        SchemaError: If the file is missing, is not JSON or is no list.
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
        kind: A key of `SCHEMAS`; None takes it from the name of the file, see `LISTS`.

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
    """The paths of a record's pictures, as written."""
    images: Sequence[str] = record["images"] if "images" in record else (record["image"],)
    return images


def label_of(record: Record) -> int:
    """Official class index of a checked record of entailment or NLVR2."""
    return (NLVR_LABELS if "images" in record else VE_LABELS).index(record["label"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

"""Tests of reading official lists and rejecting invalid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.data.schema import LISTS, SCHEMAS, SchemaError, images_of, kind_of, problems, read_list
from tests.errors import refuses

GOOD: dict[str, list[dict[str, Any]]] = {
    "pretrain": [{"image": "/abs/a.jpg", "caption": "a dog"}, {"image": "a.jpg", "caption": ["a dog", "a cat"]}],
    "retrieval_train": [
        {"image": "train2014/a.jpg", "caption": "a dog", "image_id": 7},
        {"image": "train2014/a.jpg", "caption": "a dog", "image_id": "coco_522418", "extra": None},
    ],
    "retrieval": [{"image": "val2014/a.jpg", "caption": ["a dog", "a cat"]}],
    "vqa_train": [
        {"question_id": 1, "question": "what?", "answer": ["a"] * 10, "image": "a.jpg", "dataset": "vqa"},
        {"question": "what?", "answer": "a dog", "image": "a.jpg", "dataset": "vg"},
    ],
    "vqa": [
        {"question_id": 1, "question": "what?", "image": "a.jpg", "dataset": "vqa"},
        {"question_id": 1, "question": "what?", "answer": ["a"], "image": "a.jpg", "dataset": "vqa"},
    ],
    "ve": [{"image": "3416050480", "sentence": "a dog", "label": "neutral"}],
    "nlvr": [{"sentence": "two dogs", "label": "False", "images": ["a.png", "b.png"]}],
    "grounding_train": [{"image": "a.jpg", "text": "the dog"}],
    "grounding": [{"image": "a.jpg", "text": "the dog", "ref_id": 4}],
}


def test_every_kind_is_tried() -> None:
    assert set(GOOD) == set(SCHEMAS) == set(LISTS.values())
    assert kind_of("ve_train") == "ve"
    with refuses(SchemaError, "retrieval_dev", "retrieval_val"):
        kind_of("retrieval_dev")


@pytest.mark.parametrize("kind", GOOD)
def test_reads_official_records(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(GOOD[kind]), encoding="utf-8")
    assert read_list(path, kind) == GOOD[kind]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("nlvr", {"label": True}),
        ("nlvr", {"images": ["a.png"]}),
        ("ve", {"label": "maybe"}),
        ("retrieval", {"caption": "a dog"}),
        ("retrieval_train", {"image_id": True}),
        ("retrieval_train", {"image_id": 1.5}),
        ("pretrain", {"caption": []}),
        ("pretrain", {"caption": ["a", " "]}),
        ("pretrain", {"caption": "half \ud83d"}),
        ("pretrain", {"image": ""}),
        ("vqa_train", {"dataset": "coco"}),
        ("grounding", {"ref_id": None}),
    ],
)
def test_names_file_row_and_field(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([GOOD[kind][0], GOOD[kind][0] | change]), encoding="utf-8")
    with refuses(SchemaError, "list.json", "row 1", *change):
        read_list(path, kind)


@pytest.mark.parametrize("kind", GOOD)
def test_missing_fields_are_named(kind: str) -> None:
    required = [key for key, field in SCHEMAS[kind].items() if field.required]
    for key in required:
        record = {k: v for k, v in GOOD[kind][0].items() if k != key}
        assert problems(record, kind)[0].startswith(f"{key}: missing, expected")


def test_unreadable_lists_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.json"
    with refuses(SchemaError, "pretrain.json"):
        read_list(path)
    for text in ("", "{", '"' + "[" * 5, "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with refuses(SchemaError, "pretrain.json"):
            read_list(path)
    path.write_text('{"image": 1}', encoding="utf-8")
    with refuses(SchemaError, "pretrain.json"):
        read_list(path)
    path.write_bytes(b"\xff\xfe[]")
    with refuses(SchemaError, "pretrain.json"):
        read_list(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD)), st.data())
def test_any_json_is_judged_not_crashed_on(kind: str, data: st.DataObject) -> None:
    assert problems(data.draw(JSON), kind) or kind is None
    record = dict(GOOD[kind][0])
    key = data.draw(st.sampled_from(sorted(record)))
    record[key] = data.draw(JSON)
    if not problems(record, kind):
        assert all(isinstance(image, str) and image for image in images_of(record))

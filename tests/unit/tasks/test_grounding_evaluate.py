"""Tests of grounding evaluation: ranked boxes, overlap and reader."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.lists import Lists
from albef.data.schema import SchemaError
from albef.inference.boxes import Box, box_scores, iou
from albef.tasks.grounding.evaluate import GroundingSet
from tests.errors import refuses
from tests.worlds import color_world


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 10, 10], 50 / 150),
        ([0, 0, 10, 10], [2, 3, 4, 5], 20 / 100),
        ([0, 0, 10, 10], [10, 0, 10, 10], 0.0),
        ([0, 0, 10, 10], [8, 0, 10, 10], 20 / 180),
        # A single common column is none: the official code asks for a corner strictly beyond the other.
        ([0, 0, 10, 10], [9, 0, 10, 10], 0.0),
        ([0, 0, 10, 10], [20, 20, 3, 3], 0.0),
    ],
)
def test_overlap_counts_corners_as_pixels(first: Box, second: Box, expected: float) -> None:
    assert iou(first, second) == pytest.approx(expected)
    assert iou(second, first) == pytest.approx(expected)


BOX = st.tuples(
    st.floats(-3, 20), st.floats(-3, 20), st.floats(0.5, 25), st.floats(0.5, 25)
)  # partly or wholly outside the image, with fractional pixels


@settings(deadline=None)
@given(st.lists(BOX, min_size=1, max_size=6), st.integers(1, 16), st.integers(1, 16), st.integers(0, 9))
def test_heat_of_boxes_equals_a_loop_over_pixels(boxes: list[Box], width: int, height: int, seed: int) -> None:
    heat = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    for box, score in zip(boxes, box_scores(heat, boxes), strict=True):
        total = 0.0
        for y in range(max(int(box[1]), 0), min(int(box[1] + box[3]), height)):
            for x in range(max(int(box[0]), 0), min(int(box[0] + box[2]), width)):
                total += float(heat[y, x])
        assert score == pytest.approx(total / math.sqrt(box[2] * box[3]), abs=1e-4)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return color_world(tmp_path / "world", images=8)


def _read(world: Path) -> GroundingSet:
    return GroundingSet.of(Lists(world / "lists", world)["grounding_val"], world / "lists" / "grounding_boxes.json")


def test_reads_boxes_and_proposals(world: Path) -> None:
    split = _read(world)
    assert split.texts[:2] == ["the red half", "the red half"]
    assert split.boxes[:2] == [[0, 0, 32, 16], [0, 16, 32, 16]]
    assert {len(boxes) for boxes in split.proposals} == {4}
    assert set(split.parts) == {"val"}


@pytest.mark.parametrize(
    ("room", "key", "where"),
    [
        ("refs", "val 3", "grounding_val.json, row 3, ref_id"),
        ("proposals", "images/2.png", "grounding_val.json, row 4, image"),
    ],
)
def test_what_is_missing_is_named(world: Path, room: str, key: str, where: str) -> None:
    path = world / "lists" / "grounding_boxes.json"
    boxes = json.loads(path.read_text())
    del boxes[room][key]
    path.write_text(json.dumps(boxes))
    with refuses(SchemaError, where, repr(key), "grounding_boxes.json"):
        _read(world)


@pytest.mark.parametrize("content", ["{", None])
def test_unreadable_boxes_are_named(world: Path, content: str | None) -> None:
    path = world / "lists" / "grounding_boxes.json"
    path.unlink() if content is None else path.write_text(content)
    with refuses(SchemaError, "grounding_boxes.json"):
        _read(world)

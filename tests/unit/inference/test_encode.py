"""Tests of grouping rows into batches by image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from albef.inference.encode import by_image, distinct, evaluating
from albef.models.albef import ALBEF
from tests.errors import refuses
from tests.worlds import tiny_config

ROWS = st.lists(st.tuples(st.integers(0, 6)), max_size=60) | st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60
)


@given(ROWS, st.integers(1, 9))
def test_every_row_once_and_rows_of_an_image_together(numbers: list[tuple[int, ...]], batch: int) -> None:
    images, distinct_images = numbers, distinct([tuple(Path(f"{n}.png") for n in row) for row in numbers])
    assert [tuple(int(distinct_images[0][n].stem) for n in row) for row in distinct_images[1]] == numbers
    parts = list(by_image(images, batch))
    assert sorted(row for rows, _ in parts for row in rows) == list(range(len(images)))
    for rows, paths in parts:
        assert len(paths) == len(set(paths))
        assert set(paths) == {path for row in rows for path in images[row]}
        assert len(rows) <= 4 * batch
    assert all(len(rows) >= batch for rows, _ in parts[:-1])
    counts = Counter(images)
    for image, count in counts.items():
        holders = sum(any(images[row] == image for row in rows) for rows, _ in parts)
        assert holders == 1 or count > 3 * batch


def test_the_mode_of_the_model_comes_back() -> None:
    model = ALBEF(tiny_config().model, 64, "vqa")
    train = tiny_config(precision="bf16").tasks.vqa.train

    def fail() -> None:
        with evaluating(model, train):
            assert not model.training
            assert torch.is_autocast_enabled("cpu")
            raise KeyError("image")

    with refuses(KeyError, "image"):
        fail()
    assert model.training
    assert not torch.is_autocast_enabled("cpu")

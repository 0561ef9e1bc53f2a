"""Tests of the numbers of images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.datasets.image_numbers import ImageNumbers

PATHS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)


@given(mentions=st.lists(st.tuples(PATHS, st.booleans()), max_size=20), chunk=st.integers(1, 5))
def test_numbers_are_places_in_the_sorted_set(mentions: list[tuple[str, bool]], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("albef.datasets.image_numbers._CHUNK_ROWS", chunk)
        numbers = ImageNumbers()
        for path, shrink in mentions:
            numbers.add(path, shrink)
        places = list(numbers.finish())
        paths = sorted({path for path, _ in mentions})
        assert places == [paths.index(path) for path, _ in mentions]
        assert len(numbers) == len(paths)
        shrinks = [all(shrink for other, shrink in mentions if other == path) for path in paths]
        assert list(numbers) == list(zip(paths, shrinks, strict=True))

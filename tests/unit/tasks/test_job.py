from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.tasks.job import above_chance


@pytest.mark.parametrize(
    ("value", "chance", "rows", "above"),
    [(0.5, None, 10, True), (0.36, 0.33, 100, False), (0.36, 0.33, 10_000, True), (0.2, 0.23, 10_000, False)],
)
def test_above_chance(value: float, chance: float | None, rows: int, above: bool) -> None:
    assert above_chance(value, chance, rows) is above


@given(chance=st.floats(0.001, 0.999), rows=st.integers(1, 10**6))
def test_two_standard_errors(chance: float, rows: int) -> None:
    error = math.sqrt(chance * (1 - chance) / rows)
    assert above_chance(chance + 2.01 * error, chance, rows)
    assert not above_chance(chance + 1.99 * error, chance, rows)

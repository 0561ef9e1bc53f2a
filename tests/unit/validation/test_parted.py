"""Property test: validating a table in parts finds what validating it at once finds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.validation.gx_runner import Finding, GxRunner
from albef.validation.parted import PartedList


def _expectations(e: Any) -> list[Any]:
    return [
        e.ExpectColumnValuesToBeNull(column="problem", meta={"name": "fine"}),
        e.ExpectColumnValuesToBeBetween(column="size", min_value=3, meta={"name": "large"}),
        e.ExpectColumnValuesToBeInSet(column="label", value_set=["a", "b"], meta={"name": "known"}),
    ]


@pytest.fixture(scope="module")
def runner() -> GxRunner:
    return GxRunner()


def judge(runner: GxRunner, table: pd.DataFrame, cuts: set[int]) -> list[Finding]:
    """Return the findings on a table that is validated in parts."""
    parted = PartedList(runner, "some", _expectations(runner.gx.expectations))
    for start, stop in pairwise(sorted({0, *cuts, len(table)})):
        parted.add(table[start:stop])
    sums = runner.gx.expectations.ExpectColumnMinToBeBetween(column="rows", min_value=1, meta={"name": "not_empty"})
    return parted.finish([sums], pd.DataFrame({"rows": [len(table)]}))


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.none() | st.just("broken"), st.none() | st.integers(0, 9), st.sampled_from(["a", "b", "c", None])),
        min_size=1,
        max_size=40,
    ),
    cuts=st.sets(st.integers(1, 40), max_size=4),
)
def test_parts_find_what_the_whole_finds(runner: GxRunner, rows: list[Any], cuts: set[int]) -> None:
    columns = dict(zip(("problem", "size", "label"), zip(*rows, strict=True), strict=True))
    table = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns.items()})
    table = table.assign(size=table["size"].astype(float), row=range(len(table)))
    whole = judge(runner, table, set())
    parts = judge(runner, table, {cut for cut in cuts if cut < len(table)})
    assert [f.report() for f in parts] == [f.report() for f in whole]
    assert [f.rows.tolist() for f in parts] == [f.rows.tolist() for f in whole]

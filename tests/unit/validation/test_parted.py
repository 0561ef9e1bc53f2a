"""Property test: validating a table in parts finds what validating it at once finds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from albef.validation.gx_runner import Finding, GxRunner
from albef.validation.parted import PartedList


def _expectations(e: Any) -> list[Any]:
    return [
        e.ExpectColumnValuesToBeNull(column="problem", meta={"name": "fine"}),
        e.ExpectColumnValuesToBeBetween(column="size", min_value=3, meta={"name": "large"}),
        e.ExpectColumnValuesToBeInSet(column="label", value_set=["a", "b"], meta={"name": "known"}),
    ]


def judge(docs: Path, table: pd.DataFrame, cuts: set[int]) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Findings, and the results that the docs show."""
    runner = GxRunner(docs)
    parted = PartedList(runner, "some", _expectations(runner.gx.expectations))
    for start, stop in pairwise(sorted({0, *cuts, len(table)})):
        parted.add(table[start:stop])
    sums = runner.gx.expectations.ExpectColumnMinToBeBetween(column="rows", min_value=1, meta={"name": "not_empty"})
    findings = parted.finish([sums], pd.DataFrame({"rows": [len(table)]}))
    store = runner.context.validation_results_store
    (key,) = store.list_keys()
    result = store.get(key)
    assert result.success == all(finding.success for finding in findings)
    return findings, [{**r.to_json_dict()["result"], "success": r.success} for r in result.results]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.none() | st.just("broken"), st.none() | st.integers(0, 9), st.sampled_from(["a", "b", "c", None])),
        min_size=1,
        max_size=40,
    ),
    cuts=st.sets(st.integers(1, 40), max_size=4),
)
def test_parts_find_what_the_whole_finds(tmp_path: Path, rows: list[Any], cuts: set[int]) -> None:
    columns = dict(zip(("problem", "size", "label"), zip(*rows, strict=True), strict=True))
    table = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns.items()})
    table = table.assign(size=table["size"].astype(float), row=range(len(table)))
    whole, shown = judge(tmp_path, table, set())
    parts, shown_parts = judge(tmp_path, table, {cut for cut in cuts if cut < len(table)})
    assert [f.report() for f in parts] == [f.report() for f in whole]
    assert [f.rows.tolist() for f in parts] == [f.rows.tolist() for f in whole]
    for one, other in zip(shown, shown_parts, strict=True):
        assert one.keys() >= other.keys()
        for key, value in other.items():
            if key == "partial_unexpected_counts":
                assert sorted(value, key=str) == sorted(one[key], key=str)
            else:
                assert value == (pytest.approx(one[key]) if "percent" in key else one[key]), key

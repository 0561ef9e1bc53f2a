"""Tests of JSON lists that are read row by row."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from albef.data.schema import SchemaError, load_rows
from albef.datasets import json_stream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(rows=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 0, 3]), chunk=st.integers(1, 30))
def test_rows_are_those_of_the_whole_list(rows: list[Any], indent: int | None, chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "list.json"
        path.write_text(" \n" + json.dumps(rows, indent=indent, ensure_ascii=False) + " \n", encoding="utf-8")
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert list(json_stream.rows(path)) == rows


@given(text=st.text('[]{},:"\\ \n1e-.anulltrue', max_size=12).map(lambda text: "[" + text), chunk=st.integers(1, 8))
def test_what_is_no_list_for_json_is_none_here(text: str, chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "list.json"
        path.write_text(text, encoding="utf-8")
        patch.setattr(json_stream, "_CHUNK", chunk)
        try:
            expected = load_rows(path)
        except SchemaError:
            with pytest.raises(SchemaError, match="list.json: not valid JSON"):
                list(json_stream.rows(path))
        else:
            assert list(json_stream.rows(path)) == expected


@pytest.mark.parametrize("text", ["", "{}", "3", "nothing", "\ufeff[]", pytest.param("[" * 100_000, id="deep")])
def test_other_files_are_refused_as_by_the_reader_of_lists(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError, match="list.json"):
        load_rows(path)
    with pytest.raises(SchemaError, match="list.json"):
        list(json_stream.rows(path))
    path.write_bytes(b'["\xff"]')
    with pytest.raises(SchemaError, match="not valid JSON"):
        list(json_stream.rows(path))
    with pytest.raises(SchemaError, match="cannot read"):
        list(json_stream.rows(tmp_path / "missing.json"))


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[" + ",".join(['{"caption": "' + "a thing " * 50 + '"}'] * 40_000) + "]")
    assert path.stat().st_size > 15e6
    tracemalloc.start()
    try:
        assert sum(1 for _ in json_stream.rows(path)) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()

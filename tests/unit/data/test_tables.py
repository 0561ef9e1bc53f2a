"""Tests of the tables of records and images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data import tables
from albef.data.lists import records_of
from albef.data.schema import SchemaError
from albef.data.tables import ImageTable, ImageWriter, RecordTable, TableError, write_records
from tests.errors import refuses

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(ANY_JSON, st.lists(st.integers(0, 2**40), max_size=2), st.sampled_from(["a.json", "b.json", None])),
        max_size=20,
    )
)
def test_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, list[int], str | None]]
) -> None:
    path = tmp_path_factory.mktemp("records") / "pretrain.arrow"
    assert write_records(path, rows) == len(rows)
    table = RecordTable(path)
    assert len(table) == len(rows)
    assert list(table) == [record for record, *_ in rows]
    assert list(table.image_rows()) == [images for _, images, _ in rows]
    names, numbers = table.sources()
    assert [names[number] or None for number in numbers] == [source for *_, source in rows]
    assert len(set(names)) == len(names)
    for row, (record, images, _) in enumerate(rows):
        assert table[row] == record
        assert table.images(row) == images
    assert table[1:3] == [record for record, *_ in rows[1:3]]


def test_sources_of_several_batches_have_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 3)
    sources = [None, "b", "a", "a", "c", "b", "b", None]
    write_records(tmp_path / "a.arrow", [({}, (), source) for source in sources])
    names, numbers = RecordTable(tmp_path / "a.arrow").sources()
    assert [names[number] or None for number in numbers] == sources
    assert sorted(names) == ["", "a", "b", "c"]


def test_a_table_without_sources_has_one(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.arrow"
    write_records(path, [({"image": "a.png", "caption": "a"}, [0])] * 3)
    table = datasets.Dataset.from_file(str(path)).remove_columns("source").with_format("arrow")
    with pa.ipc.new_stream(str(tmp_path / "old.arrow"), table.features.arrow_schema) as writer:
        writer.write_table(table[:])
    old = RecordTable(tmp_path / "old.arrow")
    assert list(old) == list(RecordTable(path))
    for found in (old, RecordTable(path)):
        names, numbers = found.sources()
        assert (names, numbers.tolist()) == ([""], [0, 0, 0])


def test_lone_surrogates_come_back(tmp_path: Path) -> None:
    write_records(tmp_path / "a.arrow", [({"caption": "half \ud83d"}, [])])
    assert RecordTable(tmp_path / "a.arrow")[0] == {"caption": "half \ud83d"}


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageTable:
    """Ten images in several batches and files, one of them missing."""
    monkeypatch.setattr(tables, "_BATCH_BYTES", 20)
    monkeypatch.setattr(tables, "_SHARD_BYTES", 50)
    with ImageWriter(tmp_path / "images") as writer:
        for row in range(10):
            assert writer.add(f"{row:02}.png", bytes([row]) * 9 if row != 4 else None) == row
    return ImageTable(tmp_path / "images")


def test_images_come_back_from_several_files(images: ImageTable) -> None:
    assert len(list(images.folder.iterdir())) > 1
    assert len(images) == 10
    assert list(images.paths()) == [f"{row:02}.png" for row in range(10)]
    for row in (0, 3, 9, 5):
        assert images.read(row) == bytes([row]) * 9
        assert images.find(images.path(row)) == row
    assert images.read(4) is None
    assert [images.find(path) for path in ("", "00", "04.pnh", "10.png")] == [None] * 4
    assert pickle.loads(pickle.dumps(images)).read(7) == images.read(7)


def test_the_library_reads_them(images: ImageTable, tmp_path: Path) -> None:
    part = datasets.Dataset.from_file(str(images.folder / "00000.arrow"))
    assert part[0] == {"path": "00.png", "image": {"bytes": bytes(9), "path": None}}
    write_records(tmp_path / "a.arrow", [({"image": "a.png", "image_id": 3}, [0])])
    assert datasets.Dataset.from_file(str(tmp_path / "a.arrow"))[0]["record"] == {"image": "a.png", "image_id": 3}


def test_paths_ascend(tmp_path: Path) -> None:
    with ImageWriter(tmp_path / "images") as writer:
        writer.add("b.png", b"")
        for path in ("a.png", "b.png"):
            with refuses(ValueError, path, "b.png"):
                writer.add(path, b"")


def test_a_data_set_may_have_no_image(tmp_path: Path) -> None:
    with ImageWriter(tmp_path / "images"):
        pass
    table = ImageTable(tmp_path / "images")
    assert (len(table), table.find("a.png")) == (0, None)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.arrow"
    path.write_bytes(b"no table")
    with refuses(TableError, "pretrain.arrow", "albef prepare"):
        RecordTable(path)
    with refuses(SchemaError, "pretrain.arrow"):
        records_of(path)
    with pa.ipc.new_stream(str(path), pa.schema({"other": pa.int64()})):
        pass
    with refuses(TableError, "pretrain.arrow", "other"):
        RecordTable(path)
    with refuses(TableError, "nowhere"):
        ImageTable(tmp_path / "nowhere")
    with refuses(TableError, "gone.arrow"):
        RecordTable(tmp_path / "gone.arrow")

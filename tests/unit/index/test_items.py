"""Tests of metadata and of the filters on them."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.index import builder, items
from albef.index.index import ImageTextIndex
from albef.index.items import FilterError
from albef.index.metadata import Metadata, MetadataError, read
from tests.errors import refuses
from tests.filters import BOMB, HOSTILE
from tests.indexes import FEATURES, encoders, files, image

NAMES = [f"{n:02}.png" for n in range(40)]
SOURCES = ("wiki", "web", None)


def rows(names=NAMES):
    return [
        {"id": name, "year": 2000 + n % 25, "score": n / 8, "source": SOURCES[n % 3], "own": n % 2 == 0}
        for n, name in enumerate(names)
    ]


def make(folder, **options):
    metadata = Metadata(pa.Table.from_pylist(rows()))
    builder.build(folder, encoders(), files(NAMES), ["red"], "float32", metadata, **options)
    return ImageTextIndex(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ImageTextIndex:
    return make(tmp_path_factory.mktemp("index"))


def found(collection, where: str) -> list[str]:
    return sorted(collection.ids(items.select(collection.items, collection.kind, where)))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year >= 2020 AND source = 'wiki'", lambda r: r["year"] >= 2020 and r["source"] == "wiki"),
        ("source IS NULL OR score < 1.5", lambda r: r["source"] is None or r["score"] < 1.5),
        ("NOT own", lambda r: not r["own"]),
        ("id LIKE '1%' AND year BETWEEN 2012 AND 2015", lambda r: r["id"][0] == "1" and 2012 <= r["year"] <= 2015),
        (
            "lower(source) IN ('web', 'none') AND id GLOB '*[02].png'",
            lambda r: r["source"] == "web" and r["id"][1] in "02",
        ),
        ("year + 1 = 2001 -- )\n", lambda r: r["year"] == 2000),
        ("year > 3000", lambda r: False),
        ("row IN (SELECT row FROM images)", lambda r: True),  # harmless, and SQLite compiles no second query
        ("1", lambda r: True),
    ],
)
def test_a_filter_selects_what_it_says(index, where, expected):
    assert found(index.images, where) == [row["id"] for row in rows() if expected(row)]


def test_captions_have_the_same_columns(index):
    assert found(index.captions, "year IS NULL") == ["red"]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_condition_is_refused(index, name):
    where, names = HOSTILE[name]
    before, start = index.images.items.read_bytes(), time.monotonic()
    with refuses(FilterError, *names):
        items.select(index.images.items, "images", where)
    assert time.monotonic() - start < items.SECONDS + 1
    assert index.images.items.read_bytes() == before
    assert sorted(path.name for path in index.images.items.parent.iterdir()) == [
        "captions.faiss",
        "images.faiss",
        "items.db",
    ]


@pytest.mark.parametrize("where", [f"id LIKE '{BOMB}'", f"id GLOB '{'*[a-z]' * 30}'", f"id LIKE '%{'a%' * 90}b'"])
def test_patterns_take_no_longer_on_long_texts(tmp_path, where):
    builder.build(tmp_path, encoders(), {}, ["a" * 5000 + str(n) for n in range(5)], "float32")
    start = time.monotonic()
    items.select(ImageTextIndex(tmp_path).captions.items, "captions", where)
    assert time.monotonic() - start < 1


def test_a_filter_ends_when_its_time_is_over(tmp_path):
    with items.create(tmp_path / items.FILE, None) as db:
        items.insert(db, "images", ((n, str(n)) for n in range(300_000)))
    with refuses(FilterError, 0.01):
        items.select(tmp_path / items.FILE, "images", " OR ".join(["id LIKE '%_x%'"] * 50), seconds=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.sampled_from(["year >= 2012", "source = 'web'", "score < 0.5", "0"]), st.booleans())
def test_a_filtered_search_equals_brute_force(tmp_path_factory, k, where, lists):
    index = make(tmp_path_factory.mktemp("index"), exact_below=10 if lists else 100).images
    assert hasattr(index.index, "nlist") == lists
    queries = np.random.default_rng(k).standard_normal((3, FEATURES)).astype(np.float32)
    selected = index.select(where)
    scores, got = index.search(queries, k, selected)
    names = found(index, where)
    exact = queries @ np.array([image(name)[1] for name in names], np.float32).reshape(-1, FEATURES).T
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    if lists and 0 < len(names) > k:  # some lists are not probed
        assert all(set(index.ids(line)) <= set(names) for line in got)
        return
    assert [index.ids(line) for line in got] == [[names[at] for at in line] for line in order]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-4)


def test_near_duplicates_are_left_out(index):
    part = index.images
    queries = np.random.default_rng(0).standard_normal((2, FEATURES)).astype(np.float32)
    features = part.segments.features(part.rows)
    for threshold in (-3.0, 0.0, 2.0, 1e9):
        for query, (_, got) in zip(queries, part.candidates(queries, 9, distinct=threshold), strict=True):
            expected: list[int] = []
            for row in np.argsort(-(features @ query), kind="stable")[:36]:
                if all(features[row] @ features[other] < threshold for other in expected):
                    expected.append(int(row))
            assert got.tolist() == expected[:9]


def write(folder, name, records):
    path = folder / name
    if name.endswith(".csv"):
        lines = [
            ",".join(records[0]),
            *(",".join("" if v is None else str(v) for v in row.values()) for row in records),
        ]
        path.write_text("\n".join(lines))
    elif name.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_formats_of_metadata(tmp_path, name):
    records = [
        {"id": "01", "Day": "2024-02-03", "n": 1, "x": 0.5, "yes": True},
        {"id": "002", "Day": "2023-01-01", "n": 2, "x": 1.0, "yes": False},
    ]
    metadata = read(write(tmp_path, name, records))
    assert metadata.types == {"Day": "TEXT", "n": "INTEGER", "x": "REAL", "yes": "INTEGER"}
    assert metadata.rows["002"] == {"Day": "2023-01-01", "n": 2, "x": 1.0, "yes": False}


def test_metadata_change_without_encoding(tmp_path):
    make(tmp_path)
    encoded: list[str] = []
    records = [{"id": "01.png", "year": 1900, "place": "Rome"}, {"id": "red", "place": "Oslo"}]
    builder.add(tmp_path, encoders(encoded=encoded), {}, [], Metadata(pa.Table.from_pylist(records)))
    index = ImageTextIndex(tmp_path)
    assert not encoded
    assert found(index.images, "year = 1900 AND place = 'Rome' AND score = 0.125") == ["01.png"]
    assert found(index.captions, "place = 'Oslo'") == ["red"]
    # A replaced image keeps its metadata, and so do rows that are compacted.
    builder.add(tmp_path, encoders(), files(["01.png"]), [])
    builder.remove(tmp_path, NAMES[2:30])
    index = ImageTextIndex(tmp_path)
    assert found(index.images, "year = 1900") == ["01.png"]
    kept = [row for n, row in enumerate(rows()) if n in (0, 1) or n >= 30]
    assert found(index.images, "year < 2009") == [row["id"] for row in kept if row["year"] < 2009]


@pytest.mark.parametrize(
    ("records", "names"),
    [
        ([{"id": "01.png", "year": "old"}], ["m", "year"]),
        ([{"id": "none.png", "year": 1}, {"id": "nothing", "year": 1}], ["'none.png'", 1]),
        ([{"id": "01.png"}], ["'id'"]),
        ([{"image": "01.png", "year": 1}], ["'id'"]),
        ([{"id": "01.png", "row": 1}], ["row"]),
        ([{"id": "01.png", "a b": 1}], ["a b"]),
        ([{"id": "01.png", 'x" INTEGER); DROP TABLE images; --': 1}], ["DROP"]),
        ([{"id": "01.png", "tags": ["a"]}], ["list"]),
        ([{"id": "01.png", "a": 1}, {"id": "01.png", "a": 2}], ["'id'"]),
        ([{"id": None, "a": 1}], ["'id'"]),
    ],
)
def test_unsuitable_metadata_change_nothing(tmp_path, records, names):
    make(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with refuses(MetadataError, *names):
        builder.add(tmp_path, encoders(), {}, [], Metadata(pa.Table.from_pylist(records), "m"))
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert len(ImageTextIndex(tmp_path).images) == len(NAMES)


@pytest.mark.parametrize(("name", "content"), [("m.txt", b""), ("m.csv", b""), ("m.jsonl", b"{"), ("none.csv", None)])
def test_unreadable_metadata_are_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with refuses(MetadataError, name):
        read(tmp_path / name)

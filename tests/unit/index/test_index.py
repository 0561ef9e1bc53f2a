from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.index import builder as writing
from albef.index.index import ImageTextIndex
from albef.index.segments import SearchIndexError
from tests.errors import refuses
from tests.indexes import FEATURES, caption, encoders, files, image


def make(folder, images=7, captions=5, dtype="float32", **options):
    names, texts = [f"i{n}" for n in range(images)], [f"c{n}" for n in range(captions)]
    writing.build(folder, encoders(), files(names), texts, dtype, **options)
    return names, texts


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 9))
def test_search_equals_brute_force(tmp_path_factory, images, captions, k, seed):
    folder = tmp_path_factory.mktemp("gallery")
    names, texts = make(folder, images, captions)
    gallery = ImageTextIndex(folder)
    queries = np.random.default_rng(seed).standard_normal((3, FEATURES)).astype(np.float32)
    for part, ids, encode in ((gallery.images, names, image), (gallery.captions, texts, caption)):
        scores, rows = part.search(queries, k)
        exact = queries @ np.array([encode(key)[1] for key in ids], np.float32).reshape(-1, FEATURES).T
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        assert rows.shape == scores.shape == (3, min(k, len(ids)))
        assert [part.ids(line) for line in rows] == [[ids[at] for at in line] for line in order]
        np.testing.assert_allclose(scores, np.take_along_axis(exact, order, 1), atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3), ("int8", 2e-2)])
def test_embeddings_come_back(tmp_path, dtype, tolerance):
    names, texts = make(tmp_path, dtype=dtype)
    gallery = ImageTextIndex(tmp_path)
    got, mask = gallery.images.segments.embeds([6, 0, 0])
    assert got.dtype == np.float32
    assert mask.all()
    np.testing.assert_allclose(got, [image(names[row])[0] for row in (6, 0, 0)], atol=tolerance)
    embeds, mask = gallery.captions.segments.embeds([4, 1], step=4)
    assert embeds.shape[1] % 4 == 0
    for row, number in enumerate([4, 1]):
        tokens, features = caption(texts[number])
        assert mask[row].sum() == len(tokens)
        np.testing.assert_allclose(embeds[row, : len(tokens)], tokens, atol=tolerance)
        assert not embeds[row, len(tokens) :].any()
        np.testing.assert_array_equal(gallery.captions.segments.features([number])[0], features)


def test_everything_large_stays_on_disk(tmp_path):
    make(tmp_path)
    segment = ImageTextIndex(tmp_path).images.segments.open(0)
    assert all(isinstance(array, np.memmap) for array in (segment.embeds, segment.features))


def test_int8_is_a_quarter(tmp_path):
    sizes = {}
    for dtype in ("float32", "int8"):
        make(tmp_path / dtype, dtype=dtype)
        sizes[dtype] = ImageTextIndex(tmp_path / dtype).images.segments.open(0).embeds.nbytes
    assert sizes["int8"] * 4 == sizes["float32"]


def test_another_model_is_refused(tmp_path):
    make(tmp_path)
    gallery = ImageTextIndex(tmp_path)
    assert gallery.check("m", "t") is gallery
    with refuses(SearchIndexError, "model_hash", "m", "other"):
        gallery.check("other", "t")
    with refuses(SearchIndexError, "tokenizer_hash", "t", "words"):
        gallery.check("m", "words")


def test_older_format_is_refused(tmp_path):
    make(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "albef-gallery-1"}))
    with refuses(SearchIndexError, "'albef-gallery-1'", "'albef-index-3'"):
        ImageTextIndex(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        *(f"index-1/{file}" for file in ("images.faiss", "captions.faiss", "items.db")),
        *(f"images-1-0/{file}" for file in ("embeds.bin", "starts.npy", "features.npy")),
        "captions-1-0/embeds.bin",
    ],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    make(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-2])
    with refuses(SearchIndexError, tmp_path):
        ImageTextIndex(tmp_path)


def test_inverted_lists_that_hold_too_few_are_searched_further(tmp_path):
    make(tmp_path, images=40, exact_below=10)
    part = ImageTextIndex(tmp_path).images
    assert hasattr(part.index, "nlist")
    part.index.nprobe = 1
    _, rows = part.search(np.ones((2, FEATURES), np.float32), 40)
    assert sorted(rows[0]) == sorted(rows[1]) == list(range(40))

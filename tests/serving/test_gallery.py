from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.serving.gallery import Gallery, GalleryError, Manifest, top, write


def make(folder, images=7, captions=5, dtype="float32", batch=3, seed=0):
    """A gallery of random arrays, and those arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "embeds": rng.standard_normal((images, 4, 6)).astype(np.float32),
        "feats": rng.standard_normal((images, 8)).astype(np.float32),
        "texts": rng.standard_normal((captions, 9, 5)).astype(np.float32),
        "text_feats": rng.standard_normal((captions, 8)).astype(np.float32),
        "lengths": rng.integers(1, 10, size=captions),
    }
    mask = (np.arange(9) < data["lengths"][:, None]).astype(np.int64)
    manifest = Manifest("m", "t", [f"i{n}" for n in range(images)], [f"c{n}" for n in range(captions)])
    cut = [slice(s, s + batch) for s in range(0, max(images, captions), batch)]
    write(
        folder,
        manifest,
        ((data["embeds"][c], data["feats"][c]) for c in cut if len(data["embeds"][c])),
        ((data["texts"][c], data["text_feats"][c], mask[c]) for c in cut if len(data["texts"][c])),
        dtype,
    )
    return data


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 8), st.integers(1, 40), st.integers(0, 9))
def test_search_equals_brute_force(tmp_path_factory, images, captions, batch, k, seed):
    folder = tmp_path_factory.mktemp("gallery")
    data = make(folder, images, captions, batch=batch, seed=seed)
    gallery = Gallery(folder)
    queries = np.random.default_rng(seed + 1).standard_normal((3, 8)).astype(np.float32)
    for search, features in ((gallery.search_images, data["feats"]), (gallery.search_captions, data["text_feats"])):
        scores, rows = search(queries, k)
        exact = queries @ features.T
        assert rows.shape == (3, min(k, len(features)))
        np.testing.assert_array_equal(rows, np.argsort(-exact, axis=1, kind="stable")[:, :k])
        np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 2e-3)])
def test_embeddings_come_back(tmp_path, dtype, tolerance):
    data = make(tmp_path, dtype=dtype)
    gallery = Gallery(tmp_path)
    got = gallery.image_embeds([6, 0, 0])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, data["embeds"][[6, 0, 0]], atol=tolerance)
    embeds, mask = gallery.caption_embeds([4, 1], step=4)
    assert embeds.shape[1] % 4 == 0
    assert mask.sum(axis=1).tolist() == data["lengths"][[4, 1]].tolist()
    for row, caption in enumerate([4, 1]):
        length = data["lengths"][caption]
        np.testing.assert_allclose(embeds[row, :length], data["texts"][caption, :length], atol=tolerance)
        assert not embeds[row, length:].any()


def test_embeddings_stay_on_disk(tmp_path):
    make(tmp_path)
    assert isinstance(Gallery(tmp_path)._image_embeds, np.memmap)


def test_counts_must_agree(tmp_path):
    make(tmp_path)
    path = tmp_path / "gallery.json"
    data = json.loads(path.read_text())
    data["image_ids"].pop()
    path.write_text(json.dumps(data))
    with pytest.raises(GalleryError, match=r"number of images: \[6, 7, 7\]"):
        Gallery(tmp_path)


@pytest.mark.parametrize(
    "name", ["gallery.json", "images.faiss", "captions.faiss", "image_embeds.npy", "caption_embeds.npy"]
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_are_refused(tmp_path, name, damage):
    make(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(GalleryError, match="not a readable gallery"):
        Gallery(tmp_path)


def test_too_few_encoded_rows_are_refused(tmp_path):
    manifest = Manifest("m", "t", ["a", "b"], ["c"])
    one = np.ones((1, 2, 3), np.float32), np.ones((1, 3), np.float32)
    with pytest.raises(GalleryError, match="1 rows, expected 2"):
        write(tmp_path, manifest, [one], [], "float32")


def test_nothing_to_search_is_refused(tmp_path):
    with pytest.raises(GalleryError, match="at least one image and one caption"):
        write(tmp_path, Manifest("m", "t", [], ["c"]), [], [], "float32")


@given(st.lists(st.integers(-3, 3), min_size=1), st.integers(1, 12))
def test_top_is_a_stable_sort(values, k):
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert top(np.array(values, dtype=np.float32), k).tolist() == expected

"""Tests of building, extending and shrinking search indexes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from albef.data.images import ImageError
from albef.index import builder, faiss_index
from albef.index.index import ImageTextIndex
from albef.index.segments import SearchIndexError
from tests import ROOT
from tests.errors import refuses
from tests.indexes import FEATURES, caption, encoders, files, image, rows_by_id

KEYS = [f"folder/ü {n}.png" for n in range(12)]


def content(folder):
    """Return the ids of images and captions; each must be found by its features."""
    opened = ImageTextIndex(folder)
    found = []
    for part, encode in ((opened.images, lambda key: image(key.rpartition("/")[2])), (opened.captions, caption)):
        names = rows_by_id(part)
        assert len(names) == len(part)
        for key, row in names.items():
            tokens, features = encode(key)
            embeds, mask = part.segments.embeds([row])
            np.testing.assert_array_equal(embeds[0][mask[0] == 1], tokens)
            np.testing.assert_array_equal(part.segments.features([row])[0], features)
            if not hasattr(part.index, "nlist"):
                scores, _ = part.search(features[None], 1)
                assert scores[0, 0] >= features @ features - 1e-4
        everything = part.search(np.ones((1, FEATURES), np.float32), 10_000)[1][0]
        assert sorted(part.ids(everything)) == sorted(names)
        found.append(set(names))
    return tuple(found)


subsets = st.lists(st.sampled_from(KEYS), unique=True, max_size=9)
changes = st.lists(st.tuples(st.sampled_from(["add", "remove", "build"]), subsets, subsets), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(changes, st.sampled_from([2, 6, 100]))
def test_changes_are_those_of_a_dictionary(tmp_path_factory, changes, exact_below):
    folder = tmp_path_factory.mktemp("gallery")
    segment_rows, builder.SEGMENT_ROWS = builder.SEGMENT_ROWS, 3
    try:
        images, texts = set(KEYS[:4]), set(KEYS[:2])
        builder.build(folder, encoders(), files(KEYS[:4]), KEYS[:2], "float32", exact_below=exact_below)
        for verb, some, others in changes:
            if verb == "remove":
                gone = [key for key in some if key in images], [key for key in others if key in texts]
                if set(gone[0]) == images and set(gone[1]) == texts:
                    with refuses(SearchIndexError, folder):
                        builder.remove(folder, *gone, exact_below=exact_below)
                    continue
                builder.remove(folder, *gone, exact_below=exact_below)
                images, texts = images - set(gone[0]), texts - set(gone[1])
            elif verb == "add":
                builder.add(folder, encoders(), files(some), others, exact_below=exact_below)
                images, texts = images | set(some), texts | set(others)
            elif some or others:
                builder.build(folder, encoders(), files(some), others, "float32", exact_below=exact_below)
                images, texts = set(some), set(others)
            assert content(folder) == (images, texts)
            opened = ImageTextIndex(folder)
            for part in (opened.images, opened.captions):
                assert hasattr(part.index, "nlist") == (len(part) >= exact_below)
    finally:
        builder.SEGMENT_ROWS = segment_rows


def test_what_a_reader_opened_stays_for_one_change(tmp_path):
    builder.build(tmp_path, encoders(), files(KEYS[:2]), [], "float32")
    old = ImageTextIndex(tmp_path).manifest
    builder.add(tmp_path, encoders(), files(KEYS[2:3]), [])
    assert (tmp_path / old.folder).is_dir()
    builder.add(tmp_path, encoders(), files(KEYS[3:4]), [])
    assert not (tmp_path / old.folder).exists()
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        *("index-2", "index-3"),
        *("images-1-0", "images-2-0", "images-3-0"),
    }


def test_adding_encodes_what_is_new_alone(tmp_path):
    builder.build(tmp_path, encoders(), files(["a", "b"]), ["red"], "float32")
    encoded: list[str] = []
    builder.add(tmp_path, encoders(encoded=encoded), files(["b", "c"]), ["red", "blue", "blue"])
    assert encoded == ["b", "c", "blue"]
    assert content(tmp_path) == ({"a", "b", "c"}, {"red", "blue"})
    assert builder.add(tmp_path, encoders(), {}, ["red"]).generation == 2  # nothing to do


def test_mostly_empty_segments_are_thinned_out(tmp_path):
    builder.build(tmp_path, encoders(), files(KEYS), [], "int8")
    size = ImageTextIndex(tmp_path).images.segments.open(0).embeds.nbytes
    builder.remove(tmp_path, KEYS[1:])
    images = ImageTextIndex(tmp_path).images
    assert len(images.part.segments) == 1
    assert images.segments.open(0).embeds.nbytes * len(KEYS) == size
    assert set(rows_by_id(ImageTextIndex(tmp_path).images)) == {KEYS[0]}


def test_unknown_ids_are_named_and_nothing_changes(tmp_path):
    builder.build(tmp_path, encoders(), files(["a", "b"]), ["red"], "float32")
    before = (tmp_path / "manifest.json").read_bytes()
    with refuses(SearchIndexError, tmp_path, "image", "'x'"):
        builder.remove(tmp_path, ["a", "x", "y"])
    with refuses(SearchIndexError, tmp_path, "caption", "'blue'"):
        builder.remove(tmp_path, [], ["blue"])
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_another_model_is_refused(tmp_path):
    builder.build(tmp_path, encoders(), files(["a"]), [], "float32")
    with refuses(SearchIndexError, "model_hash", "m", "other"):
        builder.add(tmp_path, encoders(model_hash="other"), files(["b"]), [])
    builder.build(tmp_path, encoders(model_hash="other"), files(["b"]), [], "float32")
    assert ImageTextIndex(tmp_path).check("other", "t").manifest.generation == 2


def test_nothing_to_search_is_refused(tmp_path):
    with refuses(SearchIndexError, tmp_path):
        builder.build(tmp_path, encoders(), {}, [], "float32")


def failing(after: int, encoded: list[str]):
    """Return encoders that fail at the image after ``after`` inputs."""
    real = encoders(batch=1, encoded=encoded)

    def images(paths):
        if len(encoded) == after:
            raise ImageError("unreadable image")
        return real.images(paths)

    return dataclasses.replace(real, images=images)


def test_an_interrupted_change_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SEGMENT_ROWS", 2)
    builder.build(tmp_path, encoders(), files(["a"]), ["red"], "float32")
    new = files([f"n{n}" for n in range(7)])
    with pytest.raises(ImageError):
        builder.add(tmp_path, failing(5, []), new, ["blue"])
    assert content(tmp_path) == ({"a"}, {"red"})  # as it was
    encoded: list[str] = []
    builder.add(tmp_path, encoders(encoded=encoded), new, ["blue"])
    assert encoded == ["n4", "n5", "n6", "blue"]  # two whole segments were there
    assert content(tmp_path) == ({"a", *new}, {"red", "blue"})
    assert not (tmp_path / "plan.json").exists()


def test_what_another_change_left_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SEGMENT_ROWS", 2)
    builder.build(tmp_path, encoders(), files(["a"]), [], "float32")
    with pytest.raises(ImageError):
        builder.add(tmp_path, failing(5, []), files([f"n{n}" for n in range(7)]), [])
    encoded: list[str] = []
    builder.add(tmp_path, encoders(encoded=encoded), files([f"n{n}" for n in range(1, 7)]), [])
    assert len(encoded) == 6
    assert len(ImageTextIndex(tmp_path).images) == 7


ADDING = """
import sys, pathlib
from albef.index import builder
from tests.indexes import encoders, files
builder.SEGMENT_ROWS, number = 3, int(sys.argv[2])
while True:
    names = [f"{number}-{n}" for n in range(10)]
    builder.add(pathlib.Path(sys.argv[1]), encoders(), files(names), [f"caption {number}"])
    print(number, flush=True)
    number += 1
"""


def test_a_kill_in_the_middle_of_a_change_loses_nothing(tmp_path):
    builder.build(tmp_path, encoders(), files(KEYS), [], "float32")
    done, pauses = 0, np.random.default_rng(0).uniform(0, 0.1, 8)
    for pause in pauses:
        command = [sys.executable, "-c", ADDING, str(tmp_path), str(done)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            acknowledged = int(process.stdout.readline())
            time.sleep(pause)
            process.kill()
            acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
        images, texts = content(tmp_path)
        done = len(texts)
        assert done in (acknowledged + 1, acknowledged + 2)  # the last one may have been finished, but not said
        assert texts == {f"caption {number}" for number in range(done)}
        assert images == {*KEYS, *(f"{number}-{n}" for number in range(done) for n in range(10))}
    builder.add(tmp_path, encoders(), files(["last"]), [])
    assert not (tmp_path / "plan.json").exists()
    assert not list(tmp_path.glob("index-*/.*"))


def test_two_changes_at_once_are_refused(tmp_path):
    code = (
        "import sys, pathlib; from albef.index.builder import _locked\n"
        "with _locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with refuses(SearchIndexError, tmp_path):
            builder.build(tmp_path, encoders(), files(["a"]), [], "float32")
        other.stdin.close()
        other.wait(10)
    deadline = time.monotonic() + 5
    builder.build(tmp_path, encoders(), files(["a"]), [], "float32")
    assert time.monotonic() < deadline


def test_inverted_lists_find_what_the_exact_search_finds():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((50, 16)).astype(np.float32)
    features = centers[rng.integers(0, 50, 5000)] + 0.3 * rng.standard_normal((5000, 16)).astype(np.float32)
    queries = centers[rng.integers(0, 50, 200)] + 0.5 * rng.standard_normal((200, 16)).astype(np.float32)
    rows = np.arange(5000) * 7
    made = faiss_index.build(features, rows, queries, exact_below=1000)
    assert made.nprobe < made.nlist
    _, found = made.search(queries, 32)
    nearest = np.argsort(-(queries @ features.T), axis=1)[:, :32] * 7
    shared = [len(set(line) & set(exact)) for line, exact in zip(found, nearest, strict=True)]
    assert np.mean(shared) >= 0.98 * 32

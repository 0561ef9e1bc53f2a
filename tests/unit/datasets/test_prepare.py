"""Tests of the prepare stage: reproducibility and official lists."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from albef.config import ConfigError, ListsConfig
from albef.data.images import ImageError, load_image
from albef.data.lists import Images, Lists, file_of
from albef.data.schema import LISTS, SchemaError, images_of
from albef.data.tables import SUFFIX, RecordTable
from albef.datasets import prepare
from albef.datasets.emoji.lexicon import LexiconError
from tests.errors import refuses
from tests.unit.conftest import SPRITES, small

MADE = [name for name in LISTS if name != "text_assignment"]
"""Lists of the built-in data set."""


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def records_in(folder: Path, name: str) -> Any:
    """Records as prepared, malformed ones included."""
    path = file_of(folder, name)
    return RecordTable(path) if path.suffix == SUFFIX else json.loads(path.read_text())


def test_the_same_seed_writes_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    prepare.run(small(), SPRITES, tmp_path / "again")
    assert content(tmp_path / "again") == content(prepared)
    prepare.run(dataclasses.replace(small(), seed=8), SPRITES, tmp_path / "other")
    other = content(tmp_path / "other")
    assert other.keys() == content(prepared).keys()
    assert sum(a != b for a, b in zip(other.values(), content(prepared).values(), strict=True)) > 0.9 * len(other)


def test_writes_every_list_and_every_image(prepared: Path) -> None:
    used = set()
    for name in MADE:
        records = Lists(prepared, prepared)[name]
        assert len(records) >= 20, name
        used.update(i for r in records for i in images_of(r))
    images = Images(prepared)
    assert images.table is not None
    assert used == set(images.table.paths())
    assert load_image(images.find("images/test/000000.png")).size == (64, 64)


def test_lists_stay_within_their_split(prepared: Path) -> None:
    for name in MADE:
        split = name.rpartition("_")[2]
        images = {i.split("/")[1] for r in Lists(prepared, prepared)[name] for i in images_of(r)}
        assert images == {split}


def test_the_manifest_counts_and_hashes(prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert set(MADE) <= set(manifest["lists"])
    for name, entry in manifest["lists"].items():
        path = file_of(prepared, name)
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["rows"] == len(records_in(prepared, name))
    assert manifest["images"]["count"] == 150 + 150 + 40 + 40


def test_scene_records_describe_the_images(prepared: Path) -> None:
    scenes = json.loads((prepared / "scenes.json").read_text())
    assert {s: len(r) for s, r in scenes.items()} == {"pretrain": 150, "train": 150, "val": 40, "test": 40}
    images = Images(prepared)
    for record in scenes["test"]:
        assert images.find(record["image"]).read()
        assert record["objects"]
        assert all(len(o["box"]) == 4 for o in record["objects"])


def test_a_failure_leaves_no_half_written_folder(tmp_path: Path) -> None:
    with pytest.raises(LexiconError):
        prepare.run(small(), tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def official(folder: Path, lists: dict[str, Any], **changes: Any) -> Any:
    """Images and lists as downloaded, and their configuration."""
    (folder / "coco" / "train2014").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(folder / "coco" / "train2014" / "1.jpg")
    files: dict[str, list[str]] = {}
    for name, records in lists.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
        files.setdefault(name.split(".")[0], []).append(f"{name}.json")
    values = {"image_root": "coco", "files": files} | changes
    return dataclasses.replace(small(), source="lists", lists=ListsConfig(**values))


def test_official_lists_are_joined_and_normalized(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "artifacts" / "data"
    config = official(
        raw,
        {
            "pretrain.coco": [{"image": "train2014/1.jpg", "caption": "a dog"}],
            "pretrain.vg": [{"image": "/vg/2.jpg", "caption": ["a cat"]}],
            "ve_train": [{"image": "3416050480", "sentence": "a dog", "label": "neutral"}, "malformed"],
            "nlvr_train": [{"sentence": "x", "label": True, "images": ["a.png", "b.png"]}],
            "answer_list": ["yes", "no", "yes"],
            "grounding_boxes": {"refs": {"1": {"image": "a", "box": [0, 0, 1, 1]}}, "proposals": {}},
        },
    )
    prepare.run(config, raw, out)
    assert [r["image"] for r in RecordTable(out / "pretrain.arrow")] == ["train2014/1.jpg", "/vg/2.jpg"]
    # Malformed records go on: the gate judges them.
    assert RecordTable(out / "ve_train.arrow")[1] == "malformed"
    assert RecordTable(out / "ve_train.arrow")[0]["image"] == "3416050480.jpg"
    assert RecordTable(out / "nlvr_train.arrow")[0]["label"] == "True"
    assert json.loads((out / "answer_list.json").read_text()) == ["yes", "no"]
    assert json.loads((out / "grounding_boxes.json").read_text())["refs"]["1"]["box"] == [0, 0, 1, 1]
    images = Images(out)
    assert images.find("train2014/1.jpg").read() == (raw / "coco" / "train2014" / "1.jpg").read_bytes()
    with refuses(ImageError, "/vg/2.jpg"):
        images.find("/vg/2.jpg").read()
    absolute = dataclasses.replace(config.lists, image_root=str(raw / "coco"))
    prepare.run(dataclasses.replace(config, lists=absolute), raw, out)
    assert Images(out).find("train2014/1.jpg").read()


def test_other_images_under_the_same_lists_change_the_manifest(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    config = official(raw, {"pretrain": [{"image": "train2014/1.jpg", "caption": "a dog"}]})
    prepare.run(config, raw, out)
    before = (out / "manifest.json").read_bytes()
    prepare.run(config, raw, out)
    assert (out / "manifest.json").read_bytes() == before
    Image.new("RGB", (400, 400), "blue").save(raw / "coco" / "train2014" / "1.jpg")
    prepare.run(config, raw, out)
    assert (out / "manifest.json").read_bytes() != before


@pytest.mark.parametrize(
    ("name", "record", "side"),
    [
        ("retrieval_val", {"caption": ["a dog"]}, 20),
        ("grounding_train", {"text": "a dog"}, 40),
        ("grounding_val", {"text": "a dog", "ref_id": 1}, 40),
    ],
)
def test_large_images_are_shrunk_except_those_of_grounding(
    tmp_path: Path, name: str, record: dict[str, Any], side: int
) -> None:
    path = "train2014/1.jpg"
    lists = {"pretrain": [{"image": path, "caption": "a dog"}], name: [{"image": path, **record}]}
    config = official(tmp_path / "raw", lists)
    prepare.run(dataclasses.replace(config, max_side=20), tmp_path / "raw", tmp_path / "out")
    assert load_image(Images(tmp_path / "out").find(path)).size == (side, side)


@pytest.mark.parametrize(
    ("lists", "changes", "names"),
    [
        ({"retrieval_dev": []}, {}, ["prepare.lists.files.retrieval_dev"]),
        ({}, {"files": {"pretrain": []}}, ["prepare.lists.files.pretrain"]),
        ({}, {"files": {"pretrain": ["no.json"]}}, ["no.json"]),
        ({"pretrain": {"a": 1}}, {}, ["pretrain.json"]),
        ({"grounding_boxes": [1]}, {}, ["grounding_boxes.json, row 0, ref_id"]),
        ({"grounding_boxes": 1}, {}, ["grounding_boxes.json", "refs", "proposals"]),
        ({"grounding_boxes": {"refs": {}}}, {}, ["grounding_boxes.json, proposals"]),
        ({"grounding_boxes": {"9": [[1, 2]]}}, {}, ["grounding_boxes.json, 9"]),
        ({"pretrain": []}, {"folders": {"vg": "coco"}}, ["prepare.lists.folders.vg"]),
        ({"pretrain": []}, {"folders": {"pretrain": "vg"}}, ["prepare.lists.folders.pretrain", "coco/vg"]),
        ({"pretrain": []}, {"image_root": "cc3m"}, ["prepare.lists.image_root", "cc3m"]),
    ],
)
def test_names_what_is_wrong_with_official_lists(
    tmp_path: Path, lists: dict[str, Any], changes: dict[str, Any], names: list[str]
) -> None:
    config = official(tmp_path / "raw", lists, **changes)
    with refuses(SchemaError, *names):
        prepare.run(config, tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_source_lists_wants_lists(tmp_path: Path) -> None:
    config = dataclasses.replace(small(), source="lists", lists=None)
    with refuses(ConfigError, "prepare.lists"):
        prepare.run(config, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "bounds"),
    [
        ("max_objects", 1, [2, 4]),
        ("max_objects", 5, [2, 4]),
        ("caption_noise", 1.5, [0, 1]),
        ("image_size", 8, [32]),
        ("val", 0, [1]),
    ],
)
def test_values_out_of_range_are_named(tmp_path: Path, key: str, value: float, bounds: list[int]) -> None:
    with refuses(ConfigError, f"prepare.emoji.{key}", value, *bounds):
        prepare.run(small(**{key: value}), SPRITES, tmp_path / "out")


@pytest.mark.parametrize(("most", "side"), [(2, 32), (3, 96)])
def test_other_worlds_have_every_list(tmp_path: Path, most: int, side: int) -> None:
    prepare.run(small(max_objects=most, image_size=side), SPRITES, tmp_path / "out")
    for name in MADE:
        assert RecordTable(tmp_path / "out" / f"{name}.arrow"), name
    scenes = json.loads((tmp_path / "out" / "scenes.json").read_text())
    assert max(len(r["objects"]) for s in scenes.values() for r in s) == most


def test_paths_of_all_lists_start_from_one_root(tmp_path: Path) -> None:
    config = official(
        tmp_path / "raw",
        {
            "retrieval_train.a": [{"image": "1.jpg", "caption": "a dog", "image_id": 1}],
            "retrieval_train.b": [{"image": "1.jpg", "caption": "a dog", "image_id": 2}, {"image": 3}],
            "pretrain": [{"image": "/old/store/vg/2.jpg", "caption": "x"}, {"image": "/older/2.jpg", "caption": "x"}],
            "nlvr_train": [{"images": ["a.png", 4], "sentence": "x", "label": "true"}],
            "grounding_val": [{"image": "1.jpg", "text": "x", "ref_id": 1}],
            "grounding_boxes": {"refs": {"1": {"image": "1.jpg"}, "2": 3}, "proposals": {"1.jpg": [[1, 1, 2, 2]]}},
        },
        folders={
            "retrieval_train": "train2014",
            "retrieval_train.b.json": ".",
            "nlvr_train": str(tmp_path),
            "grounding_val": "train2014",
            "grounding_boxes": "train2014",
        },
        moved={"/old/store/": ".", "/old": "/new"},
    )
    prepare.run(config, tmp_path / "raw", tmp_path / "out")

    def read(name: str) -> Any:
        return list(records_in(tmp_path / "out", name))

    assert [row["image"] for row in read("retrieval_train")] == ["train2014/1.jpg", "1.jpg", 3]
    # A folder of that name only begins like the moved one.
    assert [row["image"] for row in read("pretrain")] == ["vg/2.jpg", "/older/2.jpg"]
    assert read("nlvr_train")[0] == {"images": [str(tmp_path / "a.png"), 4], "sentence": "x", "label": "True"}
    assert json.loads((tmp_path / "out" / "grounding_boxes.json").read_text()) == {
        "refs": {"1": {"image": "train2014/1.jpg"}, "2": 3},
        "proposals": {"train2014/1.jpg": [[1, 1, 2, 2]]},
    }


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("ve_val", {"image": 3416050480}, {"image": "3416050480.jpg"}),
        ("ve_val", {"image": "3416050480.png"}, {"image": "3416050480.png"}),
        ("ve_val", {"image": True}, {"image": True}),
        ("nlvr_val", {"label": False}, {"label": "False"}),
        ("nlvr_val", {"label": "true"}, {"label": "True"}),
        ("nlvr_val", {"label": 1}, {"label": 1}),
        ("nlvr_val", {"label": "yes"}, {"label": "yes"}),
        ("retrieval_val", {"caption": "a dog"}, {"caption": ["a dog"]}),
        ("retrieval_train", {"caption": "a dog"}, {"caption": "a dog"}),
        ("answer_list", ["yes"], ["yes"]),
    ],
)
def test_official_variants_are_made_alike(tmp_path: Path, name: str, given: Any, wanted: Any) -> None:
    config = official(tmp_path / "raw", {name: [given]})
    prepare.run(config, tmp_path / "raw", tmp_path / "out")
    assert list(records_in(tmp_path / "out", name)) == [wanted]

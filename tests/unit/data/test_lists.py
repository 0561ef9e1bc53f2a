"""Tests of lists as tables and in the official formats."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef import cli
from albef.data.image_text import PairDataset
from albef.data.images import ImageError, decode, load_image
from albef.data.lists import Images, Lists, Rows, names_in
from albef.data.schema import SchemaError
from albef.data.tables import write_records
from albef.datasets.tables import shrink, write
from albef.tasks.base import task_class
from albef.tasks.vqa.train import QuestionDataset
from tests.errors import refuses
from tests.worlds import color_world, tiny_config, write_tables


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return color_world(tmp_path_factory.mktemp("lists") / "world", images=16)


@pytest.fixture(scope="module")
def prepared(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(world, tmp_path_factory.mktemp("tables") / "data")


def first_uses(rows: Rows) -> list[int]:
    """For each row, the first one with the same images."""
    keys = list(rows.image_keys())
    return [keys.index(key) for key in keys]


def test_tables_hold_what_the_lists_hold(world: Path, prepared: Path) -> None:
    lists, tables = Lists(world / "lists", world), Lists(prepared, prepared)
    assert names_in(prepared) == names_in(world / "lists")
    for name in names_in(prepared):
        assert list(tables[name]) == list(lists[name])
        for row, record in enumerate(tables[name]):
            given, found = lists[name].images(row, record), tables[name].images(row, record)
            assert [image.path for image in found] == [image.path for image in given]
            assert [image.read() for image in found] == [image.read() for image in given]
        assert first_uses(tables[name]) == first_uses(lists[name])


def test_lists_and_tables_may_be_combined(world: Path, prepared: Path) -> None:
    for lists in (Lists(world / "lists", prepared), Lists(prepared, world)):
        rows = lists["nlvr_val"]
        pixels = [np.asarray(load_image(image)) for image in rows.images(3, rows[3])]
        expected = [np.asarray(Image.open(world / path)) for path in rows[3]["images"]]
        assert all(np.array_equal(*pair) for pair in zip(pixels, expected, strict=True))
    with refuses(ImageError, "images/none.png"):
        Images(prepared).find("images/none.png").read()


@pytest.mark.parametrize("share", [False, True])
def test_samples_are_the_same(world: Path, prepared: Path, share: bool) -> None:
    config = tiny_config(augment="randaugment")
    train = dataclasses.replace(config.tasks.vqa.train, share_images=share)
    keys = [(epoch, row) for epoch in (0, 3) for row in (0, 7, 15)]
    for kind, name, section in ((QuestionDataset, "vqa_train", train), (PairDataset, "pretrain", config.pretrain)):
        first, second = (
            kind.of(Lists(*folders)[name], config.model, section).__getitems__(keys)
            for folders in ((world / "lists", world), (prepared, prepared))
        )
        for left, right in zip(first, second, strict=True):
            assert left["text"] == right["text"]
            assert all(np.array_equal(*pair) for pair in zip(left["images"], right["images"], strict=True))


def test_every_task_finds_its_lists_in_tables(prepared: Path) -> None:
    lists = Lists(prepared, prepared)
    for name in ("retrieval", "vqa", "entailment", "nlvr2", "grounding"):
        for required in task_class(name).lists:
            assert required in lists or (prepared / f"{required}.json").is_file()
    assert "vqa_holdout" not in lists


def test_a_malformed_row_of_a_table_is_named(prepared: Path, tmp_path: Path) -> None:
    write_records(tmp_path / "pretrain.arrow", [({"image": "images/0.png", "caption": "a"}, [0]), ({"image": 3}, [])])
    rows = pickle.loads(pickle.dumps(Lists(tmp_path, prepared)["pretrain"]))
    assert rows[0]["caption"] == "a"
    with refuses(SchemaError, "pretrain.arrow", "row 1", "image"):
        rows[1]


def test_export_is_the_inverse(world: Path, prepared: Path, tmp_path: Path) -> None:
    arguments = ["data", "export", "--lists", str(prepared), "--images", str(prepared), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    for path in (world / "lists").glob("*.json"):
        assert json.loads((tmp_path / "out" / path.name).read_text()) == json.loads(path.read_text())
    for path in (world / "images").iterdir():
        assert (tmp_path / "out" / "images" / path.name).read_bytes() == path.read_bytes()
    assert cli.main([*arguments, "--only", "ve_val", "--limit", "2"]) == 0
    assert len(json.loads((tmp_path / "out" / "ve_val.json").read_text())) == 2
    assert not (tmp_path / "out" / "pretrain.json").exists()
    assert len(list((tmp_path / "out" / "images").iterdir())) <= 2


@pytest.mark.parametrize("path", ["/somewhere/a.png", "../a.png"])
def test_export_stays_in_its_folder(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str], prepared: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "deep" / "out"
    write(data, {"pretrain": [{"image": path, "caption": "a"}]}, [(path, b"content")])
    arguments = ["data", "export", "--lists", str(data), "--images", str(data), "--out", str(out)]
    assert cli.main(arguments) == 2
    assert path in capsys.readouterr().err
    assert [p.name for p in tmp_path.rglob("*.png")] == []
    assert cli.main([*arguments, "--only", "vqa_val"]) == 2
    assert "vqa_val" in capsys.readouterr().err


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.sampled_from(["PNG", "JPEG"]))
def test_large_images_are_shrunk(width: int, height: int, side: int, kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, kind)
    data = shrink(file.getvalue(), side)
    if max(width, height) <= side:
        assert data == file.getvalue()
    else:
        image = decode(data)
        assert max(image.size) == side
        assert abs(image.width * height - image.height * width) <= max(width, height)
    assert shrink(b"no image", side) == b"no image"

"""Tests of sources of image-text pairs: every format, damaged input, the split and the tables."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef import cli
from albef import config as configuration
from albef.config import ConfigError, PairsConfig, PrepareConfig, TokenizerConfig, ValidateConfig
from albef.data import tokenizer
from albef.data.images import load_image
from albef.data.lists import Images, Lists
from albef.data.schema import SchemaError
from albef.datasets import image_parts, pairs, prepare
from albef.training import run as training
from albef.validation import gate, raw
from tests import ROOT
from tests.errors import refuses
from tests.photos import csv_text, photo, sample, write_parquet, write_photos, write_tar
from tests.worlds import tiny_config


def read(path: Path | str, **changes: Any) -> list[pairs.Pair]:
    return list(pairs.read(PairsConfig(path=str(path), **changes), Path()))


def from_source(path: Path, **changes: Any) -> PrepareConfig:
    """Parameters of the stage for a source."""
    section = PairsConfig(path=str(path), val=0.1, test=0.1)
    demo = configuration.load(ROOT / "params.yaml").prepare
    return dataclasses.replace(demo, source="pairs", pairs=section, **changes)


def gate_config() -> ValidateConfig:
    demo = configuration.load(ROOT / "params.yaml").validate
    return dataclasses.replace(demo, on_bad_record="quarantine", max_bad_share=0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 60 photos with a CSV."""
    folder = write_photos(tmp_path / "photos")
    (folder / "metadata.csv").write_text(csv_text())
    return folder


def test_a_folder(folder: Path) -> None:
    with (folder / "metadata.csv").open("a") as file:
        file.write("000.jpg,a second caption\n060.jpg,missing\n")
    (folder / "001.jpg").write_bytes(b"")
    found = {pair.path: pair for pair in read(folder)}
    assert list(found) == [f"{number:03}.jpg" for number in range(61)]
    assert found["000.jpg"] == pairs.Pair("000.jpg", "000.jpg", photo(0), ["a photo of thing 0", "a second caption"])
    assert found["001.jpg"].image == b""  # an image that the validation finds bad
    assert found["060.jpg"].image is None


def test_images_need_not_be_read(folder: Path, tmp_path: Path) -> None:
    (folder / "003.jpg").unlink()
    write_tar(tmp_path / "a.tar", [sample(0), {"txt": b"no image"}])
    write_parquet(tmp_path / "a.parquet", 2)
    for path in (folder, tmp_path / "a.tar", tmp_path / "a.parquet"):
        config = PairsConfig(path=str(path))
        whole = list(pairs.read(config, Path()))
        assert list(pairs.read(config, Path(), content=False)) == [
            dataclasses.replace(pair, image=None if pair.image is None else b"") for pair in whole
        ]


def test_tar_files(tmp_path: Path) -> None:
    write_tar(tmp_path / "shards" / "00000.tar", map(sample, range(3)))
    write_tar(tmp_path / "shards" / "sub" / "00001.tar", map(sample, range(3, 5)), 3)
    write_parquet(tmp_path / "shards" / "00000.parquet", jpg="width")  # notes of img2dataset
    (tmp_path / "shards" / "00000_stats.json").write_text("{}")
    found = read(tmp_path / "shards")
    assert found == [pairs.Pair(f"{n:09}", f"{n:09}.jpg", photo(n), [f"thing {n}"]) for n in range(5)]
    assert read(tmp_path / "shards" / "*.tar") == read(tmp_path / "shards" / "00000.tar") == found[:3]
    assert read(tmp_path / "shards", caption="url") == [
        dataclasses.replace(pair, captions=["http://x"]) for pair in found
    ]


def test_samples_of_tar_files_may_lack_files(tmp_path: Path) -> None:
    whole = sample(0)
    damaged = [
        {name: whole[name] for name in ("txt", "json")},
        {name: whole[name] for name in ("jpg", "json")},
        {"jpg": whole["jpg"], "txt": "schön".encode("latin-1"), "json": b"{broken"},
        {"jpg": whole["jpg"], "json": b"[1]"},
        {"png": photo(0, kind="PNG"), "json": json.dumps({"captions": ["one", 2]}).encode()},
        {"JPG": whole["jpg"], "seg.png": b"x", "txt": b"", "json": json.dumps({"caption": None}).encode()},
        {"heic": b"x", "txt": b"unknown format"},
    ]
    found = read(write_tar(tmp_path / "a.tar", damaged))
    assert [(pair.path[9:], pair.image is not None, pair.captions) for pair in found] == [
        ("", False, ["thing 0"]),
        (".jpg", True, ["thing 0"]),
        (".jpg", True, ["sch\ufffdn"]),
        (".jpg", True, [""]),
        (".png", True, ["one", ""]),
        (".jpg", True, [""]),
        ("", False, ["unknown format"]),
    ]


def test_parquet_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", 3, failed=[0, 1])
    write_parquet(tmp_path / "1.parquet", 2, caption="TEXT", key="id")  # columns may differ between files
    found = read(tmp_path)
    assert [(p.key, p.path, p.captions) for p in found] == [
        *[(f"{n:09}", f"{n:09}.jpg", [f"thing {n}"]) for n in range(3)],
        *[(str(n), f"{n:09}.jpg", [f"thing {n - 3}"]) for n in (3, 4)],
    ]
    assert [p.image for p in found] == [None, None, photo(2), photo(0), photo(1)]


def test_parquet_files_of_the_hub(tmp_path: Path) -> None:
    images = [{"bytes": photo(n, kind="PNG"), "path": f"{n}.png"} for n in range(3)]
    table = pa.table({"image": [*images, None], "sentences": [["one", "two"], [], None, ["x"]]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path)
    assert [p.captions for p in found] == [["one", "two"], [""], [""], ["x"]]
    assert [p.path[9:] for p in found] == [".png", ".png", ".png", ""]
    assert [p.image for p in found] == [photo(0, kind="PNG"), photo(1, kind="PNG"), photo(2, kind="PNG"), None]


def test_a_data_set_of_the_hub_on_disk(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("hub:./photos", f"hub:{folder}"):
        found = read(path)
        assert [(p.path, p.image, p.captions) for p in found] == [
            (f"{n:09}.jpg", photo(n), [f"a photo of thing {n}"]) for n in range(60)
        ]
    with refuses(SchemaError, "hub:./photos", "split nothing"):
        read("hub:./photos", split="nothing")
    with refuses(SchemaError, "hub:./photos", "prepare.pairs.caption"):
        read("hub:./photos", caption="title")


@pytest.mark.parametrize("name", ["hub:", "hub:  ", "hub:nobody/nothing", "hub:a/b/c/d"])
def test_a_missing_data_set_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refuses(SchemaError, "prepare.pairs.path", name.strip()) as caught:
        read(name)
    assert "\n" not in str(caught.value)


def test_a_column_of_addresses_is_no_image(tmp_path: Path) -> None:
    with refuses(SchemaError, "a.parquet", "url", "str", "prepare.pairs.image", "img2dataset"):
        read(write_parquet(tmp_path / "a.parquet", 2), image="url")


def damaged(folder: Path, kind: str) -> Path:
    """Write a damaged source of shards."""
    folder.mkdir()
    tar, parquet = folder / "00000.tar", folder / "00000.parquet"
    if kind.startswith("tar cut"):
        content = write_tar(tar, map(sample, range(9))).read_bytes()
        tar.write_bytes(content[: int(kind.split()[-1])])
    elif kind == "no tar":
        tar.write_bytes(b"no tar" * 1000)
    elif kind == "empty tar":
        tar.touch()
    elif kind == "cut Parquet":
        content = write_parquet(parquet).read_bytes()
        parquet.write_bytes(content[:-100])
    elif kind == "overwritten Parquet":
        content = write_parquet(parquet).read_bytes()
        parquet.write_bytes(content[:4] + b"x" * 5000 + content[5004:])
    elif kind == "no caption":
        write_tar(tar, [{"jpg": photo(0)}])
    elif kind == "no image":
        write_tar(tar, [{"txt": b"x"}])
    return folder


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tar cut at 300", ["00000.tar", "complete tar file", "again"]),  # within its first header
        ("tar cut at 1024", ["00000.tar", "complete tar file"]),  # within an image
        ("tar cut at 3000", ["00000.tar", "complete tar file"]),  # within a header
        ("tar cut at 3072", ["00000.tar", "complete tar file"]),  # after a header
        ("no tar", ["00000.tar", "complete tar file"]),
        ("empty tar", ["00000.tar", "complete tar file"]),
        ("cut Parquet", ["00000.parquet", "complete Parquet file", "again"]),
        ("overwritten Parquet", ["00000.parquet", "complete Parquet file"]),
        ("no caption", ["caption", "txt", "jpg", "prepare.pairs.caption"]),
        ("no image", ["image", "jpg", "txt", "prepare.pairs.image"]),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, kind: str, expected: list[str]) -> None:
    path = damaged(tmp_path / "shards", kind)
    with refuses(SchemaError, path, *expected) as caught:
        prepare.run(from_source(path), tmp_path, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["shards"]  # nothing half written


def test_sources_that_are_none(tmp_path: Path) -> None:
    write_tar(tmp_path / "mixed" / "a.tar", [sample(0)])
    write_parquet(tmp_path / "mixed" / "b.parquet")
    (tmp_path / "photo.jpg").write_bytes(photo(0))
    for path, found in (
        ("nowhere", "nothing"),
        ("*.tar", "nothing"),
        ("photo.jpg", ".jpg"),
        ("mixed", ".parquet, .tar"),
    ):
        with refuses(SchemaError, "prepare.pairs.path", tmp_path / path, f"found {found}", "expected a folder"):
            read(tmp_path / path)
    with refuses(ConfigError, "prepare.pairs"):
        prepare.run(dataclasses.replace(from_source(tmp_path), pairs=None), tmp_path, tmp_path / "data")


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_split_depends_on_the_key(key: str, val: float, test: float) -> None:
    split = pairs.split_of(key, val, test)
    assert split == pairs.split_of(key, val, test)
    assert pairs.split_of(key, 0, 0) == "train"
    if split == "test":  # a larger part keeps all that it had
        assert pairs.split_of(key, 0.0, test) == pairs.split_of(key, val, 0.6) == "test"


def test_the_fractions_of_the_split() -> None:
    counts = Counter(pairs.split_of(f"{number}.jpg", 0.1, 0.2) for number in range(20_000))
    for split, fraction in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert counts[split] / 20_000 == pytest.approx(fraction, abs=0.02)  # six standard deviations


def test_more_images_move_none(folder: Path) -> None:
    before = {pair.path: pairs.split_of(pair.key, 0.1, 0.1) for pair in read(folder)}
    (folder / "metadata.csv").write_text(csv_text(90))
    after = {pair.path: pairs.split_of(pair.key, 0.1, 0.1) for pair in read(folder)}
    assert len(after) == 90
    assert before.items() <= after.items()
    assert set(before.values()) == {"train", "val", "test"}


def test_the_lists(folder: Path, tmp_path: Path) -> None:
    with (folder / "metadata.csv").open("a") as file:
        file.writelines(f"{number:03}.jpg,another caption\n" for number in range(0, 61, 2))  # 060.jpg is missing
    prepare.run(from_source(folder), tmp_path, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    lists = Lists(tmp_path / "data", tmp_path / "data")
    images = Images(tmp_path / "data")
    assert manifest["without_image"] == 1
    assert manifest["images"]["count"] == 60
    assert {name: len(lists[name]) for name in manifest["lists"]} == {
        name: entry["rows"] for name, entry in manifest["lists"].items()
    }
    several = {f"{number:03}.jpg" for number in range(0, 60, 2)}
    for record in lists["pretrain"]:
        number = int(record["image"][:3])
        both = [f"a photo of thing {number}", "another caption"]
        assert record["caption"] == (both if record["image"] in several else both[0])
        assert images.find(record["image"]).read() == photo(number)
    each = [(r["image"], c) for r in lists["pretrain"] for c in np.atleast_1d(r["caption"])]
    assert each == [(record["image"], record["caption"]) for record in lists["retrieval_train"]]
    for record in lists["retrieval_train"]:
        assert images.table is not None
        assert images.table.path(record["image_id"]) == record["image"]
    names = [{record["image"] for record in lists[name]} for name in ("pretrain", "retrieval_val", "retrieval_test")]
    assert sum(map(len, names)) == len(set.union(*names)) == 60
    table = datasets.Dataset.from_file(str(tmp_path / "data" / "images" / "00000.arrow"))
    assert table[0]["image"]["bytes"] == photo(0)


def test_a_source_without_an_image(folder: Path, tmp_path: Path) -> None:
    for image in folder.glob("*.jpg"):
        image.unlink()
    with refuses(SchemaError, folder, "no image", 60):
        prepare.run(from_source(folder), tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_large_images_are_shrunk(folder: Path, tmp_path: Path) -> None:
    sideways = Image.new("RGB", (300, 200), "red")
    sideways.getexif()[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    sideways.save(file, "PNG", exif=sideways.getexif())
    contents = {"000.jpg": photo(0, (300, 30)), "001.jpg": photo(1, (100, 100)), "002.jpg": file.getvalue()}
    contents |= {"003.jpg": b"no image", "004.jpg": photo(4, (1000, 1))}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    prepare.run(from_source(folder, max_side=100), tmp_path, tmp_path / "data")
    images = Images(tmp_path / "data")
    assert load_image(images.find("000.jpg")).size == (100, 10)
    assert images.find("001.jpg").read() == contents["001.jpg"]
    assert load_image(images.find("002.jpg")).size == (67, 100)
    assert images.find("003.jpg").read() == b"no image"
    assert load_image(images.find("004.jpg")).size == (100, 1)
    with Image.open(io.BytesIO(images.find("002.jpg").read())) as image:
        assert image.format == "JPEG"
        assert image.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


def test_an_interrupted_run_goes_on_with_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = from_source(folder, max_side=16)
    prepare.run(config, tmp_path, tmp_path / "whole")
    monkeypatch.setattr(image_parts, "ROWS", 25)
    read, original = list[str](), image_parts.read_bytes

    def killed_at_30(path: Path) -> bytes:
        if len(read) == 30:
            raise KeyboardInterrupt
        read.append(path.name)
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(image_parts, "read_bytes", killed_at_30)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(config, tmp_path, tmp_path / "data", tmp_path / "work")
    assert not (tmp_path / "data").exists()
    again = list[str]()
    monkeypatch.setattr(image_parts, "read_bytes", lambda path: (again.append(path.name), original(path))[1])
    prepare.run(config, tmp_path, tmp_path / "data", tmp_path / "work")
    assert sorted(again) == [f"{number:03}.jpg" for number in range(25, 60)]
    assert not [*(tmp_path / "work").iterdir()]
    for name in ("pretrain", "retrieval_train", "retrieval_val", "retrieval_test"):
        whole, parted = (Lists(tmp_path / out, tmp_path / out)[name] for out in ("whole", "data"))
        assert [*whole] == [*parted]
        assert len(whole) > 0
    whole, parted = (Images(tmp_path / out) for out in ("whole", "data"))
    for number in range(60):
        assert parted.find(f"{number:03}.jpg").read() == whole.find(f"{number:03}.jpg").read()


def test_the_inspection_of_a_folder(folder: Path, tmp_path: Path) -> None:
    raw.run(from_source(folder), gate_config(), tmp_path, tmp_path / "raw")
    report = json.loads((tmp_path / "raw" / "report.json").read_text())
    assert report["files"] == {"metadata.csv": {"list": "pairs", "rows": 60}}
    (folder / "metadata.csv").write_text(csv_text(70))
    with refuses(raw.RawError, "metadata.csv", "images_exist"):
        raw.run(from_source(folder), gate_config(), tmp_path, tmp_path / "raw")


def test_pairs_pass_the_gate_and_train_retrieval(folder: Path, tmp_path: Path) -> None:
    (folder / "007.jpg").write_bytes(b"no image")  # one bad row is within max_bad_share
    assert pairs.split_of("007.jpg", 0.1, 0.1) == "train"
    config = from_source(folder)
    raw.run(config, gate_config(), tmp_path, tmp_path / "raw")
    prepare.run(config, tmp_path, tmp_path / "data")
    gate.run(gate_config(), tmp_path / "data", tmp_path / "validated")
    lists = tmp_path / "validated" / "lists"
    assert len(Lists(lists, tmp_path / "data")["retrieval_train"]) == 43
    tokenizer.run(TokenizerConfig(kind="wordpiece", vocab_size=128), lists, tmp_path / "tokenizer")
    out = tmp_path / "model"
    metrics = training.run(
        tiny_config(epochs=1),
        "retrieval",
        lists,
        tmp_path / "data",
        tmp_path / "tokenizer",
        out,
        work_dir=tmp_path / "scratch",
        tracking_uri="none",
    )
    assert metrics["skipped_rows"] == 0
    assert (out / "model.pth").is_file()


def test_the_command_line_reports_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = tmp_path / "params.yaml"
    config = dataclasses.replace(tiny_config(), prepare=from_source(tmp_path / "nowhere"))
    params.write_text(json.dumps(configuration.to_dict(config)))
    for stage in ("inspect", "prepare"):
        arguments = [stage, "--params", str(params), "--raw", str(tmp_path), "--out", str(tmp_path / "out")]
        assert cli.main(arguments) == 2
        message = capsys.readouterr().err.strip()
        assert message.startswith(f"albef {stage}: prepare.pairs.path")
        assert "\n" not in message
    assert not (tmp_path / "out").exists()

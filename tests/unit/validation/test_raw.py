"""Tests of the validation of raw lists."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from albef import cli
from albef.config import ListsConfig, PrepareConfig, ValidateConfig
from albef.data.schema import SchemaError
from albef.validation import raw
from albef.validation.raw import RawError
from tests import ROOT
from tests.errors import refuses
from tests.worlds import tiny_config, write_params

FILES = {
    "pretrain": ["coco.json", "vg.json"],
    "ve_train": ["ve.json"],
    "nlvr_train": ["nlvr.json"],
    "answer_list": ["a.json"],
}


def _prepare(**changes: Any) -> PrepareConfig:
    lists = ListsConfig(image_root="images", files=FILES, moved={"/old": "."}, **changes)
    return dataclasses.replace(tiny_config().prepare, source="lists", lists=lists)


@pytest.fixture
def delivered(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes valid raw lists of ten rows, with changes."""

    def write(**changes: Callable[[list[Any]], Any]) -> Path:
        folder = tmp_path / "raw"
        (folder / "images").mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8)).save(folder / "images" / f"{number}.jpg")
        content: dict[str, list[Any]] = {
            "coco": [{"image": f"/old/{i}.jpg", "caption": f"a thing, number {i}"} for i in range(10)],
            "vg": [{"image": f"{i}.jpg", "caption": ["a thing", f"number {i}"]} for i in range(10)],
            "ve": [{"image": i, "sentence": f"it is {i}", "label": "neutral"} for i in range(10)],  # by its number
            "nlvr": [{"images": ["0.jpg", f"{i}.jpg"], "sentence": "two", "label": i > 4} for i in range(10)],
            "a": ["yes", "no"],
        }
        for name, rows in content.items():
            changes.get(name, lambda rows: None)(rows)
            (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        return folder

    return write


def _report(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))["expectations"]
    return {(each["list"], each["name"]): each for each in found}


def test_sound_lists_pass_as_they_were_delivered(
    delivered: Callable[..., Path], config: ValidateConfig, tmp_path: Path
) -> None:
    raw.run(_prepare(), config, delivered(), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["success"]
    assert report["files"]["vg.json"] == {"list": "pretrain", "rows": 10}
    assert len(report["expectations"]) == 4 * 5
    assert all(each["success"] for each in report["expectations"])
    assert (tmp_path / "out" / "docs" / "index.html").is_file()


FAULTS: dict[str, tuple[str, Callable[[list[Any]], Any], str, str]] = {
    "no object": ("coco", lambda rows: rows.__setitem__(3, "text"), "schema", "'text'"),
    "no caption": ("vg", lambda rows: rows[4].pop("caption"), "schema", "caption"),
    "empty text": ("ve", lambda rows: rows[5].update(sentence=" "), "schema", "sentence"),
    "other label": ("ve", lambda rows: rows[6].update(label="maybe"), "schema", "label"),
    "one image": ("nlvr", lambda rows: rows[7].update(images=["0.jpg"]), "schema", "images"),
    "lost": ("coco", lambda rows: rows[8].update(image="/old/88.jpg"), "images_exist", "88.jpg"),
    "not moved": ("coco", lambda rows: rows[9].update(image="/new/1.jpg"), "images_exist", "/new/1.jpg"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_named_with_its_file(
    fault: str, delivered: Callable[..., Path], config: ValidateConfig, quarantine: ValidateConfig, tmp_path: Path
) -> None:
    name, change, expectation, cause = FAULTS[fault]
    folder = delivered(**{name: change})
    with refuses(RawError, f"{name}.json", repr(expectation), 1, cause):
        raw.run(_prepare(), config, folder, tmp_path / "out")
    assert not _report(tmp_path / "out")[f"{name}.json", expectation]["success"]
    if fault == "lost":
        raw.run(_prepare(), quarantine, folder, tmp_path / "out")  # one of twenty: left to the gate behind


def test_warnings_stop_nothing(delivered: Callable[..., Path], config: ValidateConfig, tmp_path: Path) -> None:
    def change(rows: list[Any]) -> None:
        rows[1]["caption"] = "cafÃ© au lait"
        rows[2]["caption"] = "a \x07 bell"
        rows[4]["caption"] = "the naïve café in 東京"
        rows[7] = dict(rows[6])

    raw.run(_prepare(), config, delivered(coco=change), tmp_path / "out")
    report = _report(tmp_path / "out")
    assert [each["row"] for each in report["coco.json", "texts_undamaged"]["examples"]] == [1, 2]
    assert report["coco.json", "rows_differ"]["examples"] == [{"row": 7, "value": "the same as row 6"}]


def test_too_many_are_too_many_of_the_list(
    delivered: Callable[..., Path], quarantine: ValidateConfig, tmp_path: Path
) -> None:
    def lose(number: int) -> Callable[[list[Any]], Any]:
        return lambda rows: [row.update(image="gone.jpg") for row in rows[:number]]

    raw.run(_prepare(), quarantine, delivered(coco=lose(4)), tmp_path / "out")  # 4 of 20 are a fifth
    shutil.rmtree(tmp_path / "raw")
    with refuses(RawError, "coco.json", 4, "images_exist", "vg.json"):
        raw.run(_prepare(), quarantine, delivered(coco=lose(4), vg=lose(1)), tmp_path / "out")
    shutil.rmtree(tmp_path / "raw")
    with refuses(RawError, "vg.json", "'not_empty'", 0):
        raw.run(_prepare(), quarantine, delivered(vg=lambda rows: rows.clear()), tmp_path / "out")


def test_files_in_folders_and_for_two_lists(
    delivered: Callable[..., Path], config: ValidateConfig, tmp_path: Path
) -> None:
    folder = delivered()
    (folder / "snli" / "v1").mkdir(parents=True)
    (folder / "ve.json").rename(folder / "snli" / "v1" / "ve.json")
    files = {"ve_train": ["snli/v1/ve.json"], "ve_val": ["snli/v1/ve.json"], "nlvr_val": ["nlvr.json"]}
    lists = ListsConfig(image_root="images", files=files)
    raw.run(dataclasses.replace(_prepare(), lists=lists), config, folder, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["files"]) == {"ve_train of snli/v1/ve.json", "ve_val of snli/v1/ve.json", "nlvr.json"}
    page = (tmp_path / "out" / "docs" / "index.html").read_text()
    assert all(f'<h2 id="{label}"' in page for label in report["files"])


def test_what_is_no_list_is_named(delivered: Callable[..., Path], config: ValidateConfig, tmp_path: Path) -> None:
    folder = delivered()
    (folder / "ve.json").write_text("{}")
    with refuses(SchemaError, "ve.json"):
        raw.run(_prepare(), config, folder, tmp_path / "out")
    (folder / "ve.json").unlink()
    with refuses(SchemaError, "ve.json"):
        raw.run(_prepare(), config, folder, tmp_path / "out")
    with refuses(SchemaError, "prepare.lists.folders.vg"):
        raw.run(_prepare(folders={"vg": "x"}), config, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="\ufffdÃâ"), max_size=40))
def test_text_of_any_language_is_no_damage(text: str) -> None:
    assert raw._damaged_text({"caption": text}) is None
    assert raw._damaged_text({"caption": ["fine", text + "\ufffd"]})


def test_sprites_are_looked_at_one_by_one(config: ValidateConfig, tmp_path: Path) -> None:
    folder = tmp_path / "sprites"
    shutil.copytree(ROOT / "samples" / "emoji", folder)
    command = ["inspect", "--raw", str(folder), "--out", str(tmp_path / "out")]
    command += ["--params", str(write_params(tiny_config(), tmp_path / "params.yaml"))]
    assert cli.main(command) == 0
    entries = json.loads((folder / "lexicon.json").read_text())
    (folder / entries[2]["file"]).write_bytes(b"not an image")
    del entries[5]["plural"]
    (folder / "lexicon.json").write_text(json.dumps(entries))
    assert cli.main(command) == 2
    (found,) = (each for each in _report(tmp_path / "out").values() if not each["success"])
    assert [each["row"] for each in found["examples"]] == [2, 5]
    assert entries[2]["file"] in found["examples"][0]["value"]
    assert "plural" in found["examples"][1]["value"]

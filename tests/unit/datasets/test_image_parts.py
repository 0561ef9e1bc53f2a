"""Tests of the parts that images of lists are written in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image

from albef.data.tables import ImageTable
from albef.datasets import image_parts, tables

NAMES = [(f"{number}.png", number != 3) for number in range(8)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image_parts, "ROWS", 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "raw").mkdir()
    for number, (name, _) in enumerate(NAMES[:-1]):  # the last one is missing
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / "raw" / name)
    return tmp_path


def write(folder: Path, out: str, side: int | None = 20) -> dict[str, Any]:
    return image_parts.write(NAMES, folder / "raw", side, folder / "work", folder / out)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    original = image_parts.read_bytes

    def recorded(path: Path) -> bytes:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(image_parts, "read_bytes", recorded)
    return names


def test_parts_are_one_table(folder: Path) -> None:
    entry = write(folder, "out")
    table = ImageTable(folder / "out")
    assert entry["count"] == len(table) == 8
    assert list(table.paths()) == [name for name, _ in NAMES]
    for row, (name, shrink) in enumerate(NAMES[:-1]):
        original = (folder / "raw" / name).read_bytes()
        assert table.read(row) == (tables.shrink(original, 20) if shrink else original)
    assert table.read(7) is None
    assert not (folder / "work").exists()
    assert write(folder, "again") == entry
    assert write(folder, "large", side=None)["sha256"] != entry["sha256"]


def test_no_image_is_a_table_without_rows(folder: Path) -> None:
    assert image_parts.write([], folder / "raw", None, folder / "work", folder / "out")["count"] == 0
    assert len(ImageTable(folder / "out")) == 0


def test_an_interrupted_run_goes_on(folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write(folder, "whole")
    shrink = tables.shrink

    def killed(data: bytes, side: int) -> bytes:
        if data == (folder / "raw" / "6.png").read_bytes():
            raise KeyboardInterrupt
        return shrink(data, side)

    with monkeypatch.context() as patch:
        patch.setattr(tables, "shrink", killed)
        with pytest.raises(KeyboardInterrupt):
            write(folder, "out")
    assert not (folder / "out").exists()
    read.clear()
    assert write(folder, "out") == expected
    assert read == ["6.png", "7.png"]  # the third part
    assert not (folder / "work").exists()


@pytest.mark.parametrize("change", ["content", "time", "side"])
def test_parts_of_other_files_are_not_used(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(image_parts.shutil, "move", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write(folder, "out")
    read.clear()
    path = folder / "raw" / "0.png"
    if change == "content":
        Image.new("RGB", (50, 50), "blue").save(path)
    elif change == "time":
        os.utime(path, (1, 1))
    side = 10 if change == "side" else 20
    found = image_parts.write(NAMES, folder / "raw", side, folder / "work", folder / "new")
    assert len(read) == (8 if change == "side" else 3)
    assert found == write(folder, "fresh", side)


def test_a_run_that_ended_while_it_moved_tables_goes_on(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write(folder, "whole")
    move = image_parts.shutil.move

    def killed(source: Path, target: Path) -> None:
        if target.name == "00001.arrow":
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(image_parts.shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            write(folder, "out")
    read.clear()
    assert write(folder, "new") == expected
    assert read == ["0.png", "1.png", "2.png"]  # the first part, whose table has gone with the folder
    assert list(ImageTable(folder / "new").paths()) == [name for name, _ in NAMES]

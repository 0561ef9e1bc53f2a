"""Tests of work with Ray Data: images and facts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from albef import config as configuration
from albef.cluster import cluster
from albef.datasets import image_parts
from albef.validation import facts, gate
from tests import ROOT
from tests.unit.validation.conftest import prepare


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with cluster(2):
        yield


def signed(folder: Path) -> set[str]:
    """Processes that wrote their numbers in a folder."""
    return {path.read_text() for path in folder.rglob("*.pid")}


def test_ray_data_writes_the_images_that_threads_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(f"{number}.png", True) for number in range(20)]
    for number in range(19):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(image_parts, "ROWS", 6)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    names.sort()
    expected = image_parts.write(names, tmp_path, 20, tmp_path / "work", tmp_path / "threads")
    monkeypatch.setattr(image_parts, "RAY_ROWS", 1)
    write = image_parts.Part.write

    def write_and_sign(part: image_parts.Part) -> None:
        write(part)
        (tmp_path / f"{part.folder.name}.pid").write_text(str(os.getpid()))

    monkeypatch.setattr(image_parts.Part, "write", write_and_sign)
    assert image_parts.write(names, tmp_path, 20, tmp_path / "work", tmp_path / "ray") == expected
    assert len(list(tmp_path.glob("*.pid"))) == 4
    assert str(os.getpid()) not in signed(tmp_path)  # others did the work
    for path in (tmp_path / "threads").iterdir():
        assert (tmp_path / "ray" / path.name).read_bytes() == path.read_bytes()


def test_ray_data_finds_what_threads_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    rows = [{"image": f"{number}.png", "caption": f"thing {number}"} for number in range(20)]
    data = prepare(tmp_path / "data", tmp_path, {"pretrain": rows})
    config = configuration.load(ROOT / "params.yaml").validate
    config = dataclasses.replace(config, on_bad_record="quarantine", max_bad_share=0.5)
    monkeypatch.setattr(facts, "IMAGE_ROWS", 6)
    monkeypatch.setattr(facts, "RECORD_ROWS", 6)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    gate.run(config, data, tmp_path / "threads", tmp_path / "work")

    write = facts.Part.write

    def write_and_sign(part: facts.Part) -> None:
        write(part)
        part.file.with_suffix(".pid").write_text(str(os.getpid()))

    with monkeypatch.context() as patch:
        patch.setattr(facts, "RAY_ROWS", 1)
        patch.setattr(facts.Part, "write", write_and_sign)
        facts.Facts(data, tmp_path / "ray").compute()
    assert len(list((tmp_path / "ray").rglob("*.pid"))) == 4 + 4
    assert str(os.getpid()) not in signed(tmp_path)
    gate.run(config, data, tmp_path / "out", tmp_path / "ray")
    for path in (tmp_path / "threads" / "facts").rglob("*.parquet"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "threads")).read_bytes() == path.read_bytes()

"""Test of the facts with Ray Data."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from PIL import Image

from albef import config as configuration
from albef.validation import facts, gate
from tests import ROOT
from tests.unit.validation.conftest import prepare


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

    processes: set[int] = set()
    write = facts.Part.write

    def note(part: facts.Part) -> None:
        write(part)
        Path(f"{part.file}.{os.getpid()}").touch()

    monkeypatch.setattr(facts.Part, "write", note)
    monkeypatch.setattr(facts, "RAY_ROWS", 1)
    try:
        computed = facts.Facts(data, tmp_path / "ray")
        computed.compute()
        parts = [part for parts in computed.parts.values() for part in parts]
        assert len(parts) == 8
        for part in parts:
            (marker,) = part.file.parent.glob(f"{part.file.name}.*")
            processes.add(int(marker.suffix[1:]))
            marker.unlink()
    finally:
        monkeypatch.undo()
    assert os.getpid() not in processes  # others did the work
    monkeypatch.setattr(facts, "IMAGE_ROWS", 6)
    monkeypatch.setattr(facts, "RECORD_ROWS", 6)
    gate.run(config, data, tmp_path / "out", tmp_path / "ray")
    for path in (tmp_path / "threads" / "facts").rglob("*.parquet"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "threads")).read_bytes() == path.read_bytes()

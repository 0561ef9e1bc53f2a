"""Tests of the facts of images and records, also after interruptions."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from albef.data.lists import IMAGE_FOLDER
from albef.validation.facts import Facts
from tests import ROOT
from tests.unit.validation.conftest import prepare


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return _data(tmp_path)


def _data(folder: Path, caption: str = "a thing, and another one") -> Path:
    """Prepared data of ten rows."""
    for number in range(10):
        Image.new("RGB", (40, 30 + number), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"no image")
    (folder / "5.png").unlink()
    rows: list[Any] = [{"image": f"{number}.png", "caption": [caption, "short"]} for number in range(10)]
    return prepare(folder / "data", folder, {"pretrain": [*rows, {"image": "0.png"}]})


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albef.validation.facts.IMAGE_ROWS", 3)
    monkeypatch.setattr("albef.validation.facts.RECORD_ROWS", 4)


def test_facts_of_images(data: Path, tmp_path: Path) -> None:
    facts = Facts(data, tmp_path / "work")
    facts.compute()
    rows = [row for part in facts.parts[IMAGE_FOLDER] for row in part.read().to_pylist()]
    assert [row["row"] for row in rows] == list(range(10))
    assert [row["path"] for row in rows] == [f"{number}.png" for number in range(10)]
    good = [row for row in rows if row["problem"] is None]
    assert {row["row"]: row["problem"].split(":")[0] for row in rows if row["problem"]} == {3: "3.png", 5: "5.png"}
    assert all((r["format"], r["width"], r["height"]) == ("PNG", 40, 30 + r["row"]) for r in good)
    assert all(r["bytes"] == (tmp_path / r["path"]).stat().st_size for r in good)
    assert len({r["pixels"] for r in good}) == 8
    assert rows[3]["bytes"] == 8
    assert rows[5]["bytes"] is None


def test_facts_of_records(data: Path, tmp_path: Path) -> None:
    facts = Facts(data, tmp_path / "work")
    facts.compute()
    assert [(part.start, part.stop) for part in facts.parts["pretrain"]] == [(0, 4), (4, 8), (8, 11)]
    rows = [row for part in facts.parts["pretrain"] for row in part.read().to_pylist()]
    assert [row["images"] for row in rows] == [[number] for number in range(10)] + [[]]
    assert {(row["fewest_words"], row["most_words"]) for row in rows[:10]} == {(1, 5)}
    assert rows[10]["schema_problem"].startswith("caption: missing")
    assert [row["schema_problem"] for row in rows[:10]] == [None] * 10


KILLED = """
import os, signal, sys
from pathlib import Path
from albef.validation import facts

facts.IMAGE_ROWS, facts.RECORD_ROWS = 3, 4
write, data, work = facts.Part.write, Path(sys.argv[1]), Path(sys.argv[2])

def write_or_die(part):
    if (part.name, part.start) == ("pretrain", 4):
        for earlier in found.parts["images"]:
            earlier.file.is_file() or write(earlier)
        os.kill(os.getpid(), signal.SIGKILL)
    write(part)

facts.Part.write = write_or_die
found = facts.Facts(data, work)
found.compute()
"""


def _files(work: Path) -> dict[str, int]:
    """Facts that are complete, with the time of writing."""
    return {str(path.relative_to(work)): path.stat().st_mtime_ns for path in work.rglob("*.parquet")}


def test_a_killed_run_continues_with_the_parts_that_it_wrote(data: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-c", KILLED, str(data), str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = _files(work)
    assert len([name for name in before if name.startswith("facts-images-")]) == 4
    Facts(data, work).compute()
    after = _files(work)
    assert before.items() <= after.items()
    assert len(after) == 4 + 3


def test_a_half_written_part_does_not_count(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Facts(data, tmp_path / "work")

    def fail(table: Any, file: Any) -> None:
        file.write(b"PAR1")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", fail)
        with pytest.raises(OSError, match="disk full"):
            facts.compute()
    assert not _files(tmp_path / "work")


def test_other_texts_keep_the_facts_of_images(data: Path, tmp_path: Path) -> None:
    Facts(data, tmp_path / "work").compute()
    before = _files(tmp_path / "work")
    (tmp_path / "other").mkdir()
    facts = Facts(_data(tmp_path / "other", "other words"), tmp_path / "work")
    facts.compute()
    after = _files(tmp_path / "work")
    assert before.items() <= after.items()
    assert len(after) == 4 + 2 * 3
    assert facts.parts["pretrain"][0].read(["most_words"])["most_words"].to_pylist() == [2] * 4

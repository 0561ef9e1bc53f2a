from __future__ import annotations

import json
from pathlib import Path

from albef.data.files import new_folder, write_list
from albef.io import write_file
from tests.errors import refuses


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as aside:
        write_file(aside / "a.txt", "1")
        assert not out.exists()
    with new_folder(out) as aside:
        write_file(aside / "b.txt", "2")
        assert [p.name for p in out.iterdir()] == ["a.txt"]
    assert [p.name for p in out.iterdir()] == ["b.txt"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_file(out / "a.txt", "1")

    def fail() -> None:
        with new_folder(out) as aside:
            write_file(aside / "a.txt", "2")
            raise RuntimeError("stop")

    with refuses(RuntimeError, "stop"):
        fail()
    assert (out / "a.txt").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    out, dead = tmp_path / "out", 2**22 + 1  # above the largest number of a process
    for name in (f".out.{dead}", f".out.{dead}.old", ".out.1", ".outer.1", f".other.{dead}"):
        write_file(tmp_path / name / "a.txt", name)
    with new_folder(out):
        assert (out / "a.txt").read_text() == f".out.{dead}.old"
    assert list(out.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".other.{dead}", ".out.1", ".outer.1", "out"]


def test_lists_read_back(tmp_path: Path) -> None:
    records = [{"image": "ä.png", "caption": "one\ntwo"}, {"image": "b.png", "caption": ["half \ud83d"]}]
    entry = write_list(tmp_path / "list.json", records)
    assert json.loads((tmp_path / "list.json").read_text(encoding="utf-8")) == records
    assert entry["rows"] == 2
    assert write_list(tmp_path / "empty.json", [])["rows"] == 0
    assert json.loads((tmp_path / "empty.json").read_text()) == []

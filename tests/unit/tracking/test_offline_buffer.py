"""Tests of the buffer of unsent metrics: crashes and concurrent processes."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from albef.tracking.offline_buffer import OfflineBuffer

HEADER = {"uri": "u", "key": "k", "name": "n"}


def _abandoned(root: Path) -> list[OfflineBuffer]:
    return list(OfflineBuffer.abandoned(root))


def test_items_have_positions_and_cut_lines_are_skipped(tmp_path: Path) -> None:
    buffer = OfflineBuffer.create(tmp_path, HEADER)
    items, position = buffer.items()
    assert items == []
    buffer.append({"step": 0})
    items, position = buffer.items(position)
    assert items == [{"step": 0}]
    assert buffer.items(position) == ([], position)
    buffer.append({"step": 1})
    assert buffer.items(position)[0] == [{"step": 1}]
    buffer.release()
    with buffer.path.open("a") as file:
        file.write('\n{"step": 2')  # killed in the middle of it
    (found,) = _abandoned(tmp_path)
    assert found.header == HEADER
    assert found.items()[0] == [{"step": 0}, {"step": 1}]


def test_only_buffers_of_dead_processes_are_abandoned(tmp_path: Path) -> None:
    root = tmp_path / "tracking"
    buffer = OfflineBuffer.create(root, HEADER)
    assert _abandoned(root) == []
    buffer.release()
    (found,) = _abandoned(root)
    assert _abandoned(root) == []  # it is taken
    found.remove()
    assert not root.exists()


def test_copies_keep_their_content(tmp_path: Path) -> None:
    buffer = OfflineBuffer.create(tmp_path / "root", HEADER)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "folder" / "b.txt"):
        path.write_text("old")
    copies = [tmp_path / "root" / buffer.copy(tmp_path / name) for name in ("a.txt", "folder", "a.txt")]
    for path in (tmp_path / "a.txt", tmp_path / "folder" / "b.txt"):
        path.write_text("new")
    assert [path.name for path in copies] == ["a.txt", "folder", "a.txt"]
    assert [path.read_text() for path in (copies[0], copies[1] / "b.txt", copies[2])] == ["old"] * 3


def test_a_full_disk_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = OfflineBuffer.create(tmp_path, HEADER)
    buffer.append({"step": 0})
    source = tmp_path / "a.txt"
    source.write_text("text" * 100)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (buffer.path.stat().st_size + 5, unlimited[1]))
    try:
        buffer.append({"step": 1})  # cut off
        buffer.append({"step": 2})
        assert buffer.copy(source) == str(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert len(caplog.records) == 2
    buffer.append({"step": 3})
    assert buffer.items()[0] == [{"step": 0}, {"step": 3}]


def test_interrupted_removals_are_finished(tmp_path: Path) -> None:
    root = tmp_path / "tracking"
    buffer = OfflineBuffer.create(root, HEADER)
    (tmp_path / "a.txt").touch()
    buffer.copy(tmp_path / "a.txt")
    buffer.release()
    buffer.path.unlink()
    assert len(list(root.iterdir())) == 1
    other = OfflineBuffer.create(root, HEADER)
    assert _abandoned(root) == []
    assert list(root.iterdir()) == [other.path]
    other.remove()
    assert not root.exists()

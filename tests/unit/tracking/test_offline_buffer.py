"""Tests of the journal of unsent metrics: crashes and concurrent processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from albef.tracking.mlflow_sync import buffers_of
from albef.tracking.offline_buffer import OfflineBuffer, headers

HEADER = {"uri": "u", "key": "k", "experiment": "e", "name": "n", "params": {}, "tags": {}, "start": 0}


def _abandoned(root: Path) -> list[OfflineBuffer]:
    return list(OfflineBuffer.abandoned(root))


def test_what_was_sent_is_not_sent_again_and_half_a_line_never(tmp_path: Path) -> None:
    buffer = OfflineBuffer.create(tmp_path, HEADER)
    ends = [buffer.append({"kind": "metrics", "step": step}) for step in range(3)]
    buffer.mark_sent(ends[0])
    buffer.release()
    with (buffer.folder / "journal.jsonl").open("a") as file:
        file.write('{"kind": "met')  # killed in the middle of it
    (found,) = _abandoned(tmp_path)
    assert [(item["step"], end) for item, end in found.unsent()] == [(1, ends[1]), (2, ends[2])]
    assert found.header == HEADER


def test_only_what_a_dead_process_left_is_abandoned(tmp_path: Path) -> None:
    buffer = OfflineBuffer.create(tmp_path, HEADER)
    assert _abandoned(tmp_path) == []
    buffer.release()
    (found,) = _abandoned(tmp_path)
    assert _abandoned(tmp_path) == []  # it is taken
    found.remove()
    assert not tmp_path.exists()


def test_a_copy_stays_when_the_file_changes(tmp_path: Path) -> None:
    buffer = OfflineBuffer.create(tmp_path / "root", HEADER)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "folder" / "b.txt"):
        path.write_text("old")
    first, second, third = (buffer.copy_file(tmp_path / name) for name in ("a.txt", "folder", "a.txt"))
    for path in (tmp_path / "a.txt", tmp_path / "folder" / "b.txt"):
        path.write_text("new")
    assert (first.read_text(), (second / "b.txt").read_text(), third.read_text()) == ("old", "old", "old")
    assert first != third


def test_a_full_disk_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    buffer = OfflineBuffer.create(tmp_path, HEADER)
    end = buffer.append({"step": 0})
    full = os.open("/dev/full", os.O_WRONLY)
    buffer._journal, journal = full, buffer._journal
    assert buffer.append({"step": 1}) == end
    assert "No space left" in caplog.text
    buffer._journal = journal
    assert buffer.append({"step": 2}) > end
    assert [item["step"] for item, _ in buffer.unsent()] == [0, 2]


def test_a_removal_that_was_cut_off_is_finished_and_is_no_run(tmp_path: Path) -> None:
    root = tmp_path / "tracking"
    left = OfflineBuffer.create(root, HEADER)
    left.release()
    left.folder.rename(root / f".gone-{left.folder.name}")
    assert list(OfflineBuffer.abandoned(root)) == []
    other = OfflineBuffer.create(root, HEADER)
    assert list(headers(root)) == [other.folder / "run.json"]
    other.remove()
    assert not root.exists()


def test_a_run_is_not_taken_for_those_below_it(tmp_path: Path) -> None:
    above = OfflineBuffer.create(tmp_path, HEADER)
    OfflineBuffer.create(tmp_path, {**HEADER, "key": "below", "parent": {"key": "k", "name": "n", "start": 0}})
    assert buffers_of(tmp_path, "k") == [above.folder]

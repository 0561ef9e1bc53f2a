from __future__ import annotations

import hashlib
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from albef.io import file_hash, utc_now, write_file


@pytest.mark.parametrize("content", ["ä\n", "ä\n".encode(), lambda file: file.write("ä\n".encode())])
def test_text_bytes_and_functions_are_written(content: object, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_file(path, content)  # type: ignore[arg-type]
    assert path.read_bytes() == "ä\n".encode()
    assert file_hash(path) == hashlib.sha256("ä\n".encode()).hexdigest()
    other = tmp_path / "other"
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_a_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old")

    def fail(file: BinaryIO) -> None:
        file.write(b"ne")
        file.flush()
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_time_stamp_is_in_utc() -> None:
    stamp = utc_now()
    assert len(stamp) == len("2026-01-31T23:59:59.999Z")
    assert abs(datetime.fromisoformat(stamp) - datetime.now(UTC)) < timedelta(minutes=1)


def test_threads_write_the_same_file(tmp_path: Path) -> None:
    path, barrier = tmp_path / "file", threading.Barrier(4)

    def write(text: str) -> None:
        write_file(path, lambda file: (file.write(text.encode()), barrier.wait(10)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, texts := ["a", "b", "c", "d"]))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]

from __future__ import annotations

import hashlib
import stat
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

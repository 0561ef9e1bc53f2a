from __future__ import annotations

import contextlib
import io
import logging

import pytest

from albef import progress
from albef.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _printed(file: io.StringIO, **options: bool) -> str:
    """Return what four parts of work print to a file."""
    with (
        contextlib.redirect_stderr(file),
        Progress(total=4, description="count", unit="parts", **options) as bar,
    ):
        for _ in range(4):
            bar.update()
            bar.set_postfix(refresh=False, loss="0.5")
    return file.getvalue()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    caplog.set_level(logging.INFO, progress.logger.name)
    return caplog


def test_lines_without_a_terminal(lines: pytest.LogCaptureFixture) -> None:
    assert not _printed(io.StringIO())
    assert "count: 1 of 4 parts (25 %)" in lines.messages[0]
    assert "left" in lines.messages[0]
    assert any("loss=0.5" in line for line in lines.messages)
    assert not any("\r" in line or "\n" in line for line in lines.messages)


def test_no_lines_of_short_work(lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 30.0)
    _printed(io.StringIO())
    assert not lines.messages


@pytest.mark.parametrize("file", [io.StringIO, _Terminal])
def test_silent_if_not_wanted(lines: pytest.LogCaptureFixture, file: type[io.StringIO]) -> None:
    assert not _printed(file(), enabled=False)
    lines.set_level(logging.ERROR, progress.logger.name)
    assert not _printed(file())
    assert not lines.messages


def test_a_bar_on_a_terminal(lines: pytest.LogCaptureFixture) -> None:
    assert "4/4" in _printed(_Terminal())
    assert not lines.messages


def test_parts_pass_through(lines: pytest.LogCaptureFixture) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        assert list(Progress(iter("abc"), 3, description="letters", unit="letters")) == ["a", "b", "c"]
    assert "letters: 2 of 3 letters (67 %)" in "\n".join(lines.messages)


def test_work_of_unknown_amount(lines: pytest.LogCaptureFixture) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        assert list(Progress(iter("abc"), description="letters", unit="letters")) == ["a", "b", "c"]
    assert lines.messages[1].startswith("letters: 2 letters,")

"""On-disk buffer of tracking data that MLflow has not received yet.

Each logging process has one file, ``ID.jsonl``, with a description of the run and one line per logged item; the folder
``ID`` holds copies of logged files. Each line is handed to the operating system before the call returns, so a killed
process loses nothing. The file stays locked while its process lives; after that any other process may send it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

_logger = logging.getLogger(__name__)

Item: TypeAlias = dict[str, Any]


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Let one process at a time open runs for the buffers in a folder."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class OfflineBuffer:
    """File of logged items, locked by this process.

    Args:
        header: Description of the run.
        descriptor: Open and locked file.
    """

    def __init__(self, path: Path, header: Item, descriptor: int) -> None:
        self.path, self.header, self._descriptor = path, header, descriptor

    @classmethod
    def create(cls, root: Path, header: Item) -> OfflineBuffer:
        """Create a buffer in a folder.

        Raises:
            OSError: If the file cannot be written.
        """
        part = root / f"{uuid.uuid4().hex}.part"  # other processes see it once it is locked and has a header
        descriptor = -1
        while descriptor < 0:
            root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another process removed the root with its last buffer
                descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        buffer = cls(part.with_suffix(".jsonl"), header, descriptor)
        buffer.append(header)
        part.rename(buffer.path)
        return buffer

    @classmethod
    def abandoned(cls, root: Path) -> Iterator[OfflineBuffer]:
        """Yield buffers without a living process, oldest first, to be released or removed."""
        for folder in filter(Path.is_dir, root.iterdir()):
            if not folder.with_suffix(".jsonl").exists():  # an interrupted removal
                shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(root.glob("*.jsonl"), key=lambda path: path.stat().st_mtime if path.exists() else 0):
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            except FileNotFoundError:  # sent in the meantime
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                header = json.loads(path.read_bytes().splitlines()[1])
            except OSError:  # in use, or sent in the meantime
                os.close(descriptor)
            else:
                yield cls(path, header, descriptor)

    def append(self, item: Item) -> None:
        """Append an item, which is lost if the disk is full."""
        try:  # the first newline ends a line that a full disk has cut off
            os.write(self._descriptor, b"\n" + json.dumps(item).encode() + b"\n")
        except OSError as error:
            _logger.warning("%s: cannot write (%s)", self.path, error)

    def copy(self, source: Path) -> str:
        """Copy a file or folder.

        Returns:
            Path of the copy below the folder of buffers, or of ``source`` itself if the disk is full.
        """
        target = self.path.with_suffix("") / uuid.uuid4().hex / source.name
        try:
            target.parent.mkdir(parents=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        except OSError as error:
            _logger.warning("%s: cannot copy %s (%s); the original will be sent", self.path, source, error)
            return str(source.resolve())
        return str(target.relative_to(self.path.parent))

    def items(self, start: int = 0) -> tuple[list[Item], int]:
        """Return the items from a position on, and the position after them.

        A line that was cut off by a kill or a full disk is skipped.
        """
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read()
        end, items = data.rfind(b"\n") + 1, []
        for line in data[:end].splitlines():
            with contextlib.suppress(ValueError):
                items.append(json.loads(line))
        return items if start else items[1:], start + end

    def remove(self) -> None:
        """Delete the buffer, and its folder if it was the last one."""
        self.path.unlink()
        shutil.rmtree(self.path.with_suffix(""), ignore_errors=True)
        with contextlib.suppress(OSError):  # other processes still have buffers here
            self.path.parent.rmdir()

    def release(self) -> None:
        """Unlock the buffer, so that another process may send it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

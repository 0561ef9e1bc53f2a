"""On-disk buffer of tracking data that MLflow has not received yet.

Each logging process has its own folder: ``run.json`` describes the run, ``journal.jsonl`` has one line per logged item,
``files`` holds copies of logged files, and ``sent`` is the number of journal bytes that the store has received.
`OfflineBuffer.append` hands each line to the operating system before it returns, so a killed process loses nothing. The
folder stays locked while its process lives; after that any other process may send what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

_logger = logging.getLogger(__name__)

Item: TypeAlias = dict[str, Any]
_REMOVED = ".gone-"


def write_atomic(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old or the new content."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def headers(root: Path) -> Iterator[Path]:
    """Yield the ``run.json`` of every buffer below a folder, locked or not."""
    return root.glob("[!.]*/run.json")


def remove_leftovers(root: Path) -> None:
    """Delete remains of sent buffers, and the root if it is empty."""
    for folder in root.glob(f"{_REMOVED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other processes still have buffers here
        root.rmdir()


class OfflineBuffer:
    """A folder of unsent items.

    `create` makes a new buffer; `abandoned` yields those of processes that no longer exist.

    Args:
        header: Description of the run: ``uri``, ``key``, ``experiment``, ``name``, ``params``, ``tags``, ``start`` and
            ``parent``, which is None or holds the ``key``, ``name`` and ``start`` of the parent run.
    """

    def __init__(self, folder: Path, header: dict[str, Any], lock: int) -> None:
        self.folder, self.header, self._lock = folder, header, lock
        self._journal = -1
        self._size = 0
        self._torn = False
        self._append = threading.Lock()
        self._files = 0

    @classmethod
    def create(cls, root: Path, header: dict[str, Any]) -> OfflineBuffer:
        """Create and lock a new buffer below ``root``.

        Raises:
            OSError: If the folder or its files cannot be written.
        """
        folder = root / uuid.uuid4().hex
        try:
            (folder / "files").mkdir(parents=True)
        except FileNotFoundError:  # another process removed the root with its last buffer just now
            (folder / "files").mkdir(parents=True)
        lock = _try_lock(folder / "lock", os.O_CREAT)
        assert lock is not None
        buffer = cls(folder, header, lock)
        buffer._journal = os.open(folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        write_atomic(folder / "run.json", json.dumps(header))
        return buffer

    @classmethod
    def abandoned(cls, root: Path) -> Iterator[OfflineBuffer]:
        """Yield buffers without a living process, oldest first, locked until `release`."""
        for path in sorted(headers(root), key=lambda path: path.stat().st_mtime if path.exists() else 0):
            try:
                lock = _try_lock(path.parent / "lock")
            except OSError:
                continue  # sent and removed in the meantime
            if lock is None:
                continue
            try:
                header = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                os.close(lock)
                continue
            yield cls(path.parent, header, lock)

    def append(self, item: Item) -> int:
        """Append an item to the journal.

        Returns:
            Offset of the item's end in the journal; the end of the journal if the disk is full.
        """
        with self._append:
            line = (b"\n" if self._torn else b"") + json.dumps(item).encode() + b"\n"
            try:
                written = os.write(self._journal, line)
            except OSError as error:
                _logger.warning("%s: cannot write the journal (%s); items stay in memory", self.folder, error)
                return self._size
            self._size += written
            self._torn = written < len(line)
            return self._size

    def copy_file(self, source: Path) -> Path:
        """Copy a file or folder, so that the source may change.

        Returns:
            The copy, or ``source`` itself if the disk is full.
        """
        with self._append:
            self._files += 1
            target = self.folder / "files" / str(self._files) / source.name
        try:
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                target.parent.mkdir()
                shutil.copyfile(source, target)
        except OSError as error:
            _logger.warning("%s: cannot copy %s (%s); the original will be sent", self.folder, source, error)
            return source
        return target

    def unsent(self) -> list[tuple[Item, int]]:
        """Return the unsent items, each with the offset of its end.

        A last line that was cut off by a kill is skipped.
        """
        try:
            data = (self.folder / "journal.jsonl").read_bytes()
        except OSError:
            return []
        end = self._sent()
        items = []
        for line in data[end:].splitlines(keepends=True):
            end += len(line)
            try:
                item = json.loads(line)
            except ValueError:
                continue
            items.append((item, end))
        return items

    def _sent(self) -> int:
        try:
            return int((self.folder / "sent").read_text())
        except (OSError, ValueError):
            return 0

    def mark_sent(self, end: int) -> None:
        """Record that the store has received the journal up to offset ``end``."""
        with contextlib.suppress(OSError):  # on failure items are sent again, which is harmless
            write_atomic(self.folder / "sent", str(end))

    def update(self, **values: Any) -> None:
        """Change entries of the header."""
        self.header |= values
        with contextlib.suppress(OSError):
            write_atomic(self.folder / "run.json", json.dumps(self.header))

    def reject(self, item: Item, reason: str) -> None:
        """Move an item that the store refuses for good to ``refused.jsonl``."""
        with (self.folder.parent / "refused.jsonl").open("a", encoding="utf-8") as file:
            record = {"run": self.header["name"], "uri": self.header["uri"], "why": reason, **item}
            file.write(json.dumps(record) + "\n")

    def remove(self) -> None:
        """Delete the buffer after everything has been sent.

        If the process is killed meanwhile, `remove_leftovers` deletes the rest.
        """
        with contextlib.suppress(OSError):
            self.folder.rename(self.folder.with_name(_REMOVED + self.folder.name))
        self.release()
        remove_leftovers(self.folder.parent)

    def release(self) -> None:
        """Close and unlock the buffer, so that another process may send it."""
        for descriptor in (self._journal, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._journal = self._lock = -1


def _try_lock(path: Path, flags: int = 0) -> int | None:
    descriptor = os.open(path, os.O_RDWR | flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor

"""What was logged and is not delivered yet, on disk: a folder for each process that logs.

``run.json`` says which run it is, ``journal.jsonl`` has a line for whatever was logged, ``files`` the files, ``sent``
how many bytes of the journal the store has. A line is on its way to disk before `append` returns, so a killed process
loses nothing. The folder is locked as long as its process lives; then any other may deliver what is left.
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
_GONE = ".gone-"


def write_atomic(path: Path, text: str) -> None:
    """Write a file that is absent, old or complete."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def headers(root: Path) -> Iterator[Path]:
    """The ``run.json`` of every buffer below a folder, of living processes or not."""
    return root.glob("[!.]*/run.json")


def sweep(root: Path) -> None:
    """Remove what is left of delivered spools, and the folder once it is empty."""
    for folder in root.glob(f"{_GONE}*"):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are at work
        root.rmdir()


class OfflineBuffer:
    """A folder of undelivered items; `create` makes one, `abandoned` finds those of processes that are gone.

    Args:
        header: Which run it is: ``uri``, ``key``, ``experiment``, ``name``, ``params``, ``tags``, ``start``,
            ``parent``, which is null or has of the run above it the ``key``, ``name`` and ``start``.
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
        """A new, locked one below ``root``.

        Raises:
            OSError: If the disk does not take it.
        """
        folder = root / uuid.uuid4().hex
        try:
            (folder / "files").mkdir(parents=True)
        except FileNotFoundError:  # another process has just removed the root, as its last buffer was empty
            (folder / "files").mkdir(parents=True)
        lock = _locked(folder / "lock", os.O_CREAT)
        assert lock is not None
        buffer = cls(folder, header, lock)
        buffer._journal = os.open(folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        write_atomic(folder / "run.json", json.dumps(header))
        return buffer

    @classmethod
    def abandoned(cls, root: Path) -> Iterator[OfflineBuffer]:
        """Those that no living process holds, each locked until `release`."""
        for folder in sorted(headers(root), key=lambda path: path.stat().st_mtime if path.exists() else 0):
            try:
                lock = _locked(folder.parent / "lock")
            except OSError:
                continue  # delivered and removed meanwhile
            if lock is None:
                continue
            try:
                header = json.loads(folder.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                os.close(lock)
                continue
            yield cls(folder.parent, header, lock)

    def append(self, item: Item) -> int:
        """Write an item down; returns where it ends in the journal, or where the journal ends if the disk is full."""
        with self._append:
            line = (b"\n" if self._torn else b"") + json.dumps(item).encode() + b"\n"
            try:
                written = os.write(self._journal, line)
            except OSError as error:
                _logger.warning("%s: %s; what is logged is kept in memory", self.folder, error)
                return self._size
            self._size += written
            self._torn = written < len(line)
            return self._size

    def keep(self, source: Path) -> Path:
        """Copy a file or folder, which may change then; returns the copy, or the source if the disk is full."""
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
            _logger.warning("%s: %s; %s is not copied", self.folder, error, source)
            return source
        return target

    def unsent(self) -> list[tuple[Item, int]]:
        """What the store has not taken, each with where it ends; a line that a kill cut off is none."""
        try:
            data = (self.folder / "journal.jsonl").read_bytes()
        except OSError:
            return []
        end = self._sent()
        found = []
        for line in data[end:].splitlines(keepends=True):
            end += len(line)
            try:
                item = json.loads(line)
            except ValueError:
                continue
            found.append((item, end))
        return found

    def _sent(self) -> int:
        try:
            return int((self.folder / "sent").read_text())
        except (OSError, ValueError):
            return 0

    def mark(self, end: int) -> None:
        """The store has all up to ``end``."""
        with contextlib.suppress(OSError):  # then a part is sent again, which changes nothing
            write_atomic(self.folder / "sent", str(end))

    def update(self, **values: Any) -> None:
        """Change the header."""
        self.header |= values
        with contextlib.suppress(OSError):
            write_atomic(self.folder / "run.json", json.dumps(self.header))

    def refuse(self, item: Item, why: str) -> None:
        """Put an item aside that the store will never take."""
        with (self.folder.parent / "refused.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"run": self.header["name"], "uri": self.header["uri"], "why": why, **item}) + "\n")

    def remove(self) -> None:
        """All is delivered. A kill in the middle leaves what `sweep` knows for rubbish."""
        with contextlib.suppress(OSError):
            self.folder.rename(self.folder.with_name(_GONE + self.folder.name))
        self.release()
        sweep(self.folder.parent)

    def release(self) -> None:
        """Leave what is there to others."""
        for descriptor in (self._journal, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._journal = self._lock = -1


def _locked(path: Path, flags: int = 0) -> int | None:
    descriptor = os.open(path, os.O_RDWR | flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor

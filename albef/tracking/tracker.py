"""Tracked runs.

All requests to MLflow are made by a background thread that reads a journal on disk: a slow or unreachable store neither
delays nor fails a run, and logged data is not lost.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albef.tracking.mlflow_sync import BufferUpload, buffers_of, connect, first_line, sync_abandoned
from albef.tracking.offline_buffer import Item, OfflineBuffer, remove_leftovers, write_atomic
from albef.tracking.origin import run_tags

_logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "albef"
BUFFERS = "tracking"
"""Folder of offline buffers, next to the folders of runs in the work directory."""
_KEY_FILE = "tracking-key"
_CLOSE_SECONDS = 30.0
_RETRY_SECONDS = 5.0  # retries after the end of the run, for a store that is only busy
_MAX_BACKOFF = 30.0
_GATHER_SECONDS = 2.0  # batching values into few requests takes less time from training


def resolve(uri: str | None) -> str:
    """Return ``uri``, else ``MLFLOW_TRACKING_URI``, else a SQLite file in the working directory."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def sync(uri: str | None, work_dir: Path) -> int:
    """Send unsent data of earlier runs, and return the number of buffers.

    Raises:
        ValueError: If the store cannot be reached.
    """
    uri = resolve(uri)
    root = work_dir / BUFFERS
    if uri == "none" or not root.is_dir():
        return 0
    try:
        return sync_abandoned(connect(uri), uri, root)
    except Exception as error:
        raise ValueError(f"MLflow at {uri}: {first_line(error)}; unsent data stays in {root}") from error


def flush_runs(uri: str, work_dir: Path, folders: Iterable[Path], seconds: float) -> None:
    """Send unsent data of runs whose processes are about to exit.

    Args:
        folders: Folders of these runs.
        seconds: Time limit. Unsent data stays on disk then, or if the store cannot be reached.
    """
    keys = [_identity(folder)[0] for folder in folders if (folder / _KEY_FILE).is_file()]
    deadline = time.monotonic() + seconds
    while uri != "none" and any(buffers_of(work_dir / BUFFERS, key) for key in keys):
        try:
            sync(uri, work_dir)
        except ValueError as error:
            _logger.warning("%s", error)
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    remove_leftovers(work_dir / BUFFERS)


class NoTracker:
    """Tracker that records nothing."""

    identity = None

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Ignore the values."""

    def log_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Ignore the file."""

    def log_text(self, text: str, name: str, artifact_path: str = "") -> None:
        """Ignore the text."""


class MlflowTracker:
    """Tracker that sends data to MLflow from a background thread.

    Everything is written to an offline buffer first. Whatever the store has not received when the run ends, or when the
    process is killed, is sent by the next tracker that uses the same folder of buffers.

    Args:
        uri: MLflow tracking URI.
        name: Run name.
        params: Flat parameters.
        tags: Run tags.
        folder: Folder of the run, if it exists: a restart in the same folder continues the same MLflow run.
        buffers: Folder of offline buffers; by default `BUFFERS` next to ``folder``.
        parent: `identity` of the parent run.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        params: dict[str, str],
        tags: dict[str, str],
        folder: Path,
        buffers: Path | None = None,
        parent: dict[str, Any] | None = None,
    ) -> None:
        self.uri, self.name = uri, name
        self.root = buffers or folder.parent / BUFFERS
        key, start = _identity(folder)
        self.identity: dict[str, Any] = {"key": key, "name": name, "start": start}
        """Key, name and start time, which identify the run before it exists in the store."""
        self._id_file = folder / "mlflow-run-id"
        header: dict[str, Any] = {**self.identity, "uri": uri, "experiment": EXPERIMENT}
        header |= {"params": params, "tags": tags, "parent": parent}
        if self._id_file.is_file():
            header["run_id"] = self._id_file.read_text().strip()
        self._items: list[tuple[Item, int]] = []
        self._new = threading.Condition()
        self._closed = False
        self._warned = False
        self._buffer: OfflineBuffer | None = None
        try:
            self._buffer = OfflineBuffer.create(self.root, header)
        except OSError as error:
            _logger.warning("%s: cannot create an offline buffer (%s); nothing is tracked", self.root, error)
            return
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Queue metric values."""
        self._queue({"kind": "metrics", "metrics": dict(metrics), "step": step, "time": _now()})

    def log_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Queue a copy of a file or folder.

        Args:
            artifact_path: Folder among the run's artifacts.
        """
        if self._buffer is not None:
            copy = self._buffer.copy_file(path)
            inside = copy.is_relative_to(self._buffer.folder)
            stored = copy.relative_to(self._buffer.folder) if inside else copy.resolve()
            self._queue({"kind": "file", "path": str(stored), "place": artifact_path})

    def log_text(self, text: str, name: str, artifact_path: str = "") -> None:
        """Queue a text as a file."""
        if self._buffer is None:
            return
        path = self._buffer.folder / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            _logger.warning("%s: cannot write (%s); the file is not tracked", path, error)
            return
        self.log_artifact(path, artifact_path)
        path.unlink()

    def _queue(self, item: Item) -> None:
        if self._buffer is None or self._closed:
            return
        with self._new:
            self._items.append((item, self._buffer.append(item)))
            if len(self._items) == 1:
                self._new.notify()

    def close(self, status: str) -> None:
        """End the run; wait at most half a minute for the store."""
        self._queue({"kind": "end", "status": status, "time": _now()})
        with self._new:
            self._closed = True
            self._new.notify()
        if self._buffer is None:
            return
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive() or self._items:
            unsent = f"{len(self._items)} items of run {self.name}" if self._items else "items of earlier runs"
            _logger.warning(
                "MLflow at %s did not accept %s; they stay in %s and are sent by the next run, or by"
                " `albef tracking sync`",
                self.uri,
                unsent,
                self.root,
            )

    def _work(self) -> None:
        assert self._buffer is not None
        try:
            self._send_all(self._buffer)
        finally:
            self._buffer.release()  # no-op if the buffer has been removed

    def _send_all(self, buffer: OfflineBuffer) -> None:
        backoff, synced = 1.0, False
        client: Any = None
        upload: BufferUpload | None = None
        deadline = float("inf")
        while True:
            with self._new:
                if upload is not None:
                    self._new.wait_for(lambda: self._items or self._closed)
                    self._new.wait_for(lambda: self._closed, _GATHER_SECONDS)
                closed, items = self._closed, list(self._items)
            if closed:
                deadline = min(deadline, time.monotonic() + _RETRY_SECONDS)
            try:
                if upload is None:
                    client = connect(self.uri)
                    upload = BufferUpload(client, buffer)
                    self._remember(upload.run_id)
                count = len(items)
                try:
                    upload.send(items)
                finally:
                    with self._new:
                        del self._items[: count - len(items)]
                if closed:
                    upload.finish(others=False)
                backoff = 1.0
                if not synced or closed:
                    self._sync_abandoned(client)
                    synced = True
                if closed:
                    return
            except Exception as error:  # no failure of the store or the network may stop the run
                if not self._warned:
                    self._warned = True
                    _logger.warning(
                        "MLflow at %s: %s; the run goes on, its data is buffered", self.uri, first_line(error)
                    )
                if closed and (not self._items or time.monotonic() > deadline):
                    return
                upload = None
                if closed:
                    time.sleep(1)
                else:
                    with self._new:
                        self._new.wait_for(lambda: self._closed, backoff)
                backoff = min(2 * backoff, _MAX_BACKOFF)

    def _sync_abandoned(self, client: Any) -> None:
        try:
            sync_abandoned(client, self.uri, self.root)
        except Exception as error:  # left to the next tracker
            _logger.warning(
                "MLflow at %s: cannot send data of earlier runs from %s: %s", self.uri, self.root, first_line(error)
            )

    def _remember(self, run_id: str) -> None:
        try:
            if self._id_file.parent.is_dir():
                write_atomic(self._id_file, run_id)
        except OSError:
            pass  # the run can also be found by its key


def _identity(folder: Path) -> tuple[str, int]:
    """Return key and first start time of a run, persistent across restarts."""
    path = folder / _KEY_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return str(stored["key"]), int(stored["start"])
    except (OSError, ValueError, KeyError, TypeError):
        key, start = uuid.uuid4().hex, _now()
    try:
        if folder.is_dir():
            write_atomic(path, json.dumps({"key": key, "start": start}))
    except OSError:
        pass
    return key, start


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def tracked(
    name: str, folder: Path, uri: str | None, params: dict[str, Any], tags: dict[str, str]
) -> Iterator[NoTracker | MlflowTracker]:
    """Track a block of work as a run with the common tags.

    An exception ends the run as ``FAILED``, an interrupt or exit as ``KILLED``.
    """
    uri = resolve(uri)
    if uri == "none":
        yield NoTracker()
        return
    texts = {key: str(value) for key, value in params.items()}
    tracker = MlflowTracker(uri, name, texts, {**run_tags(name), **tags}, folder)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.close(status)

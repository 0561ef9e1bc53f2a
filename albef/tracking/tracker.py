"""Tracked runs.

Everything logged goes to a file, which a background thread sends to MLflow: a slow or unreachable store neither delays
nor fails a run, and logged data is not lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from albef.io import write_file
from albef.tracking.mlflow_sync import BufferUpload, connect, first_line, sync_abandoned
from albef.tracking.offline_buffer import OfflineBuffer, exclusive

_logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "albef"
BUFFERS = "tracking"
"""Folder of offline buffers in the work directory, next to the folders of runs."""
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
        with exclusive(root):
            return sync_abandoned(connect(uri), uri, root)
    except Exception as error:
        raise ValueError(f"MLflow at {uri}: {first_line(error)}; unsent data stays in {root}") from error


def flush(uri: str, work_dir: Path, seconds: float) -> None:
    """Send unsent data of processes that are about to exit.

    Args:
        seconds: Time limit. Unsent data stays on disk then, or if the store cannot be reached.
    """
    deadline = time.monotonic() + seconds
    try:
        while uri != "none" and (work_dir / BUFFERS).is_dir() and time.monotonic() < deadline:
            sync(uri, work_dir)
            time.sleep(0.2)
    except ValueError as error:
        _logger.warning("%s", error)


class Tracker:
    """Context manager that tracks a block of work as an MLflow run.

    A run ends as ``FAILED`` after an exception, and as ``KILLED`` after an interrupt or exit. What the store has not
    received then, or when the process is killed, is sent by the next tracker that uses the same folder of buffers.

    Args:
        uri: MLflow tracking URI; "none" disables tracking.
        name: Run name.
        params: Nested parameters, recorded with dotted names.
        tags: Run tags.
        folder: Folder of the run, if it exists: a restart in the same folder continues the same MLflow run.
        work_dir: Folder of the offline buffers' folder; by default the parent of ``folder``.
        parent: `identity` of the parent run.
        data_sets: Data sets that the run reads.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        folder: Path,
        work_dir: Path | None = None,
        parent: dict[str, Any] | None = None,
        data_sets: Sequence[dict[str, str]] = (),
    ) -> None:
        self.uri = uri
        self.identity: dict[str, Any] = {"name": name}
        """Name, key and start time, which identify the run before it exists in the store."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if uri == "none":
            return
        self.identity |= _identity(folder)
        header = {**self.identity, "uri": uri, "experiment": EXPERIMENT, "parent": parent, "data_sets": [*data_sets]}
        root = (work_dir or folder.parent) / BUFFERS
        try:
            self._buffer = OfflineBuffer.create(root, {**header, "params": _flatten(params), "tags": dict(tags)})
        except OSError as error:
            _logger.warning("%s: cannot create an offline buffer (%s); nothing is tracked", root, error)
            return
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metric values."""
        self._append(kind="metrics", metrics=dict(metrics), step=step)

    def log_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Log the present state of a file or folder.

        Args:
            artifact_path: Folder among the run's artifacts.
        """
        if self._thread is not None:
            self._append(kind="file", path=self._buffer.copy(path), place=artifact_path)

    def end(self, status: str) -> None:
        """End the run; only the first call counts."""
        self._append(kind="end", status=status)
        self._ended.set()

    def _append(self, **item: Any) -> None:
        if self._thread is not None and not self._ended.is_set():
            self._buffer.append({**item, "time": _now()})

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; wait at most half a minute for the store."""
        self.end("FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED")
        if self._thread is None:
            return
        self._thread.join(_CLOSE_SECONDS)
        if self._buffer.path.exists():
            _logger.warning(
                "MLflow at %s did not accept all data of run %s; it stays in %s and is sent by the next run, or by"
                " `albef tracking sync`",
                self.uri,
                self.identity["name"],
                self._buffer.path.parent,
            )

    def _send(self) -> None:
        upload: BufferUpload | None = None
        warned, pause, backoff, deadline = False, 0.0, 1.0, float("inf")
        while True:
            ended = self._ended.wait(pause)
            try:
                upload = upload or self._open()
                upload.send()
                if ended:
                    self._buffer.remove()
                    break
                pause = _GATHER_SECONDS
            except Exception as error:  # no failure of the store or the network may stop the run
                if not warned:
                    _logger.warning(
                        "MLflow at %s: %s; the run goes on, its data is buffered", self.uri, first_line(error)
                    )
                upload, warned, pause, backoff = None, True, backoff, min(2 * backoff, _MAX_BACKOFF)
                if ended:
                    deadline = min(deadline, time.monotonic() + _RETRY_SECONDS)
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(1)
        self._buffer.release()

    def _open(self) -> BufferUpload:
        """Open the run in the store, and send what earlier processes left, of this run, too."""
        client, root = connect(self.uri), self._buffer.path.parent
        with exclusive(root):
            upload = BufferUpload(client, self._buffer)
        try:
            sync(self.uri, root.parent)
        except ValueError as error:  # left to the next tracker
            _logger.warning("%s", error)
        client.update_run(upload.run_id, status="RUNNING")
        return upload


def _identity(folder: Path) -> dict[str, Any]:
    """Return key and first start time of a run, persistent across restarts."""
    path = folder / "tracking-key"
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    identity = {"key": uuid.uuid4().hex, "start": _now()}
    with contextlib.suppress(OSError):
        if folder.is_dir():
            write_file(path, json.dumps(identity))
    return identity


def _flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    params: dict[str, str] = {}
    for key, value in data.items():
        params |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return params


def _now() -> int:
    return int(time.time() * 1000)

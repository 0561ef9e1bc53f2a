"""A tracked run. MLflow lives behind a thread and a journal: nothing waits for it, fails with it or is lost by it."""

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

from albef.tracking.mlflow_sync import Delivery, connect, first_line, flush, spools_of
from albef.tracking.offline_buffer import Item, OfflineBuffer, sweep, write_atomic
from albef.tracking.origin import run_tags

_logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "albef"
PENDING = "tracking"
"""Folder of journals, beside the scratch folders of runs."""
_KEY_FILE = "tracking-key"
_CLOSE_SECONDS = 30.0
_RETRY_SECONDS = 5.0  # after the end, for a store that is merely busy
_MAX_BACKOFF = 30.0
_GATHER_SECONDS = 2.0  # many values in a request cost training less than many requests


def resolve(uri: str | None) -> str:
    """The store: as given, or ``MLFLOW_TRACKING_URI``, or a SQLite file in this folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def deliver(uri: str | None, scratch: Path) -> int:
    """Deliver what earlier runs left below a scratch folder; returns how many runs that were.

    Raises:
        ValueError: If the store does not answer.
    """
    uri = resolve(uri)
    root = scratch / PENDING
    if uri == "none" or not root.is_dir():
        return 0
    try:
        return flush(connect(uri), uri, root)
    except Exception as error:
        raise ValueError(f"MLflow at {uri}: {first_line(error)}; what is left stays in {root}") from error


def settle(uri: str, scratch: Path, folders: Iterable[Path], seconds: float) -> None:
    """Deliver what some runs left, waiting for processes of theirs that are about to end.

    Args:
        folders: Scratch folders of these runs.
        seconds: To wait at most. What is left then, or if the store does not answer, stays.
    """
    keys = [_identity(folder)[0] for folder in folders if (folder / _KEY_FILE).is_file()]
    deadline = time.monotonic() + seconds
    while uri != "none" and any(spools_of(scratch / PENDING, key) for key in keys):
        try:
            deliver(uri, scratch)
        except ValueError as error:
            _logger.warning("%s", error)
            return
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)
    sweep(scratch / PENDING)


class NoTracker:
    """Tracks nothing."""

    identity = None

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Forget the values."""

    def log_artifact(self, path: Path, place: str = "") -> None:
        """Forget the file."""

    def log_text(self, text: str, name: str, place: str = "") -> None:
        """Forget the text."""


class MlflowTracker:
    """Delivers parameters, metrics and files to an MLflow store from a thread of its own.

    What is logged goes to a journal in ``pending`` first. What the store does not take before the end, or before the
    process is killed, the next tracker with the same folder delivers.

    Args:
        uri: MLflow tracking URI.
        name: Run name.
        params: Flat parameters.
        tags: Run tags.
        folder: Scratch folder of the run, if there is one: started again, it goes on with the same MLflow run.
        pending: Folder of journals; by default `PENDING` beside ``folder``.
        parent: `identity` of the run above it.
    """

    def __init__(
        self,
        uri: str,
        name: str,
        params: dict[str, str],
        tags: dict[str, str],
        folder: Path,
        pending: Path | None = None,
        parent: dict[str, Any] | None = None,
    ) -> None:
        self.uri, self.name = uri, name
        self.root = pending or folder.parent / PENDING
        key, start = _identity(folder)
        self.identity: dict[str, Any] = {"key": key, "name": name, "start": start}
        """By which the run is known before the store has heard of it."""
        self._id_file = folder / "mlflow-run-id"
        header: dict[str, Any] = {**self.identity, "uri": uri, "experiment": EXPERIMENT}
        header |= {"params": params, "tags": tags, "parent": parent}
        if self._id_file.is_file():
            header["run_id"] = self._id_file.read_text().strip()
        self._items: list[tuple[Item, int]] = []
        self._new = threading.Condition()
        self._closed = False
        self._warned = False
        self._spool: OfflineBuffer | None = None
        try:
            self._spool = OfflineBuffer.create(self.root, header)
        except OSError as error:
            _logger.warning("%s: %s; nothing is tracked", self.root, error)
            return
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Note values for delivery."""
        self._note({"kind": "metrics", "metrics": dict(metrics), "step": step, "time": _now()})

    def log_artifact(self, path: Path, place: str = "") -> None:
        """Note a copy of a file or folder for delivery.

        Args:
            place: Folder among the run's artifacts.
        """
        if self._spool is not None:
            kept = self._spool.keep(path)
            inside = kept.is_relative_to(self._spool.folder)
            where = kept.relative_to(self._spool.folder) if inside else kept.resolve()
            self._note({"kind": "file", "path": str(where), "place": place})

    def log_text(self, text: str, name: str, place: str = "") -> None:
        """Note a text for delivery, as a file."""
        if self._spool is None:
            return
        path = self._spool.folder / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            _logger.warning("%s: %s; not tracked", path, error)
            return
        self.log_artifact(path, place)
        path.unlink()

    def _note(self, item: Item) -> None:
        if self._spool is None or self._closed:
            return
        with self._new:
            self._items.append((item, self._spool.append(item)))
            if len(self._items) == 1:
                self._new.notify()

    def close(self, status: str) -> None:
        """Deliver what is there, for at most half a minute, and end the run; what is left stays on disk."""
        self._note({"kind": "end", "status": status, "time": _now()})
        with self._new:
            self._closed = True
            self._new.notify()
        if self._spool is None:
            return
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive() or self._items:
            what = f"{len(self._items)} entries of {self.name}" if self._items else "what earlier runs left"
            _logger.warning("MLflow at %s did not take %s; kept in %s for the next run", self.uri, what, self.root)

    def _work(self) -> None:
        assert self._spool is not None
        try:
            self._deliver_all(self._spool)
        finally:
            self._spool.release()  # without effect once it is removed

    def _deliver_all(self, buffer: OfflineBuffer) -> None:
        backoff, flushed = 1.0, False
        client: Any = None
        delivery: Delivery | None = None
        deadline = float("inf")
        while True:
            with self._new:
                if delivery is not None:
                    self._new.wait_for(lambda: self._items or self._closed)
                    self._new.wait_for(lambda: self._closed, _GATHER_SECONDS)
                closed, items = self._closed, list(self._items)
            if closed:
                deadline = min(deadline, time.monotonic() + _RETRY_SECONDS)
            try:
                if delivery is None:
                    client = connect(self.uri)
                    delivery = Delivery(client, buffer)
                    self._remember(delivery.run_id)
                count = len(items)
                try:
                    delivery.send(items)
                finally:
                    with self._new:
                        del self._items[: count - len(items)]
                if closed:
                    delivery.finish(others=False)
                backoff = 1.0
                if not flushed or closed:
                    self._flush(client)
                    flushed = True
                if closed:
                    return
            except Exception as error:  # whatever the store or the network does, training goes on
                if not self._warned:
                    self._warned = True
                    _logger.warning("MLflow at %s: %s; all goes on, and is kept", self.uri, first_line(error))
                if closed and (not self._items or time.monotonic() > deadline):
                    return
                delivery = None
                if closed:
                    time.sleep(1)
                else:
                    with self._new:
                        self._new.wait_for(lambda: self._closed, backoff)
                backoff = min(2 * backoff, _MAX_BACKOFF)

    def _flush(self, client: Any) -> None:
        try:
            flush(client, self.uri, self.root)
        except Exception as error:  # it stays for the next one
            _logger.warning("MLflow at %s: what earlier runs left in %s: %s", self.uri, self.root, first_line(error))

    def _remember(self, run_id: str) -> None:
        try:
            if self._id_file.parent.is_dir():
                write_atomic(self._id_file, run_id)
        except OSError:
            pass  # the run is found by its key, too


def _identity(folder: Path) -> tuple[str, int]:
    """Key and time of the first start of a run, the same when it is started again in the same folder."""
    path = folder / _KEY_FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return str(known["key"]), int(known["start"])
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
    """A run around some work, with the tags that every run has; its status says how the work ended."""
    uri = resolve(uri)
    if uri == "none":
        yield NoTracker()
        return
    described = {key: str(value) for key, value in params.items()}
    tracker = MlflowTracker(uri, name, described, {**run_tags(name), **tags}, folder)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        tracker.close(status)

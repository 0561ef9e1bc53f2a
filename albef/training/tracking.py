"""Experiment tracking. MLflow lives only here, behind a thread: training never waits for it and never fails with it.

What cannot be delivered is kept: in memory while the run lasts, then in ``tracking-pending.jsonl`` beside the
MLflow database's folder of runs, and sent before anything else the next time the store answers.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albef.config import Config, section_of, to_dict

_logger = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "albef"
_CLOSE_SECONDS = 30.0
_MAX_BACKOFF = 30.0


class NoTracker:
    """Tracks nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Forget the values."""


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class MlflowTracker:
    """Delivers parameters and metrics to an MLflow store from a thread of its own.

    Args:
        uri: MLflow tracking URI.
        name: Run name.
        params: Flat parameters.
        tags: Run tags.
        folder: Scratch folder of the run: a resumed run finds its MLflow run id there.
    """

    def __init__(self, uri: str, name: str, params: dict[str, str], tags: dict[str, str], folder: Path) -> None:
        self.uri, self.name, self.params, self.tags = uri, name, params, tags
        self._id_file = folder / "mlflow-run-id"
        self._pending_file = folder.parent / "tracking-pending.jsonl"
        self._items: queue.Queue[tuple[dict[str, float], int, int] | None] = queue.Queue()
        self._unsent: list[tuple[dict[str, float], int, int]] = []
        self._client: Any = None
        self._run_id: str | None = None
        self._closing = threading.Event()
        self._status = "FINISHED"
        self._warned = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Queue values for delivery."""
        self._items.put((dict(metrics), step, int(time.time() * 1000)))

    def close(self, status: str) -> None:
        """Deliver what is queued, for at most half a minute, and end the run; what is left is written to disk."""
        self._status = status
        self._closing.set()
        self._items.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._unsent or not self._items.empty():
            self._keep()

    def _work(self) -> None:
        backoff, open_ = 1.0, True
        deadline = float("inf")
        while open_ or self._unsent:
            if open_ and not self._unsent:
                open_ = self._take(self._items.get())
            while open_ and not self._items.empty():
                open_ = self._take(self._items.get())
            if not open_:
                deadline = min(deadline, time.monotonic() + _CLOSE_SECONDS / 2)
            try:
                self._deliver()
                backoff = 1.0
            except Exception as error:  # whatever the store or the network does, training goes on
                if not self._warned:
                    self._warned = True
                    _logger.warning("MLflow at %s: %s; training goes on, metrics are kept", self.uri, _first(error))
                if time.monotonic() > deadline:
                    return
                self._client = None
                self._closing.wait(backoff) if open_ else time.sleep(1)
                backoff = min(2 * backoff, _MAX_BACKOFF)
        try:
            if self._client is not None:
                self._client.set_terminated(self._run_id, self._status)
        except Exception as error:
            _logger.warning("MLflow at %s: could not end the run: %s", self.uri, _first(error))

    def _take(self, item: tuple[dict[str, float], int, int] | None) -> bool:
        if item is None:
            return False
        self._unsent.append(item)
        return True

    def _connect(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        for name in ("alembic", "mlflow.store.db.utils"):  # a first database is announced line by line
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=self.uri)
        if self._run_id is None and self._id_file.exists():
            self._run_id = self._id_file.read_text().strip()
        if self._run_id is None:
            experiment = client.get_experiment_by_name(EXPERIMENT)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
            run = client.create_run(experiment_id, run_name=self.name)
            self._run_id = run.info.run_id
            client.log_batch(
                self._run_id,
                params=[Param(k, v) for k, v in self.params.items()],
                tags=[RunTag(k, v) for k, v in self.tags.items()],
            )
            if self._id_file.parent.is_dir():
                self._id_file.write_text(self._run_id)
        else:
            client.update_run(self._run_id, status="RUNNING")
        self._client = client

    def _deliver(self) -> None:
        from mlflow.entities import Metric

        if self._client is None:
            self._connect()
            self._send_pending()
        while self._unsent:
            metrics, step, stamp = self._unsent[0]
            self._client.log_batch(self._run_id, metrics=[Metric(k, v, stamp, step) for k, v in metrics.items()])
            self._unsent.pop(0)

    def _send_pending(self) -> None:
        """Deliver what an earlier run could not."""
        from mlflow.entities import Metric

        if not self._pending_file.exists():
            return
        left: list[str] = []
        for line in self._pending_file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["uri"] != self.uri:
                left.append(line)
                continue
            run_id = row["run_id"] or self._run_id
            metrics = [Metric(k, v, row["time"], row["step"]) for k, v in row["metrics"].items()]
            self._client.log_batch(run_id, metrics=metrics)
        self._pending_file.write_text("".join(line + "\n" for line in left), encoding="utf-8")
        if not left:
            self._pending_file.unlink()

    def _keep(self) -> None:
        while not self._items.empty():
            self._take(self._items.get())
        with self._pending_file.open("a", encoding="utf-8") as file:
            for metrics, step, stamp in self._unsent:
                row = {"uri": self.uri, "run_id": self._run_id, "metrics": metrics, "step": step, "time": stamp}
                file.write(json.dumps(row) + "\n")
        _logger.warning(
            "MLflow at %s did not take %d entries; kept in %s for the next run",
            self.uri,
            len(self._unsent),
            self._pending_file,
        )


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def start_run(
    name: str, config: Config, folder: Path, uri: str | None = None, **params: Any
) -> Iterator[NoTracker | MlflowTracker]:
    """A tracked run around a training stage.

    Args:
        name: Task name.
        folder: Scratch folder of the run.
        uri: MLflow tracking URI; "none" tracks nothing; None takes ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        params: Further parameters to record.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if uri == "none":
        yield NoTracker()
        return
    tags = {"task": name, "stage": os.environ.get("DVC_STAGE", name)}
    commit = _git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    section = section_of(config, name)
    recorded = dict(_flat({"model": to_dict(config.model), "train": to_dict(section), **params}))
    tracker = MlflowTracker(uri, name, recorded, tags, folder)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except SystemExit:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)

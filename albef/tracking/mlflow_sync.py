"""Idempotent upload of offline buffers to an MLflow store."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from albef.tracking.offline_buffer import Item, OfflineBuffer

_logger = logging.getLogger(__name__)

KEY = "albef.run"
"""Tag that identifies a run across the processes that log it."""
_LIMITS = {"params": 100, "tags": 100, "metrics": 1000}  # per request


def connect(uri: str) -> Any:
    """Return an MLflow client with short timeouts."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):  # they log every migration of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # the caller warns once
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Return the id of an experiment, creating it if necessary.

    Artifacts of a SQLite store are placed next to the database, whatever the working directory of this process.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlruns" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


class BufferUpload:
    """Sends a buffer to its MLflow run, which is created if necessary.

    Metric values whose step the run already has are skipped: they were sent before, or a resumed process repeats them.
    """

    def __init__(self, client: Any, buffer: OfflineBuffer) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        self.client, self.buffer = client, buffer
        header = buffer.header
        self._experiment = experiment_id(client, header["uri"], header["experiment"])
        self._position = 0
        self._steps: dict[str, set[int]] = {}
        run = self._find(header) or self._create(header)
        self.run_id = str(run.info.run_id)
        tags = dict(header["tags"])
        if parent := header["parent"]:
            tags["mlflow.parentRunId"] = (self._find(parent) or self._create(parent)).info.run_id
        self._log("params", [Param(k, v) for k, v in header["params"].items() if k not in run.data.params])
        self._log("tags", [RunTag(k, v) for k, v in tags.items()])
        data_sets = [
            DatasetInput(
                Dataset(each["name"], each["digest"], "local", json.dumps({"uri": each["uri"]})),
                [InputTag("mlflow.data.context", "training")],
            )
            for each in header.get("data_sets", ())  # absent in buffers of earlier releases
        ]
        if data_sets:
            self.client.log_inputs(self.run_id, data_sets)

    def _find(self, header: Mapping[str, Any]) -> Any | None:
        runs = self.client.search_runs([self._experiment], f"tags.`{KEY}` = '{header['key']}'", max_results=1)
        return runs[0] if runs else None

    def _create(self, header: Mapping[str, Any]) -> Any:
        tags = {KEY: header["key"]}
        return self.client.create_run(self._experiment, header["start"], tags, run_name=header["name"])

    def send(self) -> None:
        """Send the items that this object has not sent yet.

        Raises:
            Exception: Any error of the store or the network that a repetition may avoid.
        """
        items, position = self.buffer.items(self._position)
        for kind, group in itertools.groupby(items, lambda item: item["kind"]):
            if kind == "metrics":
                self._send_metrics(group)
            elif kind == "file":
                for item in group:
                    self._send_file(self.buffer.path.parent / item["path"], item["place"])
            elif kind == "end":
                for item in group:
                    self.client.set_terminated(self.run_id, item["status"], item["time"])
        self._position = position

    def _send_metrics(self, items: Iterable[Item]) -> None:
        from mlflow.entities import Metric

        rows = [Metric(k, v, item["time"], item["step"]) for item in items for k, v in item["metrics"].items()]
        for key in {row.key for row in rows} - self._steps.keys():
            self._steps[key] = {metric.step for metric in self.client.get_metric_history(self.run_id, key)}
        self._log("metrics", [row for row in rows if row.step not in self._steps[row.key]])

    def _log(self, kind: str, rows: list[Any]) -> None:
        for start in range(0, len(rows), _LIMITS[kind]):
            batch = rows[start : start + _LIMITS[kind]]
            try:
                self.client.log_batch(self.run_id, **{kind: batch})
            except Exception as error:  # one that a repetition would raise again must not hold up the rest
                if getattr(error, "error_code", None) not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                    raise
                if len(batch) == 1:
                    _logger.warning("MLflow rejected %s: %s", batch[0], first_line(error))
                else:
                    for row in batch:
                        self._log(kind, [row])

    def _send_file(self, path: Path, place: str) -> None:
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), "/".join(filter(None, [place, path.name])))
        elif path.is_file():
            self.client.log_artifact(self.run_id, str(path), place or None)
        else:
            _logger.warning("%s no longer exists; it is not in MLflow", path)


def first_line(error: Exception) -> str:
    """Return the first line of an error message, or its type name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def sync_abandoned(client: Any, uri: str, root: Path) -> int:
    """Send buffers of dead processes to a store, and return their number.

    Raises:
        Exception: Any error of the store or the network; unsent items stay in their buffers.
    """
    count = 0
    for buffer in OfflineBuffer.abandoned(root):
        try:
            if buffer.header["uri"] == uri:
                upload = BufferUpload(client, buffer)
                upload.send()
                if client.get_run(upload.run_id).info.status == "RUNNING":  # its process was killed
                    client.set_terminated(upload.run_id, "KILLED")
                buffer.remove()
                count += 1
        finally:
            buffer.release()
    return count

"""Idempotent upload of offline buffers to an MLflow store."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albef.tracking.offline_buffer import Item, OfflineBuffer, headers

_logger = logging.getLogger(__name__)

KEY = "albef.run"
"""Tag that identifies a run whose creation was never confirmed by the store."""
_BATCH = 100  # parameters, tags or journal rows per request, at most
_METRICS = 1000  # metric values per request, at most


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
    """Sends the items of one buffer to its MLflow run.

    Args:
        live: Whether this process is still logging the run. Otherwise its process is gone, and the end of the run may
            be missing from the buffer.
    """

    def __init__(self, client: Any, buffer: OfflineBuffer, live: bool = True) -> None:
        self.client, self.buffer, self.live = client, buffer, live
        self.run_id = self._open_run()

    def _open_run(self) -> str:
        from mlflow.entities import Param, RunTag

        header, client = self.buffer.header, self.client
        run_id: str | None = header.get("run_id")
        with _exclusive(self.buffer.folder.parent):  # only one process may create the run
            if run_id is not None and not self._exists(run_id):
                run_id, header["described"] = None, False  # the run was deleted from the store
            run_id = run_id or self._find(header["key"])
            if run_id is None:
                run_id = self._create_run(header)
            elif self.live:
                client.update_run(run_id, status="RUNNING")
            if header.get("described"):
                return run_id
            parent = header.get("parent")
            nesting = {"mlflow.parentRunId": self._find(parent["key"]) or self._create_run(parent)} if parent else {}
        params, tags = list(header["params"].items()), list({**header["tags"], **nesting}.items())
        for start in range(0, max(len(params), len(tags)), _BATCH):
            part = slice(start, start + _BATCH)
            try:
                client.log_batch(
                    run_id, params=[Param(k, v) for k, v in params[part]], tags=[RunTag(k, v) for k, v in tags[part]]
                )
            except Exception as error:
                if not _is_permanent(error):
                    raise
                self._reject({"kind": "params", "params": dict(params[part]), "tags": dict(tags[part])}, error)
        self.buffer.update(run_id=run_id, described=True)
        return run_id

    def _exists(self, run_id: str) -> bool:
        try:
            self.client.get_run(run_id)
        except Exception as error:
            if not _is_permanent(error):
                raise
            return False
        return True

    def _find(self, key: str) -> str | None:
        experiment = self.client.get_experiment_by_name(self.buffer.header["experiment"])
        if experiment is None:
            return None
        runs = self.client.search_runs([experiment.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, header: Mapping[str, Any]) -> str:
        """Create this run or its parent, which may be sent later."""
        experiment = experiment_id(self.client, self.buffer.header["uri"], self.buffer.header["experiment"])
        run = self.client.create_run(
            experiment, start_time=header["start"], tags={KEY: header["key"]}, run_name=header["name"]
        )
        return str(run.info.run_id)

    def send(self, items: list[tuple[Item, int]]) -> None:
        """Send items in order, removing accepted ones from the list."""
        while items:
            batch = _next_batch(items)
            try:
                self._log([item for item, _ in batch])
            except Exception as error:
                if not _is_permanent(error):
                    raise
                if len(batch) > 1:  # send one by one, to reject only the item at fault
                    batch = batch[:1]
                    try:
                        self._log([batch[0][0]])
                    except Exception as item_error:
                        if not _is_permanent(item_error):
                            raise
                        self._reject(batch[0][0], item_error)
                else:
                    self._reject(batch[0][0], error)
            del items[: len(batch)]
            self.buffer.mark_sent(batch[-1][1])

    def _reject(self, item: Item, error: Exception) -> None:
        self.buffer.reject(item, first_line(error))
        _logger.warning(
            "MLflow rejected %s: %s; the item is in %s",
            ", ".join(item.get("metrics", {})) or item["kind"],
            first_line(error),
            self.buffer.folder.parent / "refused.jsonl",
        )

    def _log(self, items: list[Item]) -> None:
        from mlflow.entities import Metric

        first = items[0]
        if first["kind"] == "metrics":
            rows = [Metric(k, v, i["time"], i["step"]) for i in items for k, v in i["metrics"].items()]
            for start in range(0, len(rows), _METRICS):
                self.client.log_batch(self.run_id, metrics=rows[start : start + _METRICS])
        elif first["kind"] == "end":
            self.client.set_terminated(self.run_id, first["status"], first["time"])
        else:
            self._log_file(first)

    def _log_file(self, item: Item) -> None:
        path = Path(item["path"])
        path = path if path.is_absolute() else self.buffer.folder / path
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), "/".join(filter(None, [item["place"], path.name])))
        elif path.is_file():
            self.client.log_artifact(self.run_id, str(path), item["place"] or None)
        else:
            self.buffer.reject(item, "the file no longer exists")

    def finish(self, others: bool) -> None:
        """Delete the buffer after everything has been sent.

        A run whose process was killed is marked as such, unless other buffers of the same run exist (``others``).
        """
        if not self.live and not others and self.client.get_run(self.run_id).info.status == "RUNNING":
            self.client.set_terminated(self.run_id, "KILLED")
        self.buffer.remove()


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _next_batch(items: list[tuple[Item, int]]) -> list[tuple[Item, int]]:
    """Return the leading metrics, or the first item of another kind."""
    count = 0
    while count < min(len(items), _BATCH) and items[count][0]["kind"] == "metrics":
        count += 1
    return items[: max(count, 1)]


def _is_permanent(error: Exception) -> bool:
    """Return whether a repeated request would fail in the same way."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


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
                upload = BufferUpload(client, buffer, live=False)
                upload.send(buffer.unsent())
                upload.finish(others=buffers_of(root, buffer.header["key"]) != [buffer.folder])
                count += 1
        finally:
            buffer.release()
    return count


def buffers_of(root: Path, key: str) -> list[Path]:
    """Return the folders of all buffers of a run, locked or not."""
    folders = []
    for path in headers(root):
        try:
            if json.loads(path.read_text(encoding="utf-8"))["key"] == key:
                folders.append(path.parent)
        except (OSError, ValueError):
            continue  # sent and removed in the meantime
    return folders

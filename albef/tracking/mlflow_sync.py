"""Delivery of a buffer to an MLflow store. Whatever is delivered twice is there once."""

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
"""Tag by which a run is found again whose creation was not answered."""
_BATCH = 100  # the most parameters, tags or rows of metrics in a request
_METRICS = 1000


def connect(uri: str) -> Any:
    """A client that gives up on a slow server within seconds rather than minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):  # a first database is announced line by line
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a store that is away is told of once
    return MlflowClient(tracking_uri=uri)


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Of an experiment, made where there is none. Files of a SQLite store lie beside it, wherever this process runs."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = None
    if uri.startswith("sqlite:///"):
        place = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlruns" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=place))


class Delivery:
    """Delivers one buffer.

    Args:
        own: The run goes on in this process. Else its process is gone, and its end may be in the buffer or unknown.
    """

    def __init__(self, client: Any, buffer: OfflineBuffer, own: bool = True) -> None:
        self.client, self.buffer, self.own = client, buffer, own
        self.run_id = self._open()

    def _open(self) -> str:
        from mlflow.entities import Param, RunTag

        header, client = self.buffer.header, self.client
        run_id: str | None = header.get("run_id")
        with _exclusive(self.buffer.folder.parent):  # a run is made by one process
            if run_id is not None and not self._exists(run_id):
                run_id, header["described"] = None, False  # somebody has deleted it
            run_id = run_id or self._find(header["key"])
            if run_id is None:
                run_id = self._make(header)
            elif self.own:
                client.update_run(run_id, status="RUNNING")
            if header.get("described"):
                return run_id
            above = header.get("parent")
            nested = {"mlflow.parentRunId": self._find(above["key"]) or self._make(above)} if above else {}
        params, tags = list(header["params"].items()), list({**header["tags"], **nested}.items())
        for start in range(0, max(len(params), len(tags)), _BATCH):
            part = slice(start, start + _BATCH)
            try:
                client.log_batch(
                    run_id, params=[Param(k, v) for k, v in params[part]], tags=[RunTag(k, v) for k, v in tags[part]]
                )
            except Exception as error:
                if not _final(error):
                    raise
                self._refuse({"kind": "params", "params": dict(params[part]), "tags": dict(tags[part])}, error)
        self.buffer.update(run_id=run_id, described=True)
        return run_id

    def _exists(self, run_id: str) -> bool:
        try:
            self.client.get_run(run_id)
        except Exception as error:
            if not _final(error):
                raise
            return False
        return True

    def _find(self, key: str) -> str | None:
        experiment = self.client.get_experiment_by_name(self.buffer.header["experiment"])
        if experiment is None:
            return None
        found = self.client.search_runs([experiment.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _make(self, run: Mapping[str, Any]) -> str:
        """A run in the store, this one or the one above it, which may come to the store later than what is below."""
        experiment = experiment_id(self.client, self.buffer.header["uri"], self.buffer.header["experiment"])
        made = self.client.create_run(experiment, start_time=run["start"], tags={KEY: run["key"]}, run_name=run["name"])
        return str(made.info.run_id)

    def send(self, items: list[tuple[Item, int]]) -> None:
        """Deliver items in order, and take them off the list."""
        while items:
            taken = _batch(items)
            try:
                self._put([item for item, _ in taken])
            except Exception as error:
                if not _final(error):
                    raise
                if len(taken) > 1:  # find the one that is refused
                    taken = taken[:1]
                    try:
                        self._put([taken[0][0]])
                    except Exception as again:
                        if not _final(again):
                            raise
                        self._refuse(taken[0][0], again)
                else:
                    self._refuse(taken[0][0], error)
            del items[: len(taken)]
            self.buffer.mark(taken[-1][1])

    def _refuse(self, item: Item, error: Exception) -> None:
        self.buffer.refuse(item, first_line(error))
        _logger.warning(
            "MLflow refuses %s: %s; kept in %s",
            ", ".join(item.get("metrics", {})) or item["kind"],
            first_line(error),
            self.buffer.folder.parent / "refused.jsonl",
        )

    def _put(self, items: list[Item]) -> None:
        from mlflow.entities import Metric

        first = items[0]
        if first["kind"] == "metrics":
            rows = [Metric(k, v, i["time"], i["step"]) for i in items for k, v in i["metrics"].items()]
            for start in range(0, len(rows), _METRICS):
                self.client.log_batch(self.run_id, metrics=rows[start : start + _METRICS])
        elif first["kind"] == "end":
            self.client.set_terminated(self.run_id, first["status"], first["time"])
        else:
            self._file(first)

    def _file(self, item: Item) -> None:
        path = Path(item["path"])
        path = path if path.is_absolute() else self.buffer.folder / path
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), "/".join(filter(None, [item["place"], path.name])))
        elif path.is_file():
            self.client.log_artifact(self.run_id, str(path), item["place"] or None)
        else:
            self.buffer.refuse(item, "the file is gone")

    def finish(self, others: bool) -> None:
        """All is sent: end a run whose process was killed, unless ``others`` go on with it, and forget the buffer."""
        if not self.own and not others and self.client.get_run(self.run_id).info.status == "RUNNING":
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


def _batch(items: list[tuple[Item, int]]) -> list[tuple[Item, int]]:
    """The first item, or the first metrics, as one request takes them."""
    count = 0
    while count < min(len(items), _BATCH) and items[count][0]["kind"] == "metrics":
        count += 1
    return items[: max(count, 1)]


def _final(error: Exception) -> bool:
    """Whether the store will say the same the next time."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def flush(client: Any, uri: str, root: Path) -> int:
    """Deliver what processes that are gone have left for this store; returns how many runs.

    Raises:
        Exception: Whatever the store or the network does; what is left stays.
    """
    count = 0
    for buffer in OfflineBuffer.abandoned(root):
        try:
            if buffer.header["uri"] == uri:
                delivery = Delivery(client, buffer, own=False)
                delivery.send(buffer.unsent())
                delivery.finish(others=spools_of(root, buffer.header["key"]) != [buffer.folder])
                count += 1
        finally:
            buffer.release()
    return count


def spools_of(root: Path, key: str) -> list[Path]:
    """Folders of what a run has left, or is about to."""
    found = []
    for path in headers(root):
        try:
            if json.loads(path.read_text(encoding="utf-8"))["key"] == key:
                found.append(path.parent)
        except (OSError, ValueError):
            continue  # delivered and removed meanwhile
    return found

"""Training stages, searches and reports as tracked runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from albef.config import Config, section_of, to_dict
from albef.io import write_file
from albef.tracking.origin import run_tags
from albef.tracking.system import system_metrics
from albef.tracking.tracker import Tracker, resolve


def absolute_uri(uri: str | None) -> str:
    """Return the store's URI, with the absolute path of a SQLite file."""
    uri = resolve(uri)
    prefix = "sqlite:///"
    return prefix + str(Path(uri.removeprefix(prefix)).resolve()) if uri.startswith(prefix) else uri


def start(
    name: str, params: Mapping[str, Any], tags: Mapping[str, str], folder: Path, uri: str | None = None, **settings: Any
) -> Tracker:
    """Start a run with the common tags; see `Tracker` for the arguments."""
    return Tracker(resolve(uri), name, params, {**run_tags(name), **tags}, folder, **settings)


@contextmanager
def start_run(
    name: str,
    config: Config,
    folder: Path,
    uri: str | None = None,
    data: str = "",
    lists: Sequence[Path] = (),
    **params: Any,
) -> Iterator[Tracker]:
    """Track a training stage as a run, with system metrics.

    Args:
        name: Task name.
        folder: Folder of the run in the work directory.
        uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        data: Hash of the training data.
        lists: Training lists, recorded as the run's data set.
        params: Additional parameters to record.
    """
    recorded = {"model": to_dict(config.model), "train": to_dict(section_of(config, name)), **params}
    tags = {"task": name, "mlflow.source.name": f"albef {name}", **({"data": data} if data else {})}
    digest = data[:36]  # all that MLflow stores
    data_sets = [{"name": path.stem, "digest": digest, "uri": path.resolve().as_uri()} for path in lists]
    write_file(folder / "config.json", json.dumps(recorded, indent=1) + "\n")
    with start(name, recorded, tags, folder, uri, data_sets=data_sets) as tracker:
        tracker.log_artifact(folder / "config.json")
        with system_metrics(tracker):
            yield tracker

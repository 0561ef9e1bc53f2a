"""Training stages and searches as tracked runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from albef.config import Config, section_of, to_dict
from albef.tracking.system import system_metrics
from albef.tracking.tracker import MlflowTracker, NoTracker, resolve, tracked


def absolute_uri(uri: str | None) -> str:
    """Return the store's URI, with the absolute path of a SQLite file."""
    uri = resolve(uri)
    prefix = "sqlite:///"
    return prefix + str(Path(uri.removeprefix(prefix)).resolve()) if uri.startswith(prefix) else uri


def start(
    name: str, params: Mapping[str, Any], tags: Mapping[str, str], folder: Path, uri: str | None = None
) -> AbstractContextManager[NoTracker | MlflowTracker]:
    """Track a block of work as a run; see `albef.tracking.tracker.tracked`.

    Args:
        params: Nested parameters, recorded with dotted names.
        tags: Tags in addition to the common ones.
        folder: Folder of the run in the work directory.
    """
    return tracked(name, folder, uri, dict(_flatten(params)), dict(tags))


@contextmanager
def start_run(
    name: str, config: Config, folder: Path, uri: str | None = None, data: str = "", **params: Any
) -> Iterator[NoTracker | MlflowTracker]:
    """Track a training stage as a run, with system metrics.

    Args:
        name: Task name.
        folder: Folder of the run in the work directory.
        uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        data: Hash of the training data.
        params: Additional parameters to record.
    """
    recorded = {"model": to_dict(config.model), "train": to_dict(section_of(config, name)), **params}
    tags = {"task": name, **({"data": data} if data else {})}
    with start(name, recorded, tags, folder, uri) as tracker:
        tracker.log_text(json.dumps(recorded, indent=1) + "\n", "config.json")
        with system_metrics(tracker):
            yield tracker


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)

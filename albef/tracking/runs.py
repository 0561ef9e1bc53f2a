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


def absolute(uri: str | None) -> str:
    """The store as `albef.tracking.tracker.resolve` finds it, a SQLite file seen from any folder."""
    uri = resolve(uri)
    prefix = "sqlite:///"
    return prefix + str(Path(uri.removeprefix(prefix)).resolve()) if uri.startswith(prefix) else uri


def start(
    name: str, params: Mapping[str, Any], tags: Mapping[str, str], folder: Path, uri: str | None = None
) -> AbstractContextManager[NoTracker | MlflowTracker]:
    """A tracked run around a piece of work, as `albef.tracking.tracker.tracked`.

    Args:
        params: Nested parameters.
        tags: Besides those of every run.
        folder: Scratch folder of the run.
    """
    return tracked(name, folder, uri, dict(_flat(params)), dict(tags))


@contextmanager
def start_run(
    name: str, config: Config, folder: Path, uri: str | None = None, data: str = "", **params: Any
) -> Iterator[NoTracker | MlflowTracker]:
    """A tracked run around a training stage, with system metrics.

    Args:
        name: Task name.
        folder: Scratch folder of the run.
        uri: MLflow tracking URI; "none" tracks nothing; None takes ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        data: Hash of what it trains on.
        params: Further parameters to record.
    """
    recorded = {"model": to_dict(config.model), "train": to_dict(section_of(config, name)), **params}
    tags = {"task": name, **({"data": data} if data else {})}
    with start(name, recorded, tags, folder, uri) as tracker:
        tracker.log_text(json.dumps(recorded, indent=1) + "\n", "config.json")
        with system_metrics(tracker):
            yield tracker


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)

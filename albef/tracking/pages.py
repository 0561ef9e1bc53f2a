"""Addresses in MLflow's UI."""

from __future__ import annotations

import os

from albef.tracking.mlflow_sync import connect, first_line
from albef.tracking.tracker import EXPERIMENT, resolve

_TRAINING = "?workflowType=machine_learning"
"""Without it, the UI shows traces of language models."""


class PageError(ValueError):
    """MLflow has no such page, or no UI is known."""


def page_url(place: str | None = None, uri: str | None = None) -> str:
    """Return the address of the table of runs, or of a page of the latest report.

    Args:
        place: Path of the page among the artifacts of the run, such as ``report/index.html``.
        uri: MLflow store; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.

    Raises:
        PageError: If ``MLFLOW_UI`` is not set and the store is no server, the store cannot be reached, there is no run,
            or no report has this page.
    """
    uri = resolve(uri)
    ui = uri if uri.startswith(("http://", "https://")) else os.environ.get("MLFLOW_UI", "")
    if not ui or uri == "none":
        raise PageError("MLFLOW_UI: not set, expected the address of MLflow's UI")
    try:
        client = connect(uri)
        for experiment in client.search_experiments(filter_string=f"name = '{EXPERIMENT}'"):
            table = f"{ui.rstrip('/')}/#/experiments/{experiment.experiment_id}/runs"
            if place is None:
                return table + _TRAINING
            for run in client.search_runs([experiment.experiment_id], "tags.task = 'report'", max_results=1):  # latest
                if place in {file.path for file in client.list_artifacts(run.info.run_id, place.rpartition("/")[0])}:
                    return f"{table}/{run.info.run_id}/artifacts/{place}{_TRAINING}"
    except Exception as error:  # any of the store or the network
        raise PageError(f"MLflow at {uri}: {first_line(error)}") from error
    raise PageError(f"MLflow at {uri}: no {f'report with {place}' if place else 'run'} yet")

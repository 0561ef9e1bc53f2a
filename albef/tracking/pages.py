"""Addresses of the report's pages in MLflow's UI."""

from __future__ import annotations

import os

from albef.tracking.mlflow_sync import connect, first_line
from albef.tracking.tracker import EXPERIMENT, resolve


class PageError(ValueError):
    """MLflow has no such page, or no UI is known."""


def page_url(place: str, uri: str | None = None) -> str:
    """Return the address of a page of the latest report.

    Args:
        place: Path among the artifacts of the run, such as ``report/index.html``.
        uri: MLflow store; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.

    Raises:
        PageError: If ``MLFLOW_UI`` is not set and the store is no server, the store cannot be reached, or no report has
            this page.
    """
    uri = resolve(uri)
    ui = uri if uri.startswith(("http://", "https://")) else os.environ.get("MLFLOW_UI", "")
    if not ui or uri == "none":
        raise PageError("MLFLOW_UI: not set, expected the address of MLflow's UI")
    try:
        client = connect(uri)
        experiments = [each.experiment_id for each in client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")]
        found = client.search_runs(experiments, "tags.task = 'report'", max_results=1) if experiments else []
        for run in found:  # the latest comes first
            if place in {file.path for file in client.list_artifacts(run.info.run_id, place.rpartition("/")[0])}:
                return (
                    f"{ui.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{place}"
                )
    except Exception as error:  # any of the store or the network
        raise PageError(f"MLflow at {uri}: {first_line(error)}") from error
    raise PageError(f"MLflow at {uri}: no report with {place}")

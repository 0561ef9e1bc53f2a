"""Prefect artifacts of a pipeline run: metrics, plots, validation pages and report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import _dvc

PAGES = {
    "raw-data-docs": ("inspect", "artifacts/raw/docs/index.html"),
    "data-docs": ("validate", "artifacts/validated/docs/index.html"),
    "report": ("report", "artifacts/report/index.html"),
}
"""Stage and path of each page, by artifact key."""
PLOTS = "artifacts/plots"


def reproduce(targets: Sequence[str], overrides: Sequence[str] | None, pull: bool, push: bool) -> None:
    """Reproduce stages and publish the results; with ``overrides`` as a DVC experiment."""
    if overrides:
        publish_experiment(_dvc.run_experiment(overrides, *targets, push=push, pull=pull))
    else:
        publish(_dvc.run(*targets, push=push, pull=pull))


def publish(names: list[str]) -> None:
    """Publish metrics, plots and pages of stages."""
    rows = [
        {"stage": name.replace("@", "/"), "metric": metric, "value": round(value, 4)}
        for name in names
        if (path := _dvc.ROOT / _metrics_file(name)).is_file()
        for metric, value in json.loads(path.read_text(encoding="utf-8")).items()
        if isinstance(value, int | float)
    ]
    if rows:
        create_table_artifact(key="metrics", table=sorted(rows, key=lambda row: (row["stage"], row["metric"])))
        _link("plots", _plots(), "Loss curves and plots of every stage", tracked=False)
    for key, (stage, page) in PAGES.items():
        if stage in names:
            _link(key, _dvc.ROOT / page, f"Written by stage {stage}")


def _metrics_file(stage: str) -> str:
    return f"artifacts/{stage.replace('@', '/')}/metrics.json"


def _plots() -> Path | None:
    """Render DVC's plots and return the page, or None without plots."""
    try:
        _dvc.dvc("plots", "show", "--out", PLOTS)
    except RuntimeError:  # no stage with plots has run yet
        return None
    return _dvc.ROOT / PLOTS / "index.html"


def _link(key: str, page: Path | None, description: str, tracked: bool = True) -> None:
    """Publish a link to a page.

    A page that is also an artifact in MLflow (``tracked``) is linked there, because browsers open no files from a page
    of Prefect.
    """
    if page is None or not page.is_file():
        return
    link = ""
    if tracked:
        with suppress(_dvc.StageError):
            link = _dvc.albef("tracking", "tracking", "url", str(page.relative_to(_dvc.ROOT / "artifacts"))).strip()
    if not link:
        link, description = page.as_uri(), f"{description}; open {page} in a browser"
    create_link_artifact(key=key, link=link, description=description)


def publish_experiment(name: str) -> None:
    """Publish the parameters and metrics in which an experiment differs from the workspace."""
    rows: list[dict[str, Any]] = []
    files = [_metrics_file(stage) for stage in _dvc.stages()]
    for kind in ("params", "metrics"):
        options = ["--all", "--targets", *files] if kind == "metrics" else []
        diff = json.loads(_dvc.dvc(kind, "diff", "--json", name, *options) or "{}")  # the workspace is "new"
        for path, changes in diff.items():
            rows += [
                {"of": kind, "file": path, "name": key, "before": change.get("new"), "after": change.get("old")}
                for key, change in changes.items()
            ]
    create_table_artifact(
        key="experiment", table=rows, description=f"Run `dvc exp apply {name}` to apply it to the workspace"
    )

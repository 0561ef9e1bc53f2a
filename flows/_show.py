"""What Prefect shows of a run of the pipeline: metrics, plots, data docs and report, as artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_table_artifact

from flows import _dvc

PAGES = {
    "raw-data-docs": ("inspect", "artifacts/raw/docs/index.html"),
    "data-docs": ("validate", "artifacts/validated/docs/index.html"),
    "report": ("report", "artifacts/report/index.html"),
}
"""By artifact, the stage that writes the page, and the page."""
PLOTS = "artifacts/plots"


def bring(targets: Sequence[str], overrides: Sequence[str] | None, pull: bool, push: bool) -> None:
    """Bring stages up to date and show what came of it; with ``overrides`` as an experiment."""
    if overrides:
        publish_experiment(_dvc.run_experiment(overrides, *targets, push=push, pull=pull))
    else:
        publish(_dvc.run(*targets, push=push, pull=pull))


def publish(names: list[str]) -> None:
    """Show metrics, plots and pages of the stages ``names``."""
    shown = json.loads(_dvc.dvc("metrics", "show", "--json"))
    files = shown.get("", {}).get("data", {})
    wanted = {name.replace("@", "/") for name in names}
    rows = [
        {"stage": stage, "metric": metric, "value": round(value, 4)}
        for path, content in files.items()
        for stage in wanted
        if f"/{stage}/" in path
        for metric, value in content.get("data", {}).items()
        if isinstance(value, int | float)
    ]
    if rows:
        create_table_artifact(key="metrics", table=sorted(rows, key=lambda row: (row["stage"], row["metric"])))
        _link("plots", _plots(), "Loss curves and plots of every stage")
    for key, (stage, page) in PAGES.items():
        if stage in names:
            _link(key, _dvc.ROOT / page, f"Written by stage {stage}")


def _plots() -> Path | None:
    """The page of DVC's plots, where there are any."""
    try:
        _dvc.dvc("plots", "show", "--out", PLOTS)
    except RuntimeError:  # no stage with plots has run yet
        return None
    return _dvc.ROOT / PLOTS / "index.html"


def _link(key: str, page: Path | None, description: str) -> None:
    if page is not None and page.is_file():
        create_link_artifact(key=key, link=page.as_uri(), description=description)


def publish_experiment(name: str) -> None:
    """Show what an experiment changed: parameters, and metrics beside those of the last commit."""
    rows: list[dict[str, Any]] = []
    for kind in ("params", "metrics"):
        everything = ["--all"] if kind == "metrics" else []
        found = json.loads(_dvc.dvc(kind, "diff", "--json", *everything, "HEAD", name) or "{}")
        for path, changes in found.items():
            rows += [
                {"of": kind, "file": path, "name": key, "before": change.get("old"), "after": change.get("new")}
                for key, change in changes.items()
            ]
    create_table_artifact(
        key="experiment", table=rows, description=f"dvc exp apply {name} brings it into the workspace"
    )

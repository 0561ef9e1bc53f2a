"""The report as an MLflow run: metrics, parity, validation and page."""

from __future__ import annotations

from pathlib import Path

from albef.report.source import read_json
from albef.tracking.origin import data_hash
from albef.tracking.runs import start
from albef.tracking.tracker import Tracker

_MAX_DOCS = 50_000_000  # bytes; larger pages are not uploaded


def run(artifacts: Path, images: Path, out: Path, uri: str | None, work_dir: Path) -> None:
    """Log a written report as an MLflow run.

    An unreachable store is no error: the data is buffered and sent by a later run.

    Args:
        out: Folder of the report.
        uri: MLflow store; "none" disables tracking; None means ``MLFLOW_TRACKING_URI`` or a local SQLite file.
        work_dir: Folder for tracking data that MLflow has not accepted yet.
    """
    validated = artifacts / "validated"
    lists = [*sorted((validated / "lists").glob("*.*")), *filter(Path.is_file, [images / "manifest.json"])]
    tags = {"task": "report", "data": data_hash(lists)}
    with start("report", {}, tags, work_dir / "report", uri) as tracker:
        metrics = _metrics(artifacts)
        tracker.log_metrics(metrics, 0)
        _log_files(artifacts, tracker)
        tracker.log_artifact(out)  # next to `validated`, as in `artifacts`, to keep the links to the pages valid


def _metrics(artifacts: Path) -> dict[str, float]:
    """Return the metrics of all stages, prefixed with their folder: ``evaluate/vqa/accuracy``."""
    metrics: dict[str, float] = {}
    for pattern in ("*/metrics.json", "*/*/metrics.json", "export/*/parity.json"):
        for path in sorted(artifacts.glob(pattern)):
            metrics |= _numbers(path, str(path.parent.relative_to(artifacts)))
    report = artifacts / "validated" / "report.json"
    if report.is_file():
        validation = read_json(report)
        lists, expectations = validation.get("lists", {}).values(), validation.get("expectations", [])
        metrics["validated/success"] = float(bool(validation.get("success")))
        metrics["validated/rows"] = float(sum(each["rows"] for each in lists))
        metrics["validated/bad_rows"] = float(sum(each["bad"] for each in lists))
        metrics["validated/expectations"] = float(len(expectations))
        metrics["validated/failed_expectations"] = float(sum(not each["success"] for each in expectations))
    return metrics


def _numbers(path: Path, prefix: str) -> dict[str, float]:
    data = read_json(path)
    return {
        f"{prefix}/{name}": float(value)
        for name, value in data.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _log_files(artifacts: Path, tracker: Tracker) -> None:
    for pattern in ("export/*/parity.json", "evaluate/*/plots/*.csv", "validated/report.json"):
        for path in sorted(artifacts.glob(pattern)):
            tracker.log_artifact(path, str(path.parent.relative_to(artifacts)))
    for stage in ("raw", "validated"):
        docs = artifacts / stage / "docs"
        if docs.is_dir() and sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) <= _MAX_DOCS:
            tracker.log_artifact(docs, stage)

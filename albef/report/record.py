"""The report as an MLflow run: final metrics of all stages, parity and validation reports, pictures and page."""

from __future__ import annotations

from pathlib import Path

from albef.report.source import read_json
from albef.tracking.origin import data_hash
from albef.tracking.tracker import MlflowTracker, NoTracker, tracked

_LARGEST_DOCS = 50_000_000  # bytes of data docs that a tracking store should take


def run(artifacts: Path, images: Path, out: Path, uri: str | None, scratch: Path) -> None:
    """Record a report that was written. A store that is dead or slow costs nothing but the record's delay.

    Args:
        out: The report.
        uri: MLflow store; "none" tracks nothing, None leaves it to the environment.
        scratch: Folder where what is not delivered waits.
    """
    validated = artifacts / "validated"
    lists = [*validated.glob("lists/*.json"), *filter(Path.is_file, [images / "manifest.json"])]
    tags = {"task": "report", "data": data_hash(lists)}
    with tracked("report", scratch / "report", uri, {}, tags) as tracker:
        metrics = _metrics(artifacts)
        tracker.log_metrics(metrics, 0)
        _files(artifacts, tracker)
        tracker.log_artifact(out)  # as in `artifacts`, so that the page's links to the data docs hold


def _metrics(artifacts: Path) -> dict[str, float]:
    """Numbers of every stage, named like its folder: ``evaluate/vqa/accuracy``."""
    found: dict[str, float] = {}
    for pattern in ("*/metrics.json", "*/*/metrics.json", "export/*/parity.json"):
        for path in sorted(artifacts.glob(pattern)):
            found |= _numbers(path, str(path.parent.relative_to(artifacts)))
    report = artifacts / "validated" / "report.json"
    if report.is_file():
        read = read_json(report)
        lists, expectations = read.get("lists", {}).values(), read.get("expectations", [])
        found["validated/success"] = float(bool(read.get("success")))
        found["validated/rows"] = float(sum(each["rows"] for each in lists))
        found["validated/bad_rows"] = float(sum(each["bad"] for each in lists))
        found["validated/expectations"] = float(len(expectations))
        found["validated/failed_expectations"] = float(sum(not each["success"] for each in expectations))
    return found


def _numbers(path: Path, prefix: str) -> dict[str, float]:
    read = read_json(path)
    return {
        f"{prefix}/{name}": float(value)
        for name, value in read.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _files(artifacts: Path, tracker: NoTracker | MlflowTracker) -> None:
    for pattern in ("export/*/parity.json", "evaluate/*/*.csv", "validated/report.json"):
        for path in sorted(artifacts.glob(pattern)):
            tracker.log_artifact(path, str(path.parent.relative_to(artifacts)))
    docs = artifacts / "validated" / "docs"
    if docs.is_dir() and sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) <= _LARGEST_DOCS:
        tracker.log_artifact(docs, "validated")

"""The report as an MLflow run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef.report import page
from albef.tracking.offline_buffer import OfflineBuffer
from albef.tracking.origin import data_hash
from albef.tracking.pages import PageError, page_url
from tests.integration.tracking.stores import files, free_port, runs

PARITY = {"tolerance": 1e-4, "max_abs": 2e-5, "graphs": {"vision": {"image_embeds": {"max_abs": 2e-5}}}}
VALIDATED = {
    "success": True,
    "lists": {"vqa_test": {"rows": 7, "bad": 2}, "ve_test": {"rows": 5, "bad": 0}},
    "sources": {},
    "captions": {},
    "expectations": [{"name": "schema", "success": False}, {"name": "not_empty", "success": True}],
}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Small outputs of some stages."""
    root = tmp_path / "artifacts"
    for name, content in {
        "pretrain/metrics.json": {"loss": 2.5},
        "finetune/vqa/metrics.json": {"val_accuracy": 0.25},
        "evaluate/own/metrics.json": {"accuracy": 0.5},
        "export/vqa/parity.json": PARITY,
        "validated/report.json": VALIDATED,
        "validated/lists/vqa_test.json": [],
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    for run in ("pretrain", "finetune/vqa"):
        (root / run / "history.csv").write_text("step,loss\n1,3.0\n2,2.5\n")
    (root / "validated/docs").mkdir()
    (root / "validated/docs/index.html").write_text("<html></html>")
    return root


def test_a_report_is_a_run_with_metrics_images_and_reports(
    artifacts: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_UI", "http://127.0.0.1:5000/")
    with pytest.raises(PageError):
        page_url("report/index.html")
    page.run(artifacts, tmp_path, artifacts / "report", tracking_uri=store, work_dir=tmp_path / "scratch")
    found = runs(store)["report"]
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {
        "pretrain/loss": 2.5,
        "finetune/vqa/val_accuracy": 0.25,
        "evaluate/own/accuracy": 0.5,
        "export/vqa/max_abs": 2e-5,
        "export/vqa/tolerance": 1e-4,
        "validated/success": 1,
        "validated/rows": 12,
        "validated/bad_rows": 2,
        "validated/expectations": 2,
        "validated/failed_expectations": 1,
    }
    assert found.data.tags["stage"] == "report"
    assert found.data.tags["data"] == data_hash([artifacts / "validated/lists/vqa_test.json"])
    assert files(store, "report") == {
        "export/vqa/parity.json",
        "report/index.html",
        "report/losses.svg",
        "report/summary.txt",
        "validated/docs/index.html",
        "validated/report.json",
    }
    table, kind = (
        f"http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs",
        "?workflowType=machine_learning",
    )
    assert page_url() == table + kind
    for name in ("report/index.html", "validated/docs/index.html"):
        assert page_url(name) == f"{table}/{found.info.run_id}/artifacts/{name}{kind}"
    with pytest.raises(PageError):
        page_url("raw/docs/index.html")
    monkeypatch.delenv("MLFLOW_UI")
    with pytest.raises(PageError):
        page_url("report/index.html")


def test_a_report_is_written_without_mlflow_and_recorded_later(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("albef.tracking.tracker._CLOSE_SECONDS", 0.5)
    uri = f"http://127.0.0.1:{free_port()}"
    page.run(artifacts, tmp_path, artifacts / "report", tracking_uri=uri, work_dir=tmp_path / "scratch")
    assert (artifacts / "report/index.html").is_file()
    (path,) = (tmp_path / "scratch/tracking").glob("*.jsonl")
    items, _ = OfflineBuffer(path, {}, -1).items()
    assert [item["kind"] for item in items] == ["metrics", "file", "file", "file", "file", "end"]
    copy = path.parent / items[-2]["path"]
    assert (copy / "index.html").read_bytes() == (artifacts / "report/index.html").read_bytes()

"""Model cards and the data card, in the format of the Hugging Face Hub."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albef.io import write_file
from albef.report import behavior, calibration
from albef.report.source import read_json, read_metrics
from albef.tasks import registry

_SOURCES = {
    "emoji": "The built-in data set of composed scenes.",
    "lists": "Own lists of images and texts.",
    "pairs": "Own images with captions.",
    "stream": "A stream of own images with captions.",
}
_LIMITS = {
    "grounding": "It is trained without boxes. Expressions that refer to a neighbor often mark both objects.",
    "vqa": "It ranks the answers of the training set, or generates short ones; it never declines to answer.",
    "retrieval": "Something is always found, also where nothing fits; use `min_score`.",
}
_TEMPLATES = Path(__file__).parent / "templates"


def write(artifacts: Path, out: Path, origin: Mapping[str, str]) -> None:
    """Write ``model_card_TASK.md`` for each evaluated task, and ``data_card.md``.

    Args:
        artifacts: Folder of the pipeline's outputs.
        origin: Names and values that identify code and data (`albef.tracking.origin`).

    Raises:
        ReportError: If a file is malformed.
    """
    manifest_file = artifacts / "data" / "manifest.json"
    if not manifest_file.is_file():
        return  # evaluations of other data than this pipeline's
    manifest = read_json(manifest_file)
    write_file(out / "data_card.md", data_card(artifacts, manifest))
    for spec in registry.fine_tuned():
        if (metrics := artifacts / "evaluate" / spec.name / "metrics.json").is_file():
            write_file(out / f"model_card_{spec.name}.md", model_card(spec.name, artifacts, manifest, origin, metrics))


def data_card(artifacts: Path, manifest: Mapping[str, Any]) -> str:
    """Return the card of the data."""
    from huggingface_hub import DatasetCard, DatasetCardData

    bad = {}
    if (report := artifacts / "validated" / "report.json").is_file():
        bad = {name: counts["bad"] for name, counts in read_json(report)["lists"].items()}
    lists = [(name, entry["rows"], bad.get(name, 0), entry["sha256"][:12]) for name, entry in manifest["lists"].items()]
    data = DatasetCardData(language="en", tags=["vision-language", "albef"], pretty_name="Data of an ALBEF run")
    return str(
        DatasetCard.from_template(
            data,
            template_path=str(_TEMPLATES / "data_card.md"),
            source=_SOURCES[manifest["source"]],
            lists=lists,
            built_in=manifest["source"] == "emoji",
        )
    )


def model_card(
    task: str, artifacts: Path, manifest: Mapping[str, Any], origin: Mapping[str, str], metrics_file: Path
) -> str:
    """Return the card of a task's model."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    spec, metrics = registry.spec(task), read_metrics(metrics_file)
    pairs = calibration.read(metrics_file.parent / "shown" / "predictions.json", task)
    test = manifest["lists"][str(spec.test_list)]
    evaluated = {
        "task_type": task,
        "dataset_type": "albef",
        "dataset_name": str(spec.test_list),
        "dataset_revision": test["sha256"],
    }
    data = ModelCardData(
        language="en",
        library_name="albef",
        tags=["vision-language", "albef", task],
        model_name=f"albef-{task}",
        eval_results=[
            EvalResult(metric_type=name, metric_value=round(value, 4), **evaluated) for name, value in metrics.items()
        ],
    )
    return str(
        ModelCard.from_template(
            data,
            template_path=str(_TEMPLATES / "model_card.md"),
            title=spec.title,
            origin=origin,
            folder=artifacts / "finetune" / task,
            source=_SOURCES[manifest["source"]],
            rows=test["rows"],
            test_list=spec.test_list,
            test_hash=test["sha256"][:12],
            headline=spec.headline,
            results=[
                (name, f"{value:.4f}", _error(value, test["rows"]) if name == spec.headline else "-")
                for name, value in metrics.items()
            ],
            calibration=None if not len(pairs) else f"{calibration.expected_error(pairs):.4f}",
            behavior=[
                (r["kind"], f"{r['test']}: {r['about']}", r["cases"], f"{r['rate']:.3f}", f"{r['error']:.3f}")
                for r in behavior.results(artifacts, task)
                if r["cases"]
            ],
            limits=[_LIMITS[task]] if task in _LIMITS else [],
        )
    )


def _error(value: float, rows: int) -> str:
    return f"{math.sqrt(value * (1 - value) / rows):.4f}"

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from albef.report import model_cards

METRICS = {"vqa": {"accuracy": 0.75, "chance": 0.25}, "retrieval": {"ir_r1": 0.5, "chance": 0.01}}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    root = tmp_path / "artifacts"
    for task, metrics in METRICS.items():
        (root / "evaluate" / task).mkdir(parents=True)
        (root / "evaluate" / task / "metrics.json").write_text(json.dumps(metrics))
    lists = {
        name: {"rows": 100, "sha256": name.encode().hex().ljust(64, "0")} for name in ("vqa_test", "retrieval_test")
    }
    (root / "data").mkdir()
    (root / "data" / "manifest.json").write_text(json.dumps({"source": "lists", "lists": lists}))
    (root / "validated").mkdir()
    (root / "validated" / "report.json").write_text(json.dumps({"lists": {"vqa_test": {"rows": 100, "bad": 7}}}))
    return root


def test_cards(artifacts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    model_cards.write(artifacts, out, {"git_commit": "0123abcd"})
    assert {path.name for path in out.iterdir()} == {"data_card.md", *(f"model_card_{task}.md" for task in METRICS)}
    for task, metrics in METRICS.items():
        card = ModelCard.load(out / f"model_card_{task}.md")
        assert card.data.eval_results is not None
        found = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert found == metrics
        assert "0123abcd" in card.text
        headline = next(iter(metrics.values()))
        assert f"{math.sqrt(headline * (1 - headline) / 100):.4f}" in card.text
        assert "{{" not in card.text
        assert "\n\n|" not in card.text.replace("\n\n| Metric", "").replace("\n\n| Version", "")  # tables are whole
    data = DatasetCard.load(out / "data_card.md")
    assert "| `vqa_test` | 100 | 7 |" in data.text
    assert "sprites" not in data.text


def test_a_card_has_calibration_and_behavioral_tests(artifacts: Path) -> None:
    manifest = json.loads((artifacts / "data" / "manifest.json").read_text())
    metrics = artifacts / "evaluate" / "vqa" / "metrics.json"

    def card() -> str:
        return model_cards.model_card("vqa", artifacts, manifest, {}, metrics)

    assert "has not been measured" in card()
    assert "## Behavior" not in card()
    (metrics.parent / "shown").mkdir()
    (metrics.parent / "shown/predictions.json").write_text('[{"answer": "a", "probability": 0.75, "accuracy": 1.0}]')
    row = {"task": "vqa", "kind": "INV", "test": "mirror", "about": "same", "cases": 9, "rate": 0.5, "error": 0.25}
    tests = [row, {**row, "test": "order", "cases": 0, "rate": None}, {**row, "test": "other", "task": "nlvr2"}]
    (artifacts / "behavior").mkdir()
    (artifacts / "behavior/tests.json").write_text(json.dumps({"tests": tests}))
    text = card()
    assert "is 0.2500" in text
    assert "has not been measured" not in text
    assert "| INV | mirror: same | 9 | 0.500 | 0.250 |" in text
    assert "order: same" not in text
    assert "other: same" not in text


def test_other_data_have_no_cards(artifacts: Path, tmp_path: Path) -> None:
    (artifacts / "data" / "manifest.json").unlink()
    out = tmp_path / "out"
    out.mkdir()
    model_cards.write(artifacts, out, {})
    assert not list(out.iterdir())

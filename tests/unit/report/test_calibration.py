"""Tests of calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from albef.report import calibration
from albef.report.source import ReportError
from tests.errors import refuses


def pairs(*groups: tuple[float, int, int]) -> calibration.Pairs:
    """Predictions of a probability, their number and how many are right."""
    rows = [(p, float(row < right)) for p, count, right in groups for row in range(count)]
    return np.array(rows).reshape(-1, 2)


def test_a_calibrated_model_has_no_error() -> None:
    assert calibration.expected_error(pairs((0.25, 4, 1), (0.75, 8, 6), (1.0, 2, 2))) == pytest.approx(0)


def test_the_error_is_weighted_by_bins() -> None:
    # (10 * |0.9 - 0.5| + 30 * |0.3 - 0.4|) / 40
    assert calibration.expected_error(pairs((0.9, 10, 5), (0.3, 30, 12))) == pytest.approx(0.175)


def test_bins_have_equal_width_and_one_is_in_the_last() -> None:
    found = calibration.bins(pairs((0.05, 3, 0), (0.95, 2, 1), (1.0, 2, 2)))
    np.testing.assert_allclose(found, [[3, 0.05, 0], [4, 0.975, 0.75]])


def test_rows_without_answers_and_old_evaluations_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    assert calibration.read(path, "vqa").shape == (0, 2)
    rows = [{"answer": "a", "probability": 0.5, "accuracy": right} for right in (None, 0.6)]
    path.write_text(json.dumps(rows))
    assert calibration.read(path, "vqa").tolist() == [[0.5, 0.6]]
    path.write_text('[{"probability": 0.5}]')
    with refuses(ReportError, path):
        calibration.read(path, "vqa")


def test_the_diagram_is_a_chart(tmp_path: Path) -> None:
    calibration.draw(pairs((0.9, 10, 5), (0.3, 30, 12)), tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    assert text.startswith("<svg")
    assert ">accuracy</text>" in text

"""Tests of the summary of all tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef.report import summary
from albef.report.source import ReportError
from albef.report.summary import Result


def evaluation(artifacts: Path, task: str, text: str) -> None:
    (artifacts / "evaluate" / task).mkdir(parents=True)
    (artifacts / "evaluate" / task / "metrics.json").write_text(text)


def test_the_headline_of_each_evaluated_task_beside_chance(tmp_path: Path) -> None:
    evaluation(tmp_path, "vqa", json.dumps({"accuracy": 0.75, "accuracy_color": 0.5, "chance": 0.25}))
    evaluation(tmp_path, "retrieval", json.dumps({"ir_r1": 0.5, "r_mean": 0.9}))
    evaluation(tmp_path, "nlvr2", "{}")  # its test split has no answers
    assert summary.results(tmp_path) == [Result("retrieval", "ir_r1", 0.5, None), Result("vqa", "accuracy", 0.75, 0.25)]


def test_a_malformed_file_is_an_error(tmp_path: Path) -> None:
    evaluation(tmp_path, "vqa", '{"accuracy": "high"}')
    with pytest.raises(ReportError):
        summary.results(tmp_path)


def test_bars_are_as_long_as_the_results_and_chance_is_marked() -> None:
    rows = [
        Result("vqa", "accuracy", 0.75, 0.25),
        Result("nlvr2", "accuracy", 0.25, 0.5),
        Result("entailment", "accuracy", 1.0, None),
        Result("grounding", "accuracy", 1.0, 1.0),
    ]
    header, *lines = summary.as_text(rows).splitlines()
    assert [line.count("█") for line in lines] == [29, 10, 40, 39]
    bars = [line.split(maxsplit=3)[3] for line in lines]
    assert [bar.find("|") for bar in bars] == [10, 20, -1, 39]
    assert len({len(line) for line in (header, *lines)}) == 1
    assert len(header) <= 90

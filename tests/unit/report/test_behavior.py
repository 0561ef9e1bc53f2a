"""Tests of behavioral tests and pseudo-targets in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef.data.lists import Images
from albef.report import behavior
from albef.report.section import Table
from albef.report.source import ReportError
from tests.errors import refuses

ROW = {"task": "vqa", "kind": "INV", "test": "mirror", "about": "same", "failure": 'a.png: "what" -> 1, then 2'}
TESTS: Any = {
    "tests": [
        {**ROW, "cases": 200, "passed": 150, "rate": 0.75, "error": 0.03},
        {**ROW, "task": "nlvr2", "kind": "DIR", "cases": 0, "passed": 0, "rate": None, "error": None, "failure": None},
    ],
    "words": [{"task": "retrieval", "word": f"w{n}", "cases": 20, "passed": n} for n in range(20)],
}
TARGET = {
    "image": "a.png",
    "text": "a [MASK]",
    "word": "dog",
    "words": [["cat", 0.5], ["dog", 0.25]],
    "captions": ["a dog"],
    "texts": [["a dog", 0.75]],
}


def write(artifacts: Path, name: str, content: Any) -> Path:
    path = artifacts / "behavior" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_tables_show_rates_and_words_of_both_ends(tmp_path: Path) -> None:
    write(tmp_path, "tests", TESTS)
    tables = [block for block in behavior.blocks(tmp_path) if isinstance(block, Table)]
    rows = [list(row) for table in tables for row in table.rows]
    assert ["mirror: same", "75 ± 3 (200)"] in rows
    assert ["mirror: same", "-"] in rows
    assert ["mirror", "vqa", 200.0, 75.0, 3.0, ROW["failure"]] in rows
    assert ["mirror", "nlvr2", 0.0, "-", "-", "-"] in rows
    assert [row[0] for row in tables[-1].rows] == [f"w{n}" for n in (*range(5), *range(15, 20))]
    assert [row["task"] for row in behavior.results(tmp_path, "vqa")] == ["vqa"]


def test_without_the_stage_there_is_nothing(tmp_path: Path) -> None:
    assert behavior.blocks(tmp_path) == []
    assert behavior.pseudo_targets(tmp_path, Images(tmp_path), tmp_path) == []


def test_pseudo_targets_mark_the_truth(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")

    def green(name: str) -> int:
        behavior.pseudo_targets(tmp_path, Images(tmp_path), tmp_path)
        with Image.open(tmp_path / name) as image:
            return int(
                (np.abs(np.asarray(image.convert("RGB")).astype(int) - (0x1A, 0x7F, 0x37)).sum(axis=2) < 8).sum()
            )

    write(tmp_path, "pseudo_targets", [TARGET])
    assert min(green("pseudo_words.png"), green("pseudo_texts.png")) > 20
    write(tmp_path, "pseudo_targets", [{**TARGET, "word": "bus", "captions": ["a bus"]}])
    assert green("pseudo_words.png") == green("pseudo_texts.png") == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [("tests", {}), ("tests", {"tests": [{}]}), ("tests", {"tests": TESTS["tests"]}), ("pseudo_targets", [{}])],
)
def test_a_malformed_file_is_named(tmp_path: Path, name: str, content: Any) -> None:
    path = write(tmp_path, name, content)
    with refuses(ReportError, path):
        behavior.blocks(tmp_path)
        behavior.pseudo_targets(tmp_path, Images(tmp_path), tmp_path)

"""Tests of the drift baselines: selected questions and answer confidence."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from albef.drift import check, reference
from albef.serving.sample import image_stats
from tests.integration.drift.test_drift import CONFIG, sampler


def note(folder, sure: float, brightness: int = 128, count: int = 60) -> None:
    to, log = sampler(folder)
    for number in range(count):
        draft = to.draft()
        draft.add_image(image_stats(Image.new("RGB", (40, 30), (brightness + number % 20,) * 3), 123))
        draft.set_image_rows([0])
        to.write(draft, 1, {"probabilities": np.array([[sure + 0.01 * (number % 20)]])})
    assert not log.lines


def failed(verdict) -> set[str]:
    return {each["name"] for each in verdict.result["expectations"] if not each["success"]}


def test_answers_less_sure_than_in_the_baseline_are_drift(tmp_path):
    known = tmp_path / "reference.json"
    note(tmp_path / "before", sure=0.7)
    reference.run(100, known, sample=tmp_path / "before")
    note(tmp_path / "same", sure=0.7)
    assert failed(check.run(CONFIG, tmp_path / "same", known, tmp_path / "out")) == set()
    note(tmp_path / "unsure", sure=0.3)
    verdict = check.run(CONFIG, tmp_path / "unsure", known, tmp_path / "out")
    assert failed(verdict) == {"confidence_mean", "confidence_distribution"}


def test_only_the_newest_questions_count(tmp_path):
    known = tmp_path / "reference.json"
    note(tmp_path / "before", sure=0.7)
    reference.run(100, known, sample=tmp_path / "before")
    note(tmp_path / "sample", sure=0.7, brightness=20)
    note(tmp_path / "sample", sure=0.7)
    for window, drifted in ((60, False), (120, True)):
        config = dataclasses.replace(CONFIG, window=window)
        assert check.run(config, tmp_path / "sample", known, tmp_path / "out").drifted is drifted

"""Calibration of a task's probabilities: reliability diagram and expected calibration error."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef.report.figures import WRONG, chart
from albef.report.section import Block, Section, Table, Text
from albef.report.source import malformed, read_json

_BINS = 10
Pairs = NDArray[np.float64]


def read(path: Path, task: str) -> Pairs:
    """Return probability and accuracy ``(N, 2)`` of the predictions for rows with known answers.

    There are none if the file is missing: earlier evaluations did not write it.

    Raises:
        ReportError: If a field is missing or has the wrong type.
    """
    rows = read_json(path) if path.is_file() else []
    try:
        pairs = [(float(r["probability"]), float(r["accuracy"])) for r in rows if r["accuracy"] is not None]
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(path, task, error) from error
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def bins(pairs: Pairs) -> Pairs:
    """Return number of predictions, mean probability and mean accuracy ``(bins, 3)`` by probability.

    Bins are of equal width; those without predictions are left out.
    """
    index = np.minimum((pairs[:, 0] * _BINS).astype(int), _BINS - 1)
    groups = [pairs[index == number] for number in range(_BINS)]
    return np.array([(len(group), *group.mean(axis=0)) for group in groups if len(group)]).reshape(-1, 3)


def expected_error(pairs: Pairs) -> float:
    """Return the mean distance of probability and accuracy over bins, weighted by their predictions (ECE)."""
    count, probability, accuracy = bins(pairs).T
    return float((count * abs(probability - accuracy)).sum() / count.sum())


def draw(pairs: Pairs, path: Path) -> None:
    """Plot accuracy over probability; the dots' areas are shares of the predictions."""
    count, probability, accuracy = bins(pairs).T
    with chart(path, 4.2, 4.0) as figure:
        axes: Any = figure.subplots()
        axes.plot((0, 1), (0, 1), color=WRONG, linewidth=1, linestyle="--")
        axes.plot(probability, accuracy, linewidth=1)
        axes.scatter(probability, accuracy, s=20 + 400 * count / count.sum())
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="probability of the answer", ylabel="accuracy", aspect="equal")
        axes.grid(alpha=0.3)


def blocks(section: Section) -> list[Block]:
    """Return table and diagram; none for an evaluation without probabilities or known answers."""
    pairs = read(section.shown / "predictions.json", section.task)
    if not len(pairs):
        return []
    probability, accuracy = pairs.mean(axis=0)
    row = [float(100 * value) for value in (probability, accuracy, expected_error(pairs))]
    return [
        Text("Calibration: on the dashed line, answers are right as often as their probability says.", "note"),
        Table(["mean probability %", "accuracy %", "expected calibration error %"], [row]),
        section.chart("calibration", partial(draw, pairs), "Accuracy by probability of the answer"),
    ]

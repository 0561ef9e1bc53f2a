"""Hyper-parameter searches: the settings that were tried, and their metric."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from albef.report.figures import chart
from albef.report.section import Cell
from albef.report.source import read_columns, read_metrics

_BEST, _OTHER = "#d55e00", "#808080"


def searches(artifacts: Path, out: Path) -> dict[str, Any]:
    """Return rows of the hyper-parameter searches, and the names of their charts by task."""
    plots: dict[str, str] = {}
    rows: list[list[Cell]] = []
    for path in sorted(artifacts.glob("tune/*/metrics.json")):
        metrics, task = read_metrics(path), path.parent.name
        name = next((key for key in metrics if f"{key}_before" in metrics), None)
        if name is None:
            continue  # the search was disabled
        rows.append([task, name, metrics[f"{name}_before"], metrics[name], metrics.get("trials", 0.0)])
        columns = read_columns(path.parent / "trials.csv", leave_out=("trial", "epochs", "error"))
        trials = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if trials := [trial for trial in trials if not math.isnan(trial[name])]:
            plots[task] = f"{task}_search.svg"
            _draw(trials, [*(key for key in columns if key != name), name], out / plots[task])
    return {"searches": rows, "plots": plots}


def _draw(trials: list[dict[str, float]], names: list[str], path: Path) -> None:
    """Draw parallel coordinates: one line per trial through its values, clearer for better trials."""
    columns = {name: [trial[name] for trial in trials] for name in names}
    with chart(path, 1.8 * len(names) + 1, 4) as figure:
        axes = figure.subplots()
        for place, trial in reversed(list(enumerate(trials))):
            heights = [_height(columns[name], trial[name]) for name in names]
            if place:
                axes.plot(heights, color=_OTHER, alpha=1 - place / len(trials))
            else:
                axes.plot(heights, color=_BEST, linewidth=2.5)
        for position, column in enumerate(columns.values()):
            axes.axvline(position, color=_OTHER, linewidth=0.8, alpha=0.5)
            axes.text(position, -0.04, f"{min(column):.3g}", ha="center", va="top", fontsize=8)
            axes.text(position, 1.04, f"{max(column):.3g}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks([])
        axes.set_ylim(-0.15, 1.15)


def _height(column: list[float], value: float) -> float:
    """Return the position of a value in its column, 0 to 1.

    The scale is logarithmic if all values are positive.
    """
    if min(column) > 0:
        column, value = [math.log(each) for each in column], math.log(value)
    low, high = min(column), max(column)
    return 0.5 if low == high else (value - low) / (high - low)

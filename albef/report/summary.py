"""Summary of a pipeline run: the headline metric of each task beside chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.report.figures import RIGHT, WRONG, chart
from albef.report.source import read_metrics
from albef.tasks import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 40  # characters of a full bar


@dataclass(frozen=True)
class Result:
    """Result of a task on its test split, as fractions.

    Args:
        metric: Headline metric of the task.
        chance: Its value without looking at the images; None if the evaluation does not tell.
    """

    task: str
    metric: str
    value: float
    chance: float | None


def results(artifacts: Path) -> list[Result]:
    """Return the results of all evaluated tasks.

    Raises:
        ReportError: If a file of metrics is malformed.
    """
    found = []
    for spec in registry.fine_tuned():
        path = artifacts / "evaluate" / spec.name / "metrics.json"
        metrics = read_metrics(path) if path.is_file() else {}
        if spec.headline in metrics:  # absent if the split has no answers
            found.append(Result(spec.name, spec.headline, metrics[spec.headline], metrics.get("chance")))
    return found


def as_text(shown: Sequence[Result]) -> str:
    """Return a table with bars, at most 90 characters wide."""
    lines = [f"{'task':<12} {'metric':<10} result {'':{_WIDTH}} chance"]
    for each in shown:
        bar = "█" * round(each.value * _WIDTH)
        if each.chance is not None:
            mark = min(round(each.chance * _WIDTH), _WIDTH - 1)
            bar = f"{bar:{_WIDTH}}"[:mark] + "|" + f"{bar:{_WIDTH}}"[mark + 1 :]
        chance = "-" if each.chance is None else f"{each.chance:.3f}"
        lines.append(f"{each.task:<12} {each.metric:<10} {each.value:.3f}  {bar:{_WIDTH}} {chance:>6}")
    return "\n".join(lines) + "\n"


def draw(shown: Sequence[Result], path: Path) -> None:
    """Draw a bar per task, with a line at chance."""
    with chart(path, 8, 0.8 + 0.5 * len(shown)) as figure:
        axes: Any = figure.subplots()
        bars = axes.barh([each.task for each in shown], [each.value for each in shown], color=RIGHT, height=0.6)
        axes.bar_label(bars, fmt="%.3f", padding=4)
        for row, each in enumerate(shown):
            if each.chance is not None:
                axes.vlines(each.chance, row - 0.42, row + 0.42, color=WRONG, linewidth=3)
        axes.set(xlim=(0, 1.08), xlabel="test split; gray lines: chance")
        axes.invert_yaxis()

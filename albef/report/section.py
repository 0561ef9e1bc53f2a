"""Section of the page for one evaluated task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from albef.report import html
from albef.report.source import read_metrics


@dataclass(frozen=True)
class Section:
    """Inputs and outputs of a section.

    Args:
        source: Folder of the task's evaluation.
        images: Folder that image paths start from.
        out: Folder of the page.
    """

    task: str
    source: Path
    images: Path
    out: Path

    @property
    def shown(self) -> Path:
        """Folder of the examples."""
        return self.source / "shown"

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the evaluation."""
        return read_metrics(self.source / "metrics.json")

    def figure(self, kind: str, draw: Callable[[Path], None], text: str) -> str:
        """Draw a figure next to the page and return its HTML."""
        name = f"{self.task}_{kind}.png"
        draw(self.out / name)
        return html.image(name, text)


def percent(value: float | None) -> html.Cell:
    """Return a fraction as a table cell in percent; "-" for None."""
    return "-" if value is None else 100 * value


def accuracies(metrics: dict[str, float], chance: str) -> str:
    """Return a table of all accuracies and the accuracy of chance.

    Args:
        chance: Description of the chance prediction.
    """
    rows: list[list[html.Cell]] = []
    if "accuracy" in metrics:
        rows.append(["all", percent(metrics["accuracy"])])
    parts = sorted(name for name in metrics if name.startswith("accuracy_"))
    rows += [[name.removeprefix("accuracy_").replace("_", " "), percent(metrics[name])] for name in parts]
    if "chance" in metrics:
        rows.append([f"for comparison: {chance}", percent(metrics["chance"])])
    return html.table(["of the test split", "accuracy %"], rows) if rows else html.note("No answers to compare with.")

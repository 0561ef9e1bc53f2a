"""Section of the page for one evaluated task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from albef.data.lists import Images
from albef.report.source import read_metrics

Cell = str | float


@dataclass(frozen=True)
class Text:
    """Paragraph, remark in small gray text, or heading."""

    text: str
    kind: Literal["paragraph", "note", "heading"] = "paragraph"


@dataclass(frozen=True)
class Image:
    """Image file next to the page, with alternative text."""

    name: str
    text: str


@dataclass(frozen=True)
class Table:
    """Table; numbers are shown with at most four decimals.

    Args:
        summary: Title of a table that is folded at first.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    summary: str = ""


Block = Text | Image | Table
"""Element of a section."""


@dataclass(frozen=True)
class Section:
    """Inputs and outputs of a section."""

    task: str
    source: Path
    images: Images
    out: Path

    @property
    def shown(self) -> Path:
        """Folder of the examples."""
        return self.source / "shown"

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the evaluation."""
        return read_metrics(self.source / "metrics.json")

    def figure(self, kind: str, draw: Callable[[Path], None], text: str, suffix: str = "png") -> Image:
        """Draw a figure next to the page."""
        name = f"{self.task}_{kind}.{suffix}"
        draw(self.out / name)
        return Image(name, text)

    def chart(self, kind: str, draw: Callable[[Path], None], text: str) -> Image:
        """Draw a figure in SVG next to the page."""
        return self.figure(kind, draw, text, "svg")


def percent(value: float | None) -> Cell:
    """Return a fraction as a table cell in percent; "-" for None."""
    return "-" if value is None else 100 * value


def accuracies(metrics: dict[str, float], chance: str) -> Block:
    """Return a table of all accuracies and the accuracy of chance.

    Args:
        chance: Description of the chance prediction.
    """
    rows: list[list[Cell]] = []
    if "accuracy" in metrics:
        rows.append(["all", percent(metrics["accuracy"])])
    parts = sorted(name for name in metrics if name.startswith("accuracy_"))
    rows += [[name.removeprefix("accuracy_").replace("_", " "), percent(metrics[name])] for name in parts]
    if "chance" in metrics:
        rows.append([f"for comparison: {chance}", percent(metrics["chance"])])
    return Table(["of the test split", "accuracy %"], rows) if rows else Text("No answers to compare with.", "note")

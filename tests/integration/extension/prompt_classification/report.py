"""Report section: accuracy and examples."""

from __future__ import annotations

from albef.report import html
from albef.report.section import Section, accuracies
from albef.report.source import read_json


def section(section: Section) -> list[str]:
    """Return the HTML parts of the section."""
    shown = read_json(section.shown / "examples.json")["examples"]
    rows = [[row["image"], row["label"], row["predicted"]] for row in shown]
    return [accuracies(section.metrics(), "a random class"), html.table(["image", "label", "predicted"], rows)]

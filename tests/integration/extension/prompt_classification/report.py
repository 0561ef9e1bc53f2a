"""Report section: accuracy and examples."""

from __future__ import annotations

from albef.report.section import Block, Section, Table, accuracies
from albef.report.source import read_json


def section(section: Section) -> list[Block]:
    """Return the elements of the section."""
    shown = read_json(section.shown / "examples.json")["examples"]
    rows = [[row["image"], row["label"], row["predicted"]] for row in shown]
    return [accuracies(section.metrics(), "a random class"), Table(["image", "label", "predicted"], rows)]

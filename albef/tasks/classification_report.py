"""Report section of visual entailment and NLVR2: accuracies, confusion matrix, examples."""

from __future__ import annotations

import csv
from pathlib import Path

from albef.report import calibration, cards
from albef.report.cards import Card
from albef.report.section import Block, Section, Table, Text, accuracies
from albef.report.source import ReportError, malformed, read_json


def read_examples(path: Path) -> list[Card]:
    """Read example sentences of visual entailment or NLVR2.

    Raises:
        ReportError: If a field is missing or has the wrong type.
    """
    data = read_json(path)
    try:
        classes = [str(name) for name in data["classes"]]
        cards = []
        for row in data["examples"]:
            ranked = sorted(zip(map(float, row["probabilities"]), classes, strict=True), key=lambda pair: -pair[0])
            answers = [(c, p, c == row["label"]) for p, c in ranked]
            cards.append(Card([str(i) for i in row["images"]], str(row["sentence"]), answers, str(row["label"])))
        return cards
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise malformed(path, "a classification", error) from error


def section(section: Section) -> list[Block]:
    """Return the elements of the section."""
    examples = read_examples(section.shown / "examples.json")
    parts = [accuracies(section.metrics(), "always the most frequent class")]
    table = section.source / "plots" / "confusion.csv"
    if table.is_file():
        parts.append(_confusion(table))
    return [
        *parts,
        *calibration.blocks(section),
        Text("Classes with their probabilities; the correct one is green.", "note"),
        section.figure(
            "examples", lambda path: cards.draw(examples, section.images, path), "Sentences with the predicted classes"
        ),
    ]


def _confusion(path: Path) -> Table:
    """Return the confusion matrix."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ReportError(f"{path}: expected columns 'actual' and 'predicted': {error!r}") from error
    classes = sorted({name for pair in pairs for name in pair})
    rows = [[actual, *(float(pairs.count((actual, other))) for other in classes)] for actual in classes]
    return Table(["actual / predicted", *classes], rows)

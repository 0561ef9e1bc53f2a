"""Report section of VQA: accuracies, and example questions with answers."""

from __future__ import annotations

from pathlib import Path

from albef.report import calibration, cards
from albef.report.cards import Card
from albef.report.section import Block, Section, Text, accuracies
from albef.report.source import malformed, read_json

RIGHT = 0.9
"""Minimum VQA accuracy of a correct answer, reached if three of ten annotators gave it."""


def read_questions(path: Path) -> list[Card]:
    """Read example questions of VQA.

    Raises:
        ReportError: If a field is missing or has the wrong type.
    """
    data = read_json(path)
    try:
        return [
            Card(
                [str(row["image"])],
                str(row["question"]),
                [(str(a["answer"]), float(a["probability"]), (a["accuracy"] or 0.0) >= RIGHT) for a in row["answers"]],
                ", ".join(f"{answer} ({count})" for answer, count in row["people"].items()),
            )
            for row in data["examples"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise malformed(path, "VQA", error) from error


def section(section: Section) -> list[Block]:
    """Return the elements of the section."""
    examples = read_questions(section.shown / "examples.json")
    return [
        Text("VQA accuracy: agreement with ten annotators; an answer of at least three of them is correct."),
        accuracies(section.metrics(), "the best single answer to all questions"),
        *calibration.blocks(section),
        Text("The best answers with their probabilities; answers of at least three annotators are green.", "note"),
        section.figure(
            "examples", lambda path: cards.draw(examples, section.images, path), "Questions with the model's answers"
        ),
    ]

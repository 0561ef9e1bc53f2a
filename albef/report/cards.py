"""Examples of tasks with an answer, as the evaluation wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from albef.report.source import ReportError, read_json

RIGHT = 0.9
"""VQA accuracy of what three of ten people said."""


@dataclass(frozen=True)
class Card:
    """Pictures with a question or statement, and what the model says of it, best first.

    Args:
        answers: Text, probability, and whether people are known to say so too.
        expected: What people say.
    """

    images: list[str]
    text: str
    answers: list[tuple[str, float, bool]]
    expected: str


@dataclass(frozen=True)
class Reference:
    """An expression with the heat map over its picture; boxes are x, y, width, height in the picture's pixels."""

    image: str
    text: str
    box: list[float]
    chosen: list[float]
    iou: float
    heat: list[list[float]]
    words: str


def _wrong(path: Path, task: str, error: Exception) -> ReportError:
    return ReportError(f"{path}: not the examples of {task}: {error!r}")


def read_questions(path: Path) -> list[Card]:
    """Examples of VQA.

    Raises:
        ReportError: If a field is missing or of another kind.
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
        raise _wrong(path, "VQA", error) from error


def read_statements(path: Path) -> list[Card]:
    """Examples of visual entailment or NLVR2.

    Raises:
        ReportError: If a field is missing or of another kind.
    """
    data = read_json(path)
    try:
        classes = [str(name) for name in data["classes"]]
        cards = []
        for row in data["examples"]:
            rated = sorted(zip(map(float, row["probabilities"]), classes, strict=True), key=lambda pair: -pair[0])
            answers = [(c, p, c == row["label"]) for p, c in rated]
            cards.append(Card([str(i) for i in row["images"]], str(row["sentence"]), answers, str(row["label"])))
        return cards
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong(path, "a classification", error) from error


def read_references(path: Path) -> tuple[str, list[Reference]]:
    """Mode and examples of grounding.

    Raises:
        ReportError: If a field is missing or of another kind.
    """
    data = read_json(path)
    try:
        return str(data["mode"]), [
            Reference(
                str(row["image"]),
                str(row["text"]),
                [float(v) for v in row["box"]],
                [float(v) for v in row["chosen"]],
                float(row["iou"]),
                [[float(v) for v in line] for line in row["map"]],
                str(row["words"]),
            )
            for row in data["examples"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong(path, "grounding", error) from error

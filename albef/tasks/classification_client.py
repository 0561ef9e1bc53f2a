"""Labels with probabilities as answers of endpoints."""

from __future__ import annotations

from albef.serving import protocol
from albef.serving.requests import Array
from albef.serving.tables import ranked

Labels = dict[str, float]
"""Probabilities by label."""


def read(outputs: dict[str, Array]) -> list[Labels]:
    """Return the answer in each row of the outputs, with the labels in their order."""
    return [
        {label.decode(): float(p) for label, p in zip(row, probabilities, strict=True)}
        for row, probabilities in zip(outputs[protocol.LABELS], outputs[protocol.PROBABILITIES], strict=True)
    ]


def best_first(answer: Labels) -> Labels:
    """Return an answer in descending order of probability."""
    return dict(sorted(answer.items(), key=lambda item: -item[1]))


def format_answer(answer: Labels) -> str:
    """Format an answer as a table of rank, probability and label."""
    return ranked(((p, label) for label, p in best_first(answer).items()), "probability")


def most_probable(answer: Labels) -> str:
    """Return the most probable label."""
    return max(answer, key=lambda label: answer[label])


def accepted(answer: Labels) -> list[str]:
    """Return the label of an answer; a probe expects it."""
    return [most_probable(answer)]

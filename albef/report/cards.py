"""Cards: images with a question or statement and the model's answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.report.figures import RIGHT, hide, new_figure, save, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from albef.data.lists import Images

_LINES = 5


@dataclass(frozen=True)
class Card:
    """Images with a question or statement, and the model's answers, best first.

    Args:
        answers: Text, probability and whether the answer is right.
        expected: Answers of the annotators, or what was given.
    """

    images: list[str]
    text: str
    answers: list[tuple[str, float, bool]]
    expected: str


def draw(shown: Sequence[Card], images: Images, path: Path, columns: int = 2) -> None:
    """Draw cards, with right answers in green; a single column leaves room for long answers."""
    per_card = max((len(card.images) for card in shown), default=1)
    rows = max(1, -(-len(shown) // columns))
    room = 2 / columns  # in columns of two
    figure = new_figure(columns * (1.7 * per_card + 3.3 * room), 1.9 * rows)
    widths = [*[1.0] * per_card, 2.0 * room] * columns
    panels: Any = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for axes in panels.flat:
        hide(axes)
    for index, card in enumerate(shown):
        row, column = divmod(index, columns)
        cells = panels[row][column * (per_card + 1) : (column + 1) * (per_card + 1)]
        for axes, image in zip(cells, card.images, strict=False):
            axes.set_axis_on()
            show_image(axes, images.find(image))
        _draw_answers(cells[-1], card, round(34 * room))
    save(figure, path)


def _draw_answers(axes: Axes, card: Card, letters: int) -> None:
    lines = textwrap.wrap(card.text, letters)[:3]
    axes.text(0, 1, "\n".join(lines), fontsize=10, fontweight="bold", va="top", transform=axes.transAxes)
    top = 0.92 - 0.13 * len(lines)
    rows = [f"{p:4.2f}  {textwrap.shorten(answer, letters - 2)}" for answer, p, _ in card.answers[:_LINES]]
    for number, (row, (_, _, right)) in enumerate(zip(rows, card.answers, strict=False)):
        color = RIGHT if right else "black"
        weight = "bold" if right else "normal"
        axes.text(
            0, top - 0.13 * number, row, fontsize=9, color=color, fontweight=weight, va="top", transform=axes.transAxes
        )
    if card.expected and not any(right for _, _, right in card.answers[:_LINES]):
        line = textwrap.shorten(f"expected: {card.expected}", letters + 6)
        axes.text(0, top - 0.13 * len(rows), line, fontsize=8, color="gray", va="top", transform=axes.transAxes)

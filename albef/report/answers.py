"""Pictures of answers: questions and statements with probabilities, expressions with heat maps and boxes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.report.cards import Card, Reference
from albef.report.figures import RIGHT, figure_of, hide, save, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOSEN = "#d1242f"
_LINES = 5
_COLUMNS = 2


def cards(shown: Sequence[Card], images: Path, path: Path) -> None:
    """Two cards a row: pictures, then the text with the answers; what is right is green."""
    pictures = max((len(card.images) for card in shown), default=1)
    rows = max(1, -(-len(shown) // _COLUMNS))
    figure = figure_of(_COLUMNS * (1.7 * pictures + 3.3), 1.9 * rows)
    widths = [*[1.0] * pictures, 2.0] * _COLUMNS
    panels: Any = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for axes in panels.flat:
        hide(axes)
    for index, card in enumerate(shown):
        row, column = divmod(index, _COLUMNS)
        own = panels[row][column * (pictures + 1) : (column + 1) * (pictures + 1)]
        for axes, image in zip(own, card.images, strict=False):
            axes.set_axis_on()
            show(axes, images / image)
        _answers(own[-1], card)
    save(figure, path)


def _answers(axes: Axes, card: Card) -> None:
    lines = textwrap.wrap(card.text, 34)[:3]
    axes.text(0, 1, "\n".join(lines), fontsize=10, fontweight="bold", va="top", transform=axes.transAxes)
    top = 0.92 - 0.13 * len(lines)
    told = [f"{p:4.2f}  {textwrap.shorten(answer, 32)}" for answer, p, _ in card.answers[:_LINES]]
    for place, (line, (_, _, right)) in enumerate(zip(told, card.answers, strict=False)):
        colour = RIGHT if right else "black"
        weight = "bold" if right else "normal"
        axes.text(
            0, top - 0.13 * place, line, fontsize=9, color=colour, fontweight=weight, va="top", transform=axes.transAxes
        )
    if card.expected and not any(right for _, _, right in card.answers[:_LINES]):
        line = textwrap.shorten(f"people: {card.expected}", 40)
        axes.text(0, top - 0.13 * len(told), line, fontsize=8, color="gray", va="top", transform=axes.transAxes)


def references(shown: Sequence[Reference], images: Path, path: Path, columns: int = 4) -> None:
    """Heat maps over pictures; the true box is green, the chosen one red."""
    from matplotlib.patches import Rectangle

    rows = max(1, -(-len(shown) // columns))
    figure = figure_of(2.6 * columns, 3.0 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        hide(axes)
    for axes, reference in zip(panels.flat, shown, strict=False):
        axes.set_axis_on()
        width, height = show(axes, images / reference.image)
        place = (0, width, height, 0)
        axes.imshow(reference.heat, cmap="jet", alpha=0.45, extent=place, interpolation="bicubic", vmin=0)
        for box, colour, style in ((reference.chosen, CHOSEN, "--"), (reference.box, RIGHT, "-")):
            x, y, w, h = box
            axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linestyle=style, linewidth=2))
        axes.set(xlim=(0, width), ylim=(height, 0))
        words = "\n".join(textwrap.wrap(reference.text, 30)[:3])
        axes.set_xlabel(f"{words}\nIoU {reference.iou:.2f}", fontsize=8)
    save(figure, path)

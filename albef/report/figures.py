"""Pictures of the report, drawn with matplotlib's object interface: no display and no global state."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.report.source import ImageQuery, ReportError, TextQuery

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#1a7f37", "#8c959f"
_SHOWN = 5
_RUNS = 3  # panels of curves in a row
_PIXELS = 256  # a shown picture is at most this large


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same for the same figure."""
    figure.savefig(path, metadata={"Software": None})


def show(axes: Axes, path: Path, colour: str | None = None) -> tuple[int, int]:
    """Draw a picture, framed if a colour is given; the axes count its own pixels.

    Returns:
        Its width and height.

    Raises:
        ReportError: If it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise ReportError(f"{path}: cannot be shown: {error}") from error
    width, height = picture.size
    picture.thumbnail((_PIXELS, _PIXELS))
    axes.imshow(picture, extent=(0, width, height, 0))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=colour is not None, color=colour, linewidth=4)
    return width, height


def hide(axes: Axes) -> None:
    """Show no frame, ticks or labels."""
    axes.set_axis_off()


def curves(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Losses over steps, one panel per run.

    Args:
        histories: Columns by name, by name of the run.
    """
    columns = min(len(histories), _RUNS)
    rows = -(-len(histories) // columns)
    figure = figure_of(max(6.0, 4.5 * columns), 3.4 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(histories) :]:
        hide(axes)
    for axes, (name, history) in zip(panels.flat, histories.items(), strict=False):
        terms = [column for column in history if column.endswith("_loss")]
        for column in terms if len(terms) == 1 else [c for c in history if c in terms or c == "loss"]:
            axes.plot(history["step"], history[column], label=column, linewidth=1.5)
        axes.set(title=name, xlabel="step", ylabel="loss", ylim=(0, None))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    save(figure, path)


def recalls(metrics: dict[str, float], path: Path) -> None:
    """Recall at 1, 5, 10 both ways, of the shortlist (ITC) and after re-ranking (ITM)."""
    figure = figure_of(8, 3.2)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, (title, direction) in zip(panels, (("text to image", "ir"), ("image to text", "tr")), strict=True):
        for offset, (label, prefix) in zip((-0.2, 0.2), (("ITC", "itc_"), ("re-ranked by ITM", "")), strict=True):
            values = [100 * metrics.get(f"{prefix}{direction}_r{k}", 0.0) for k in (1, 5, 10)]
            bars = axes.bar([i + offset for i in range(3)], values, width=0.38, label=label)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.set(title=title, ylim=(0, 112), xticks=range(3), xticklabels=["R@1", "R@5", "R@10"])
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("%")
    panels[1].legend(loc="lower right")
    save(figure, path)


def scenes(shown: Sequence[tuple[str, str]], images: Path, path: Path, columns: int = 6) -> None:
    """Images with a caption each, in a grid.

    Args:
        shown: Image path and caption.
    """
    rows = -(-len(shown) // columns)
    figure = figure_of(2.2 * columns, 2.7 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        hide(axes)
    for axes, (image, caption) in zip(panels.flat, shown, strict=False):
        axes.set_axis_on()
        show(axes, images / image)
        axes.set_xlabel("\n".join(textwrap.wrap(caption, 26)[:4]), fontsize=8)
    save(figure, path)


def text_to_image(queries: Sequence[TextQuery], images: Path, path: Path) -> None:
    """One row per caption: the best images, the right one framed."""
    figure = figure_of(3.2 + 1.7 * _SHOWN, 1.9 * len(queries))
    panels: Any = figure.subplots(len(queries), 1 + _SHOWN, squeeze=False, width_ratios=[1.9, *[1] * _SHOWN])
    for row, query in zip(panels, queries, strict=True):
        for axes in row:
            hide(axes)
        words = "\n".join(textwrap.wrap(query.text, 30)[:6])
        row[0].text(0, 0.5, words, fontsize=11, va="center", transform=row[0].transAxes)
        for axes, (image, score) in zip(row[1:], query.ranked, strict=False):
            axes.set_axis_on()
            show(axes, images / image, RIGHT if image == query.target else WRONG)
            axes.set_title(f"{score:.2f}", fontsize=8)
    save(figure, path)


def image_to_text(queries: Sequence[ImageQuery], images: Path, path: Path) -> None:
    """One row per image: the best captions, the right ones in bold green."""
    figure = figure_of(11, 1.9 * len(queries))
    panels: Any = figure.subplots(len(queries), 2, squeeze=False, width_ratios=[1, 4.5])
    for (left, right), query in zip(panels, queries, strict=True):
        show(left, images / query.image)
        hide(right)
        for place, (caption, score) in enumerate(query.ranked[:_SHOWN]):
            hit = caption in query.targets
            right.text(
                0,
                0.9 - 0.2 * place,
                f"{score:6.2f}  {textwrap.shorten(caption, 110)}",
                fontsize=10,
                color=RIGHT if hit else "black",
                fontweight="bold" if hit else "normal",
                va="center",
                transform=right.transAxes,
            )
    save(figure, path)

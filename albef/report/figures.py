"""Figures of the report, drawn with matplotlib's object interface."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.report.source import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from albef.data.images import StoredImage
    from albef.data.lists import Images

RIGHT, WRONG = "#1a7f37", "#8c959f"
_SHOWN = 5  # results per query
_COLUMNS = 3  # panels of curves per row
_PIXELS = 256  # maximum side of an image in a figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a reproducible PNG, without version metadata."""
    figure.savefig(path, metadata={"Software": None})


def show_image(axes: Axes, image: StoredImage, color: str | None = None) -> tuple[int, int]:
    """Draw an image, with a frame if a color is given.

    The axes are in pixels of the original image.

    Returns:
        Width and height of the original image.

    Raises:
        ReportError: If the image cannot be read.
    """
    from albef.data.images import ImageError, load_image

    try:
        pixels = load_image(image)
    except ImageError as error:
        raise ReportError(str(error)) from error
    width, height = pixels.size
    pixels.thumbnail((_PIXELS, _PIXELS))
    axes.imshow(pixels, extent=(0, width, height, 0))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=color is not None, color=color, linewidth=4)
    return width, height


def hide(axes: Axes) -> None:
    """Hide frame, ticks and labels."""
    axes.set_axis_off()


def curves(histories: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Plot losses over steps, one panel per run.

    Args:
        histories: Columns of each run's history, by run name.
    """
    columns = min(len(histories), _COLUMNS)
    rows = -(-len(histories) // columns)
    figure = new_figure(max(6.0, 4.5 * columns), 3.4 * rows)
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


def scenes(shown: Sequence[tuple[str, str]], images: Images, path: Path, columns: int = 6) -> None:
    """Draw images with captions in a grid.

    Args:
        shown: Image paths and captions.
    """
    rows = -(-len(shown) // columns)
    figure = new_figure(2.2 * columns, 2.7 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        hide(axes)
    for axes, (image, caption) in zip(panels.flat, shown, strict=False):
        axes.set_axis_on()
        show_image(axes, images.find(image))
        axes.set_xlabel("\n".join(textwrap.wrap(caption, 26)[:4]), fontsize=8)
    save(figure, path)

"""Figures of the report: charts as SVG and galleries of images as PNG, drawn with matplotlib."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_INK = "#010203"  # becomes the color of the text around a chart, in light and dark mode
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of series, by Okabe and Ito: told apart by color-blind readers, and visible on white and on black."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a reproducible PNG, without version metadata."""
    figure.savefig(path, metadata={"Software": None})


@contextmanager
def chart(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield a figure, and write it as a reproducible SVG without background.

    Text stays text. Texts and axes have the color of the surrounding text.
    """
    from cycler import cycler
    from matplotlib import rc_context

    inked = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    style = {
        **inked,
        "axes.prop_cycle": cycler(color=_COLORS),
        "grid.color": "#808080",
        "legend.framealpha": 0,
        "svg.fonttype": "none",
        "svg.hashsalt": path.name,
    }
    with rc_context(style):
        figure = new_figure(width, height)
        yield figure
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Names of groups repeat in every chart, and a page must not.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(_INK, "currentColor")
    path.write_text(svg, encoding="utf-8")


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


def curves(histories: dict[str, dict[str, list[float]]], path: Path, validated: str | None = None) -> None:
    """Plot losses over steps, one panel per run.

    Args:
        histories: Columns of each run's history, by run name.
        validated: Column of a validation metric to plot in panels of their own.
    """
    panels = [(name, history, _losses(history), "loss") for name, history in histories.items()]
    if validated is not None:
        panels += [("validation", h, [validated], validated.removeprefix("val_")) for h in histories.values()]
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    with chart(path, max(6.0, 4.0 * columns), 3.0 * rows) as figure:
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            hide(axes)
        for axes, (name, history, shown, label) in zip(grid.flat, panels, strict=False):
            for column in shown:
                points = [(x, y) for x, y in zip(history["step"], history[column], strict=True) if y == y]  # not NaN
                marker = "o" if column == validated else None
                axes.plot(*zip(*points, strict=True), label=column, linewidth=1.5, marker=marker)
            axes.set(title=name, xlabel="step", ylabel=label, xlim=(0, None), ylim=(0, None))
            axes.grid(alpha=0.3)
            if shown != [validated] and axes.lines:
                axes.legend()


def _losses(history: dict[str, list[float]]) -> list[str]:
    """Return the columns of the loss, and of its terms if there are several."""
    terms = [column for column in history if column.endswith("_loss")]
    return terms if len(terms) == 1 else [column for column in history if column in terms or column == "loss"]


def scenes(shown: Sequence[tuple[str, str]], images: Images, path: Path, columns: int = 6) -> None:
    """Draw images with captions in a grid."""
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

"""Report section of grounding: accuracies and heat maps with boxes."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albef.data.images import load_image
from albef.data.lists import Images
from albef.inference.boxes import upsample
from albef.report.figures import RIGHT, hide, new_figure, save, show_image
from albef.report.section import Block, Cell, Image, Section, Table, Text, percent
from albef.report.source import ReportError, malformed, read_json
from albef.tasks.grounding.overlay import CHOSEN, overlay, resized

_SIDE = 256  # longer side of an image in pixels


@dataclass(frozen=True)
class Reference:
    """Referring expression with its heat map.

    Args:
        box, chosen: True and predicted box as x, y, width, height in pixels of the image.
        words: File with the heat maps of the single words.
    """

    image: str
    text: str
    box: list[float]
    chosen: list[float]
    iou: float
    heat: list[list[float]]
    words: str


def read_references(path: Path) -> tuple[str, list[Reference]]:
    """Read the mode and the examples of grounding.

    Raises:
        ReportError: If a field is missing or has the wrong type.
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
        raise malformed(path, "grounding", error) from error


def draw_references(references: Sequence[Reference], images: Images, path: Path, columns: int = 4) -> None:
    """Draw heat maps over images; true boxes are green, chosen boxes red."""
    from matplotlib.patches import Rectangle

    rows = max(1, -(-len(references) // columns))
    figure = new_figure(2.6 * columns, 3.0 * rows)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        hide(axes)
    for axes, reference in zip(panels.flat, references, strict=False):
        axes.set_axis_on()
        width, height = show_image(axes, images.find(reference.image))
        shown = resized(load_image(images.find(reference.image)), _SIDE)
        heat = upsample(np.array(reference.heat), *shown.size)
        axes.imshow(overlay(shown, heat), extent=(0, width, height, 0))
        for box, color, style in ((reference.chosen, CHOSEN, "--"), (reference.box, RIGHT, "-")):
            x, y, w, h = box
            axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linestyle=style, linewidth=2))
        axes.set(xlim=(0, width), ylim=(height, 0))
        text = "\n".join(textwrap.wrap(reference.text, 30)[:3])
        axes.set_xlabel(f"{text}\nIoU {reference.iou:.2f}", fontsize=8)
    save(figure, path)


def section(section: Section) -> list[Block]:
    """Return the elements of the section."""
    metrics = section.metrics()
    mode, references = read_references(section.shown / "examples.json")
    rows: list[list[Cell]] = []
    for name in ("itm", "itc"):
        prefix = "" if name == mode else f"{name}_"
        label = {"itm": "match (ITM), fusion encoder", "itc": "similarity (ITC), image encoder"}[name]
        rows.append([label, *(percent(metrics.get(f"{prefix}{kind}")) for kind in ("accuracy", "pointing"))])
        parts = sorted(key for key in metrics if key.startswith(f"{prefix}accuracy_"))
        rows += [[f"{label}: {key.removeprefix(f'{prefix}accuracy_')}", percent(metrics[key]), "-"] for key in parts]
    rows.append(["for comparison: a random proposal", percent(metrics.get("chance")), "-"])
    result: list[Block] = [
        Text(
            "Training uses no boxes. Grad-CAM yields a heat map, and the proposal with the most heat for its size is "
            "chosen. Accuracy: its IoU with the true box is at least 0.5. Pointing: the hottest pixel is within the "
            "true box."
        ),
        Table(["heat map of", "accuracy %", "pointing %"], rows),
        Text(
            "Heat maps of whole expressions, with a white line at half of the most heat; the true box is green, the "
            "chosen one red and dashed.",
            "note",
        ),
        section.figure(
            "examples", lambda path: draw_references(references, section.images, path), "Heat maps over images"
        ),
        Text("Heat maps of the single words, with the same boxes.", "note"),
    ]
    for number, reference in enumerate(references):
        source, name = section.shown / reference.words, f"grounding_words_{number}.png"
        if not source.is_file():
            raise ReportError(f"{source}: missing; run the stage that writes it")
        shutil.copyfile(source, section.out / name)
        result.append(Image(name, f"Heat maps of the words of: {reference.text}"))
    return result

"""Report section of retrieval: recalls, and example queries with ranked answers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef.data.lists import Images
from albef.report.figures import RIGHT, WRONG, chart, hide, new_figure, save, show_image
from albef.report.section import Block, Cell, Image, Section, Table, Text, percent
from albef.report.source import ReportError, read_json

_RANKS = 5  # answers per query


@dataclass(frozen=True)
class TextQuery:
    """Caption with images ranked by score, best first."""

    text: str
    target: str
    ranked: list[tuple[str, float]]


@dataclass(frozen=True)
class ImageQuery:
    """Image with captions ranked by score, best first."""

    image: str
    targets: list[str]
    ranked: list[tuple[str, float]]


@dataclass(frozen=True)
class Examples:
    """Example queries in both directions."""

    text_to_image: list[TextQuery]
    image_to_text: list[ImageQuery]


def read_examples(path: Path) -> Examples:
    """Read the example queries of a retrieval evaluation.

    Raises:
        ReportError: If a field is missing or has the wrong type.
    """
    data = read_json(path)
    try:
        text_queries = [
            TextQuery(str(q["query"]), str(q["target"]), [(str(r["image"]), float(r["score"])) for r in q["ranked"]])
            for q in data["text_to_image"]
        ]
        image_queries = [
            ImageQuery(
                str(q["query"]), list(q["target"]), [(str(r["caption"]), float(r["score"])) for r in q["ranked"]]
            )
            for q in data["image_to_text"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path}: not the examples of a retrieval evaluation: {error!r}") from error
    return Examples(text_queries, image_queries)


def draw_recalls(metrics: dict[str, float], path: Path) -> None:
    """Plot recalls of both directions, before and after re-ranking."""
    with chart(path, 8, 3.2) as figure:
        panels: Any = figure.subplots(1, 2, sharey=True)
        for axes, (title, direction) in zip(panels, (("text to image", "ir"), ("image to text", "tr")), strict=True):
            for offset, (label, prefix) in zip((-0.2, 0.2), (("ITC", "itc_"), ("re-ranked by ITM", "")), strict=True):
                values = [100 * metrics.get(f"{prefix}{direction}_r{k}", 0.0) for k in (1, 5, 10)]
                bars = axes.bar([i + offset for i in range(3)], values, width=0.38, label=label)
                axes.bar_label(bars, fmt="%.0f", fontsize=8)
            axes.set(title=title, ylim=(0, 112), xticks=range(3), xticklabels=["R@1", "R@5", "R@10"])
            axes.grid(axis="y", alpha=0.3)
        panels[0].set_ylabel("%")
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def draw_text_to_image(queries: Sequence[TextQuery], images: Images, path: Path) -> None:
    """Draw a row of ranked images per caption.

    The correct image has a green frame.
    """
    figure = new_figure(3.2 + 1.7 * _RANKS, 1.9 * len(queries))
    panels: Any = figure.subplots(len(queries), 1 + _RANKS, squeeze=False, width_ratios=[1.9, *[1] * _RANKS])
    for row, query in zip(panels, queries, strict=True):
        for axes in row:
            hide(axes)
        text = "\n".join(textwrap.wrap(query.text, 30)[:6])
        row[0].text(0, 0.5, text, fontsize=11, va="center", transform=row[0].transAxes)
        for axes, (image, score) in zip(row[1:], query.ranked, strict=False):
            axes.set_axis_on()
            show_image(axes, images.find(image), RIGHT if image == query.target else WRONG)
            axes.set_title(f"{score:.2f}", fontsize=8)
    save(figure, path)


def draw_image_to_text(queries: Sequence[ImageQuery], images: Images, path: Path) -> None:
    """Draw a row of ranked captions per image.

    Correct captions are bold and green.
    """
    figure = new_figure(11, 1.9 * len(queries))
    panels: Any = figure.subplots(len(queries), 2, squeeze=False, width_ratios=[1, 4.5])
    for (left, right), query in zip(panels, queries, strict=True):
        show_image(left, images.find(query.image))
        hide(right)
        for position, (caption, score) in enumerate(query.ranked[:_RANKS]):
            correct = caption in query.targets
            right.text(
                0,
                0.9 - 0.2 * position,
                f"{score:6.2f}  {textwrap.shorten(caption, 110)}",
                fontsize=10,
                color=RIGHT if correct else "black",
                fontweight="bold" if correct else "normal",
                va="center",
                transform=right.transAxes,
            )
    save(figure, path)


def section(section: Section) -> list[Block]:
    """Return the elements of the section."""
    metrics = section.metrics()
    examples = read_examples(section.shown / "examples.json")
    rows: list[list[Cell]] = []
    for direction, short in {"text to image": "ir", "image to text": "tr"}.items():
        for stage, prefix in (("shortlist (ITC)", "itc_"), ("re-ranked (ITM)", "")):
            values = [metrics.get(f"{prefix}{short}_r{k}") for k in (1, 5, 10)]
            rows.append([direction, stage, *map(percent, values)])
    draw_recalls(metrics, section.out / "recall.svg")
    draw_text_to_image(examples.text_to_image, section.images, section.out / "text_to_image.png")
    draw_image_to_text(examples.image_to_text, section.images, section.out / "image_to_text.png")
    return [
        Text(
            "Test split: every caption against every image. The shortlist is ranked by the contrastive"
            " head (ITC), then re-ranked by the matching head (ITM)."
        ),
        Table(["direction", "ranking", "R@1 %", "R@5 %", "R@10 %"], rows),
        Image("recall.svg", "Recall of shortlist and re-ranking"),
        Text("Text to image", "heading"),
        Text("The correct image has a green frame; scores are above the images.", "note"),
        Image("text_to_image.png", "Images retrieved for captions"),
        Text("Image to text", "heading"),
        Text("Correct captions are green.", "note"),
        Image("image_to_text.png", "Captions retrieved for images"),
    ]
